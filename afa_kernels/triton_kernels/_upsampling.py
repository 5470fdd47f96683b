"""A depthwise transposed convolution on the fly: 2 f x 2 f weights a channel, strides of f and a padding of f/2.

A pixel of the fine map is made of two rows and two columns of the coarse one, and one of the coarse map is read by
2 f x 2 f pixels of the fine one, its taps. Along an axis tap u of the coarse pixel i is the fine pixel f i - f/2 + u.
The f taps from f/2 on are a pixel's own, which no other has: by them a program goes over the fine map.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels.triton_kernels._maps import offsets_in_image


@triton.jit
def coarse_pixels(first, pixels, width, BLOCK_P: tl.constexpr, index: tl.constexpr):
    """Return BLOCK_P pixels from the block `first` on, their rows and columns, and which there are."""
    p = tl.cast(first, index) * BLOCK_P + tl.arange(0, BLOCK_P)
    return p, (p // width).to(tl.int32), (p % width).to(tl.int32), p < pixels


@triton.jit
def scattered_pixels(first, pixels, width, BLOCK_P: tl.constexpr, index: tl.constexpr):
    """Return the `coarse_pixels`, but that they are neighbours, which the compiler is not to know.

    In NCHW it would give a thread several of them, and so of the fine pixels every second or so.
    """
    _, i, j, inside = coarse_pixels(first, pixels, width, BLOCK_P, index)
    i, j = tl.where(inside, i, 0), tl.where(inside, j, 0)
    return i.to(index) * width + j, i, j, inside


@triton.jit
def fine_pixels(i, j, u, v, inside, height, width, FACTOR: tl.constexpr, index: tl.constexpr):
    """Return the fine pixels at the tap (u, v) of the coarse ones (i, j), and which there are."""
    row, column = FACTOR * i - FACTOR // 2 + u, FACTOR * j - FACTOR // 2 + v
    rows, columns = FACTOR * height, FACTOR * width
    inside = inside & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return row.to(index) * columns + column, inside


@triton.jit
def weight_of(taps, c, u, v, channels, inside_c, FACTOR: tl.constexpr):
    """Return that of the tap (u, v) of the channels c, [BLOCK_C, 1]."""
    at = (u * (2 * FACTOR) + v) * tl.cast(channels, c.dtype) + c
    return tl.load(taps + at, mask=inside_c, other=0.0)[:, None]


@triton.jit
def tap_of(row, column, step, FACTOR: tl.constexpr):
    """Return a tap of the part in this row and column: of four by four parts each has f/2 by f/2 taps, one a step.

    Those of the two by two parts in the middle are a pixel's own.
    """
    half: tl.constexpr = FACTOR // 2
    return row * half + step // half, column * half + step % half


@triton.jit
def neighbours(y, strides, c, i, j, height, width, inside_c, inside_p, index: tl.constexpr):
    """Return three rows of three coarse pixels around (i, j) of an image as they are stored, and which there are."""
    values, exist = (), ()
    for k in tl.static_range(9):
        row, column = i + (k // 3 - 1), j + (k % 3 - 1)
        there = inside_p & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        there = inside_c[:, None] & there[None, :]
        at = offsets_in_image(strides, c, row.to(index) * width + column)
        values = values + (tl.load(y + at, mask=there, other=0.0),)
        exist = exist + (there,)
    return values, exist


@triton.jit
def upsampled(
    values, exist, taps, c, row: tl.constexpr, column: tl.constexpr, u, v, channels, inside_c,
    FACTOR: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Return the fine pixels at the own taps (u, v), of this part, by the `neighbours`: [BLOCK_C, BLOCK_P]."""
    value = tl.zeros(values[0].shape, arithmetic)
    for above in tl.static_range(2):
        for left in tl.static_range(2):
            given = values[(row - above) * 3 + column - left].to(arithmetic)
            weight = weight_of(
                taps, c, u % FACTOR + above * FACTOR, v % FACTOR + left * FACTOR, channels, inside_c, FACTOR
            )  # fmt: skip
            more = tl.fma(tl.broadcast_to(weight, value.shape), given, value)
            value = tl.where(exist[(row - above) * 3 + column - left], more, value)
    return value


def factor_of(taps: Tensor, coarse: Tensor) -> int:
    """Return the factor of the weights (2 f, 2 f, C) that a kernel takes, which must be those of the coarse map."""
    factor = taps.shape[0] // 2
    if taps.shape != (2 * factor, 2 * factor, coarse.shape[1]):
        raise ValueError(f"weight must have the shape (2 f, 2 f, {coarse.shape[1]}), got {tuple(taps.shape)}")
    return factor
