"""resized_fusion: of three levels, each half as high and as wide as the next, as DLA's level fusion has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from afa_kernels.testing import Case, tensors
from benchmarks.ops import progressive_fusion
from benchmarks.ops._bytes import once as least
from benchmarks.ops._bytes import size
from benchmarks.ops._shapes import LAYOUTS, MAPS, SMALL, Shape, gpu_maps, layouts, name, resize

__all__ = ["MOST", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]

LEVELS = 3


def eager(features: Sequence[Tensor], spatial_logits: Sequence[Tensor], channel_logits: Sequence[Tensor]) -> Tensor:
    up = [resize(x, spatial_logits[0].shape[2:]) for x in features]
    return progressive_fusion.eager(up, spatial_logits, channel_logits)


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    """Two values for every logit, which count once, and in backward what reaches every pixel's weights."""
    return (3 if training else 1) * 4 * size(tensors(arguments[1:]))


def call(shape: Shape, layout: str, covers: str = "") -> Case:
    """Of levels of which the finest has that shape."""
    n, c, h, w = shape
    features: list[Shape] = [(n, c, -(-h >> k), -(-w >> k)) for k in reversed(range(LEVELS))]
    shapes: tuple[list[Shape], ...] = (features, [(n, 1, h, w)] * LEVELS, [(n, c, 1, 1)] * LEVELS)
    return Case("resized_fusion", covers or f"{name(shape)}, {LEVELS} levels", shapes, layouts=(layout,))


def workloads(size_of_run: str) -> list[tuple[Case, bool]]:
    return [
        (call(shape, layout), training)
        for layout in layouts(size_of_run)
        for training in (False, True)
        for shape in MAPS[size_of_run]
    ]


def gpu(quick: bool) -> list[Case]:
    return [call(shape, layout) for layout in LAYOUTS for shape in gpu_maps(quick)]


TRAFFIC = (call(SMALL, "contiguous", "three levels, NCHW"),)
# Of the traffic: backward writes the weights of the pixels, reads the gradient once more for every coarse level, and
# writes and reads what its rows are summed up to.
MOST = {"backward": 2.0}
