"""global_avg_max_pool: at the levels of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import pooled as least
from benchmarks.ops._shapes import LAYOUTS, MAPS, ODD, SMALL, Shape, gpu_maps, layouts, name

__all__ = ["ODD_CALL", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]


def eager(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    return 0


def call(shape: Shape, layout: str, covers: str = "") -> Case:
    return Case("global_avg_max_pool", covers or name(shape), (shape,), layouts=(layout,))


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(s, layout), training) for layout in layouts(size) for training in (False, True) for s in MAPS[size]]


def gpu(quick: bool) -> list[Case]:
    return [call(shape, layout) for layout in LAYOUTS for shape in gpu_maps(quick)]


ODD_CALL = call(ODD, "contiguous")
TRAFFIC = (call(SMALL, "contiguous", "NCHW"),)
