"""upsampled_fusion: at the levels of a network and at training crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import of_gates
from benchmarks.ops._bytes import once as least
from benchmarks.ops._shapes import LAYOUTS, MAPS, SMALL, Shape, gpu_maps, name

__all__ = ["MOST", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]


def eager(shallow: Tensor, deep: Tensor, weight: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> Tensor:
    up = F.conv_transpose2d(deep, weight, stride=2, padding=1, groups=deep.shape[1])
    a, b = torch.sigmoid(spatial_logits), torch.sigmoid(channel_logits)
    return a * (1 - b) * shallow + (1 - a) * b * up


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    return of_gates(arguments[3:], training)


def call(shape: Shape, layout: str, covers: str = "") -> Case:
    """Of a shallow map of that shape, and a deep one of half the size."""
    n, c, h, w = shape
    h, w = h // 2 * 2, w // 2 * 2
    shapes = ((n, c, h, w), (n, c, h // 2, w // 2), (c, 1, 4, 4), (n, 1, h, w), (n, c, 1, 1))
    return Case("upsampled_fusion", covers or name((n, c, h, w)), shapes, layouts=(layout,))


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(s, layout), training) for layout in LAYOUTS for training in (False, True) for s in MAPS[size]]


def gpu(quick: bool) -> list[Case]:
    return [call(shape, layout) for layout in LAYOUTS for shape in gpu_maps(quick)]


TRAFFIC = tuple(call(SMALL, layout, covers) for layout, covers in LAYOUTS.items())
# Of the traffic: backward adds its partial sums, those of 16 weights for each of its programs and in NCHW those of the
# spatial logits for every four channels, and reads them back.
MOST = {"backward": 1.2}
