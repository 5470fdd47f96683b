"""Where the values of a tile of maps (N, C, H, W) lie."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout


@triton.jit
def offsets(strides, n, c, p):
    """Return those of the channels c and the pixels p of image n, [BLOCK_C, BLOCK_P]; all three have 64 bits."""
    map_n, map_c, map_p = strides
    return n * map_n + c[:, None] * map_c + p[None, :] * map_p


@triton.jit
def offsets_in_image(strides, c, p):
    """Return the same without that of the image, in the type of c and p, which is that of `index_of`."""
    return c[:, None] * strides[1] + p[None, :] * strides[2]


def index_of(maps: Sequence[Tensor | None], pixels: int = 0) -> tl.dtype:
    """Return the type of offsets inside an image of each, and of so many `pixels`: of 32 bits, which a GPU adds at
    once, if they fit."""
    last = [pixels]
    for x in maps:
        if x is not None:
            _, of_channel, of_pixel = layout.strides(x)
            last.append((x.shape[1] - 1) * of_channel + x.shape[2] * x.shape[3] * of_pixel)
    return tl.int32 if max(last) < 2**31 else tl.int64


def strides_of(maps: Sequence[Tensor | None]) -> tuple[tuple[int, int, int], ...]:
    """Return those of image, channel and pixel of every map; zeros where there is none."""
    return tuple((0, 0, 0) if x is None else layout.strides(x) for x in maps)
