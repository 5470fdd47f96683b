"""resized_labels: of a head at a quarter of the image's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import once as least
from benchmarks.ops._shapes import CLASSES, LAYOUTS, SCORES, Shape, layouts, name, resize

__all__ = ["TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]


def eager(logits: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Labels of 64 bits, which is what argmax gives."""
    return resize(logits, size).argmax(1)


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    return 0


def head(shape: Shape, layout: str = "contiguous") -> Case:
    """The call for an image of `shape`."""
    n, classes, height, width = shape
    logits: Shape = (n, classes, height // 4, width // 4)
    options = {"size": (height, width), "dtype": torch.int64}
    return Case("resized_labels", name((n, classes, height, width)), (logits,), options, (layout,))


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(head(shape, layout), False) for layout in layouts(size) for shape in SCORES[size]]


def gpu(quick: bool) -> list[Case]:
    shapes: list[Shape] = [(1, CLASSES, 32, 52)] if quick else [*SCORES["headline"], (16, 150, 512, 512)]
    return [head(shape, layout) for layout in LAYOUTS for shape in shapes]


TRAFFIC = (head((1, 8, 32, 64)),)
