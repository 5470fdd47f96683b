"""Maps that are computed in NCHW, whatever format they have: copied from channels_last, and back.

What resizes on the fly reads four neighbours of a pixel for each channel: along a row of NCHW they lie side by side for
the threads of a warp. In channels_last the indices of a pixel would be made anew for every few channels, and on a GPU a
rendering of 19 classes took four times as long. The copy costs a read and a write of the map, and holds another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import launch
from afa_kernels.triton_kernels._maps import offsets


# One program copies BLOCK_P pixels of BLOCK_C channels of one image.
@triton.jit
def _copy_kernel(
    x, out, strides, out_strides, channels, pixels, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr
):  # fmt: skip
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = (c < channels)[:, None] & (p < pixels)[None, :]
    tile = tl.load(x + offsets(strides, n, c, p), mask=inside)
    tl.store(out + offsets(out_strides, n, c, p), tile, mask=inside)


def copy(x: Tensor, out: Tensor) -> None:
    """Copy a map into another of the same shape and type and of any memory format, if it is not the same one."""
    if x is out:
        return
    batch, channels, height, width = x.shape
    pixels = height * width
    tile = _tiles.of_copy(channels)
    launch(
        _copy_kernel, (_tiles.cdiv(pixels, tile["BLOCK_P"]), _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        x, out, layout.strides(x), layout.strides(out), channels, pixels, **tile,
    )  # fmt: skip


def empty_nchw(out: Tensor) -> Tensor:
    """Return where to compute `out`: there, or in an empty map in NCHW if its pixels do not lie side by side."""
    nchw = out.shape[2] * out.shape[3] == 1 or layout.strides(out)[2] == 1
    return out if nchw else torch.empty(out.shape, dtype=out.dtype, device=out.device)


def as_nchw(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the maps in NCHW: themselves, or copies of those whose pixels do not lie side by side."""
    found = []
    for x in maps:
        found.append(empty_nchw(x))
        copy(x, found[-1])
    return found
