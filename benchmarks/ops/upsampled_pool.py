"""upsampled_pool: at the levels of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import once as least
from benchmarks.ops._shapes import LAYOUTS, MAPS, SMALL, Shape, gpu_maps, layouts, name

__all__ = ["MOST", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]


def eager(deep: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    up = F.conv_transpose2d(deep, weight, stride=2, padding=1, groups=deep.shape[1])
    return F.adaptive_avg_pool2d(up, 1), F.adaptive_max_pool2d(up, 1)


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    return 0


def call(shape: Shape, layout: str, covers: str = "") -> Case:
    """Of a map of half that size."""
    n, c, h, w = shape
    half = (n, c, h // 2, w // 2)
    return Case("upsampled_pool", covers or name(half), (half, (c, 1, 4, 4)), layouts=(layout,))


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(s, layout), training) for layout in layouts(size) for training in (False, True) for s in MAPS[size]]


def gpu(quick: bool) -> list[Case]:
    return [call(shape, layout) for layout in LAYOUTS for shape in gpu_maps(quick)]


TRAFFIC = (call(SMALL, "contiguous", "NCHW"),)
# Of the traffic, on a map so small that its parts are no little: forward adds those of its sums and maxima, backward
# those of nine sums of pixels, and each reads them back.
MOST = {"forward": 1.35, "backward": 1.25}
