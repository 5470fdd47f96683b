"""Ways to make one boundary map of those at several scales. All but the first two learn, with heads of the same size.

Each is a module: `fusion(scales)` -> boundary probabilities (1, 1, H, W), of `Scales`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels import hierarchical_fusion
from afa_kernels.nn import ScaleSpaceRendering, SpatialAttention
from examples.boundary_detection.scales import FEATURES, Scales
from examples.training import load

WIDTH = 16  # channels inside a head
SCALES = (0.5, 1.0, 1.5)
HEAD = Path(__file__).parent / "ssr_head.pt"


def load_head(path: Path = HEAD) -> ScaleSpaceRendering:
    """The attention head for `SCALES` that `train.py --head` wrote, in evaluation mode."""
    head = ScaleSpaceRendering(FEATURES, WIDTH)
    head.load_state_dict(load(path, None)["model"])
    return head.eval().requires_grad_(False)


class Single(nn.Module):
    """Scale 1.0 alone."""

    def __init__(self, scales: Sequence[float]) -> None:
        super().__init__()
        self.index = list(scales).index(1.0)

    def forward(self, scales: Scales) -> Tensor:
        return scales.predictions[self.index]


class Mean(nn.Module):
    """The mean of the scales' probabilities."""

    def __init__(self, _: Sequence[float]) -> None:
        super().__init__()

    def forward(self, scales: Scales) -> Tensor:
        return torch.stack(_at_image_size(scales)).mean(0)


class Softmax(nn.Module):
    """The mean of the scales, weighted at every pixel by the softmax of what a head says of each."""

    def __init__(self, _: Sequence[float]) -> None:
        super().__init__()
        self.head = SpatialAttention(FEATURES, bottleneck_channels=WIDTH, activation=None)

    def forward(self, scales: Scales) -> Tensor:
        weights = torch.cat([self.head.logits(f) for f in scales.features], dim=1).softmax(1)
        return (_resized(weights, scales.size) * torch.cat(_at_image_size(scales), dim=1)).sum(1, keepdim=True)


class HMA(nn.Module):
    """Hierarchical multi-scale attention: from scale to scale, sigmoid of what a head says decides between them."""

    def __init__(self, scales: Sequence[float]) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.head = SpatialAttention(FEATURES, bottleneck_channels=WIDTH, activation=None)

    def forward(self, scales: Scales) -> Tensor:
        attention = [self.head.logits(f).sigmoid() for f in scales.features]
        return hierarchical_fusion(scales.predictions, attention, self.scales, size=scales.size)


class SSR(nn.Module):
    """Scale-space rendering, whose head says how opaque each scale is."""

    def __init__(self, scales: Sequence[float]) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.head = ScaleSpaceRendering(FEATURES, WIDTH)

    def forward(self, scales: Scales) -> Tensor:
        return self.head(scales.predictions, scales.features, self.scales, scales.size)


class Plain(nn.Module):
    """No attention: a small network sees the features of all scales at once and says the boundary itself.

    What it says is added to the mean of the scales' logits, with which it begins.
    """

    def __init__(self, scales: Sequence[float]) -> None:
        super().__init__()
        self.head = SpatialAttention(FEATURES * len(scales), bottleneck_channels=WIDTH, activation=None)
        nn.init.zeros_(self.head.get_parameter("final.0.weight"))

    def forward(self, scales: Scales) -> Tensor:
        logits = torch.stack([p.clamp(1e-4, 1 - 1e-4).logit() for p in _at_image_size(scales)]).mean(0)
        return (logits + _resized(self.head.logits(torch.cat(scales.features, dim=1)), scales.size)).sigmoid()


FUSIONS: dict[str, type[nn.Module]] = {
    "single": Single,
    "mean": Mean,
    "softmax": Softmax,
    "hma": HMA,
    "ssr": SSR,
    "plain": Plain,
}


def _at_image_size(scales: Scales) -> list[Tensor]:
    return [_resized(p, scales.size) for p in scales.predictions]


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
