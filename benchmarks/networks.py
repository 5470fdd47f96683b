"""The network that is measured in training: a DLA-34-shaped up-path, the fusion of its levels, and a loss.

AFADLAUp over channels 32 to 512 and the fusion of its three finest levels. The same network three times, with the same
parameters: on the chosen backend; on the backend "reference", which is plain PyTorch; and composed as in the official
code, where every batch norm and ReLU is a module that saves for itself.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import afa_kernels
from afa_kernels.models import AFADLAUp, AFALevelFusion
from afa_kernels.nn import attention

CHANNELS, BATCH, CLASSES = (32, 64, 128, 256, 512), 3, 19


class OfficialNorm(nn.BatchNorm2d):
    """A batch norm that no operation of this package takes for its own."""


class Network(nn.Module):
    def __init__(self, norm: Any = "bn", channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        self.up = AFADLAUp(channels, [2**i for i in range(len(channels))], norm=norm)
        self.fusion = AFALevelFusion(channels[2::-1], norm)
        self.classes = nn.Conv2d(channels[0], CLASSES, 1)

    def predict(self, levels: list[Tensor]) -> Tensor:
        return self.classes(self.fusion(self.up(levels)[1:]))

    def forward(self, levels: list[Tensor], target: Tensor) -> Tensor:
        return F.cross_entropy(self.predict(levels), target)


def networks(channels: Sequence[int] = CHANNELS) -> dict[str, tuple[Network, str | None]]:
    """Return each network with its backend."""
    torch.manual_seed(0)
    ours, official = Network(channels=channels), Network(OfficialNorm, channels)
    official.load_state_dict(ours.state_dict())
    return {
        "afa_kernels": (ours, None),
        "reference backend": (copy.deepcopy(ours), "reference"),
        "official composition": (official, "official"),
    }


def on(backend: str | None) -> contextlib.AbstractContextManager[Any]:
    """Run on a backend, the automatic choice for None, or what the official code has for "official"."""
    if backend == "official":
        return _official()
    return contextlib.nullcontext() if backend is None else afa_kernels.use_backend(backend)


@contextlib.contextmanager
def _official() -> Iterator[None]:
    """Plain PyTorch, with the official poolings where the reference has a faster one."""
    with afa_kernels.use_backend("reference"), mock.patch.object(attention, "global_avg_max_pool", _poolings):
        yield


def _poolings(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)


def data(
    height: int, width: int, batch: int = BATCH, channels: Sequence[int] = CHANNELS
) -> tuple[list[Tensor], Tensor]:
    """Return levels for an image of that size, and a target that can be learned from the finest."""
    generator = torch.Generator().manual_seed(1)
    levels = [
        torch.randn(batch, c, height >> (i + 1), width >> (i + 1), generator=generator) for i, c in enumerate(channels)
    ]
    return levels, levels[0][:, :CLASSES].argmax(1)
