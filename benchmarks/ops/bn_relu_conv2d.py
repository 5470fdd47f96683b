"""bn_relu_conv2d: the 3x3 convolution of spatial attention, in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import with_statistics as least
from benchmarks.ops._shapes import LAYOUTS, MAPS, SMALL, Shape, gpu_maps, layouts, name

__all__ = ["BY_NORM", "TRAFFIC", "eager", "gpu", "least", "prepare", "workloads"]

BY_NORM = True


def eager(
    hidden: Tensor, weight: Tensor, bias: Tensor, conv_weight: Tensor, *, padding: int = 0, **norm: Any
) -> Tensor:
    normalised = F.batch_norm(hidden, weight=weight, bias=bias, **norm)
    return F.conv2d(F.relu(normalised), conv_weight, padding=padding)


def prepare(arguments: Sequence[Tensor]) -> None:
    """Weights by their number of inputs, as they are initialised: the sums stay in the range of half types."""
    weight = arguments[3]
    weight.mul_(weight[0].numel() ** -0.5)


def call(shape: Shape, layout: str, covers: str = "") -> Case:
    channels = shape[1]
    return Case(
        "bn_relu_conv2d",
        covers or name(shape),
        (shape, (channels,), (channels,), (channels, channels, 3, 3)),
        {"running_mean": None, "running_var": None, "training": True, "padding": 1},
        layouts=(layout, "contiguous", "contiguous", layout),
        names=("hidden", "weight", "bias", "conv_weight"),
    )


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(shape, layout), True) for layout in layouts(size) for shape in MAPS[size]]


def gpu(quick: bool) -> list[Case]:
    return [call(shape, layout) for layout in LAYOUTS for shape in gpu_maps(quick)]


TRAFFIC = (call(SMALL, "contiguous", "training, NCHW"),)
# Of the traffic: the map is read for its statistics, and the rectified map written and read by the convolution. In
# backward that is made again, and its gradient is written, and read for the sums and for the gradient of the map.
MOST = {"forward": 1.58, "backward": 1.92}
