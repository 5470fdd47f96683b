"""attentive_fusion: at the levels of a network and at training crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import of_gates
from benchmarks.ops._bytes import once as least
from benchmarks.ops._shapes import LAYOUTS, MAPS, ODD, SMALL, Shape, gpu_maps, name

__all__ = ["MOST", "ODD_CALL", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]


def eager(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> Tensor:
    a, b = torch.sigmoid(spatial_logits), torch.sigmoid(channel_logits)
    return a * (1 - b) * shallow + (1 - a) * b * deep


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    return of_gates(arguments[2:], training)


def call(shape: Shape, layout: str, covers: str = "") -> Case:
    n, c, h, w = shape
    return Case(
        "attentive_fusion", covers or name(shape), (shape, shape, (n, 1, h, w), (n, c, 1, 1)), layouts=(layout,)
    )


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(s, layout), training) for layout in LAYOUTS for training in (False, True) for s in MAPS[size]]


def gpu(quick: bool) -> list[Case]:
    return [call(shape, layout) for layout in LAYOUTS for shape in gpu_maps(quick)]


ODD_CALL = call(ODD, "contiguous")
TRAFFIC = tuple(call(SMALL, layout, covers) for layout, covers in LAYOUTS.items())
# Of the traffic: backward adds its partial sums and reads them back.
MOST = {"backward": 1.02 + 2 / 256}
