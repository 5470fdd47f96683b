"""What poolings share: the sum, the maximum and its first pixel of a tile, and then of all parts of a map."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch
from afa_kernels.triton_kernels._rows import of_rows


@triton.jit
def write(total, largest, index, nan, sums, maxima, indices, at, inside):
    """Reduce each row to one value and write it: the sum, the maximum and its first index, or the last NaN."""
    row_largest = tl.max(largest, axis=1)[:, None]
    first = tl.min(tl.where(largest == row_largest, index, 1 << 62), axis=1)[:, None]
    last_nan = tl.max(nan, axis=1)[:, None]
    row_largest = tl.where(last_nan >= 0, float("nan"), row_largest)
    tl.store(sums + at, tl.sum(total, axis=1)[:, None].to(sums.dtype.element_ty), mask=inside)
    tl.store(maxima + at, row_largest.to(maxima.dtype.element_ty), mask=inside)
    tl.store(indices + at, tl.where(last_nan >= 0, last_nan, first), mask=inside)


# One program combines the parts of BLOCK_C channels of one image.
@triton.jit(do_not_specialize=["parts"])
def _combine_kernel(
    sums, maxima, indices, avg, max, index,
    channels, pixels, parts,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]
    total = tl.zeros([BLOCK_C, BLOCK_B], arithmetic)
    largest = tl.full([BLOCK_C, BLOCK_B], float("-inf"), arithmetic)
    found = tl.zeros([BLOCK_C, BLOCK_B], tl.int64)
    nan = tl.full([BLOCK_C, BLOCK_B], -1, tl.int64)
    for first in range(0, parts, BLOCK_B):
        part = first + tl.arange(0, BLOCK_B)[None, :]
        at = (n * parts + part) * channels + c
        inside = (part < parts) & (c < channels)
        total += tl.load(sums + at, mask=inside, other=0.0)
        value = tl.load(maxima + at, mask=inside, other=float("-inf"))
        where = tl.load(indices + at, mask=inside, other=0)
        better = value > largest
        found = tl.where(better, where, found)
        nan = tl.where(value != value, where, nan)
        largest = tl.where(better, value, largest)
    write(total / pixels, largest, found, nan, avg, max, index, n * channels + c, c < channels)


def combine(
    sums: Tensor, maxima: Tensor, indices: Tensor, pixels: int, avg: Tensor, max: Tensor, index: Tensor
) -> None:
    """Write the mean, the maximum and its place of all parts (N, parts, C), which have so many pixels."""
    batch, parts, channels = sums.shape
    rows = of_rows(sums)
    launch(
        _combine_kernel, (_tiles.cdiv(channels, rows["BLOCK_C"]), batch),
        sums, maxima, indices, avg, max, index, channels, pixels, parts,
        **rows, arithmetic=arithmetic_of(sums),
    )  # fmt: skip
