"""bn_relu_project: in training, by the statistics of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import with_statistics as least
from benchmarks.ops._shapes import LAYOUTS, MAPS, SMALL, Shape, gpu_maps, layouts, name

__all__ = ["BY_NORM", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]

BY_NORM = True


def eager(hidden: Tensor, weight: Tensor, bias: Tensor, project_weight: Tensor, **norm: Any) -> Tensor:
    return F.conv2d(F.relu(F.batch_norm(hidden, weight=weight, bias=bias, **norm)), project_weight)


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    return 0


def call(shape: Shape, layout: str, covers: str = "") -> Case:
    channels = shape[1]
    return Case(
        "bn_relu_project",
        covers or name(shape),
        (shape, (channels,), (channels,), (1, channels, 1, 1)),
        {"running_mean": None, "running_var": None, "training": True},
        layouts=(layout, *3 * ("contiguous",)),
        names=("hidden", "weight", "bias", "project_weight"),
    )


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(shape, layout), True) for layout in layouts(size) for shape in MAPS[size]]


def gpu(quick: bool) -> list[Case]:
    return [call(shape, layout) for layout in LAYOUTS for shape in gpu_maps(quick)]


TRAFFIC = (call(SMALL, "contiguous", "training, NCHW"),)
