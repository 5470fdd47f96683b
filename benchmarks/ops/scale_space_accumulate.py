"""scale_space_accumulate: a scale after the first, at the size of multi-scale inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels.ops.scale_space_accumulate import scale_space_accumulate
from afa_kernels.testing import Case
from benchmarks.ops._bytes import once, size
from benchmarks.ops._shapes import CLASSES, LAYOUTS, SCORES, Shape, layouts, name, resize

__all__ = ["TRAFFIC", "eager", "gpu", "least", "ours", "prepare", "scratch", "types", "workloads"]


def eager(
    rendered: Tensor, transmittance: Tensor, prediction: Tensor, weight: Tensor, first: bool
) -> tuple[Tensor, Tensor]:
    at = rendered.shape[2], rendered.shape[3]
    opacity = resize(weight, at)
    return rendered + transmittance * opacity * resize(prediction, at), transmittance * (1 - opacity)


def ours(
    rendered: Tensor, transmittance: Tensor, prediction: Tensor, weight: Tensor, first: bool
) -> tuple[Tensor, Tensor]:
    """The operation, which writes to its first two arguments."""
    scale_space_accumulate(rendered, transmittance, prediction, weight, first)
    return rendered, transmittance


def prepare(arguments: Sequence[Tensor]) -> None:
    """Opacities so small that a thousand calls leave a transmittance of the same magnitude."""
    arguments[3].mul_(1e-3)


def types(dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """Everything but the prediction is float32 at least."""
    wide = torch.promote_types(dtype, torch.float32)
    return wide, wide, dtype, wide


def least(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> dict[str, int]:
    """Everything read once; the rendering and the transmittance written, although only the first is returned."""
    return {"forward": once(case, arguments, ())["forward"] + size(arguments[:2])}


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    return 0


def call(shape: Shape, layout: str = "contiguous", covers: str = "") -> Case:
    """Return a call of which prediction and weight have half the height and width of the rendering."""
    n, c, h, w = shape
    shapes = (shape, (n, 1, h, w), (n, c, h // 2, w // 2), (n, 1, h // 2, w // 2))
    layouts = (layout, "contiguous", layout, "contiguous")
    return Case("scale_space_accumulate", covers or name(shape), shapes, {"first": False}, layouts)


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(shape, layout), False) for layout in layouts(size) for shape in SCORES[size]]


def gpu(quick: bool) -> list[Case]:
    images = ((30, 54),) if quick else ((1024, 2048), (512, 1024))
    return [call((1, CLASSES, *image), layout) for layout in LAYOUTS for image in images]


TRAFFIC = (call((1, 8, 16, 64), covers="a second scale, 8 classes"),)
