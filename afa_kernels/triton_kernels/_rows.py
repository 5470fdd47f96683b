"""The second stage of a sum: the rows of partial sums, one for each program of the first, are added up."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import launch, split_batch


def of_rows(sums: Tensor, inputs: int = 1) -> dict[str, Any]:
    """Return the tile of a program that adds up rows: few channels of many, so that its steps are few.

    The channels of a row are 32 bytes, which is what a load from memory fetches. The rows of several `inputs` are added
    up side by side, in registers.
    """
    block_c = 32 // sums.itemsize
    if inputs > 4:
        return {"BLOCK_B": 32, "BLOCK_C": block_c, "num_warps": 4}
    return {"BLOCK_B": 512 if inputs == 1 else 32 * block_c, "BLOCK_C": block_c, "num_warps": 8}


@triton.jit
def load_rows(sums, stride, first, rows, c, inside_c, BLOCK_B: tl.constexpr):
    """Return the channels c of the rows from `first` on, which lie `stride` apart; zeros behind the last."""
    row = first + tl.arange(0, BLOCK_B).to(tl.int64)[:, None]
    return tl.load(sums + row * stride + c[None, :], mask=(row < rows) & inside_c[None, :], other=0.0)


@triton.jit
def add_rows(sums, stride, rows, c, inside_c, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return the sums of the channels c, [BLOCK_C], over `rows` rows that lie `stride` apart."""
    total = tl.zeros([BLOCK_B, BLOCK_C], sums.dtype.element_ty)
    for first in range(0, rows, BLOCK_B):
        total += load_rows(sums, stride, first, rows, c, inside_c, BLOCK_B)
    return tl.sum(total, axis=0)


# One program adds up the rows of BLOCK_C channels of one image.
@triton.jit(do_not_specialize=["rows"])
def _channel_kernel(channel_sums, out, channels, rows, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr):
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    total = add_rows(channel_sums + n * rows * channels, channels, rows, c, inside_c, BLOCK_B, BLOCK_C)
    tl.store(out + n * channels + c, total.to(out.dtype.element_ty), mask=inside_c)


@split_batch()
def sum_rows(channel_sums: Tensor, out: Tensor) -> None:
    """Write the sums of the rows (N, rows, C) to `out` (N, C, 1, 1)."""
    batch, rows, channels = channel_sums.shape
    add = of_rows(channel_sums)
    launch(
        _channel_kernel, (_tiles.cdiv(channels, add["BLOCK_C"]), batch),
        channel_sums, out, channels, rows, **add,
    )  # fmt: skip
