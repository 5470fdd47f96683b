"""scale_space_labels: of five scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops import scale_space_render
from benchmarks.ops._bytes import once as least
from benchmarks.ops._bytes import size as bytes_of
from benchmarks.ops._shapes import INFERENCE, LAYOUTS, Pyramid, gpu_pyramids, layouts, pyramid, small_pyramid

__all__ = ["COUNTED", "MOST", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]

OP = "scale_space_labels"


def eager(predictions: Sequence[Tensor], logits: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Labels of 64 bits, which is what argmax gives."""
    return scale_space_render.eager(predictions, logits, size).argmax(1)


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    """The weights at attention resolution, written and read back."""
    return 2 * bytes_of(arguments[1:])


def call(of: Pyramid, layout: str) -> Case:
    return pyramid(OP, of, layout, dtype=torch.int64)


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(of, layout), False) for layout in layouts(size) for of in INFERENCE[size]]


def gpu(quick: bool) -> list[Case]:
    return [call(of, layout) for layout in LAYOUTS for of in gpu_pyramids(quick)]


TRAFFIC = (small_pyramid(OP, dtype=torch.int64),)
COUNTED = (small_pyramid(OP, "channels_last", dtype=torch.int64),)
# Of the traffic: as of scale_space_render.
MOST = {"forward": 1.25}
