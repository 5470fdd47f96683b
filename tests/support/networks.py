"""Networks of few channels, for what is asked of whole networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from afa_kernels import models

KINDS: dict[str, dict[str, Any]] = {
    "one scale": {},
    "ssr": {"fuse": "ssr", "scales": (0.5, 1.0, 1.5)},
    "hma": {"fuse": "hma", "scales": (0.5, 1.0, 1.5)},
    "ocr": {"fuse": "ssr", "ocr": True, "scales": (0.5, 1.0), "mid_channels": 32, "key_channels": 16},
}


class Pyramid(nn.Module):
    channels, reductions = (16, 16, 24, 32), (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *self.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, s, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b, s in zip(inputs, self.channels, (4, 2, 2, 2))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


def small(**options: Any) -> models.Segmentation:
    """A network of few channels over an encoder of one's own."""
    torch.manual_seed(0)
    return models.afa_up(Pyramid(), num_classes=5, **options)


def without_dropout(net: nn.Module) -> nn.Module:
    for dropout in (m for m in net.modules() if isinstance(m, nn.Dropout2d)):
        dropout.p = 0.0
    return net
