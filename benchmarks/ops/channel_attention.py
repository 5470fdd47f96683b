"""channel_attention: in evaluation mode, and on a GPU in training too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import pooled as least
from benchmarks.ops._shapes import LAYOUTS, MAPS, SMALL, Shape, gpu_maps, layouts, name

__all__ = ["BY_NORM", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]

BY_NORM = True


def eager(x: Tensor, conv1_weight: Tensor, weight: Tensor, bias: Tensor, conv2_weight: Tensor, **norm: Any) -> Tensor:
    pools = F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)
    normalised = (F.batch_norm(F.conv2d(v, conv1_weight), weight=weight, bias=bias, **norm) for v in pools)
    first, second = (F.conv2d(F.relu(y), conv2_weight) for y in normalised)
    return first + second


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    return 0


def prepare(arguments: Sequence[Tensor]) -> None:
    """Biases that open the ReLUs of the average, which is almost 0: else an output may be 0 altogether."""
    arguments[3].abs_()


def call(shape: Shape, layout: str, covers: str = "", training: bool = False) -> Case:
    channels = shape[1]
    hidden = max(1, channels // 16)
    shapes = (shape, (hidden, channels, 1, 1), (hidden,), (hidden,), (channels, hidden, 1, 1))
    statistics = torch.zeros(hidden), torch.ones(hidden)
    options = {**dict(zip(("running_mean", "running_var"), statistics)), "training": training}
    return Case(
        "channel_attention",
        covers or name(shape) + (", training" if training else ""),
        shapes,
        options,
        layouts=(layout, *4 * ("contiguous",)),
        names=("x", "conv1_weight", "weight", "bias", "conv2_weight"),
    )


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(s, layout), training) for layout in layouts(size) for training in (False, True) for s in MAPS[size]]


def gpu(quick: bool) -> list[Case]:
    shapes = gpu_maps(quick)
    found = [call(shape, layout) for layout in LAYOUTS for shape in shapes]
    return found + [call(s, layout, training=True) for layout in LAYOUTS for s in shapes if s[0] > 1]


TRAFFIC = (call(SMALL, "contiguous", "evaluation, NCHW"),)
# Of the traffic.
MOST = {"backward": 1.05}
