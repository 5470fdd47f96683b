"""upsampled_pool in Triton: global_avg_max_pool of a map that is upsampled where it is read."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._maps import index_of, offsets_in_image, strides_of
from afa_kernels.triton_kernels._pool import combine, write
from afa_kernels.triton_kernels._rows import add_rows, of_rows
from afa_kernels.triton_kernels._upsampling import (
    coarse_pixels,
    factor_of,
    fine_pixels,
    neighbours,
    scattered_pixels,
    tap_of,
    upsampled,
    weight_of,
)


# One program reduces the own pixels of `steps` blocks of BLOCK_P pixels, BLOCK_C channels of one image, to a row of
# (N, parts, C): the sum, the maximum (NaN if there is one) and its first pixel of the fine map (the last NaN's).
@triton.jit(do_not_specialize=["steps"])
def _forward_kernel(
    y, taps, sums, maxima, indices,
    strides, channels, height, width, steps,
    FACTOR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    part, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    y += n * strides[0]
    c = tl.program_id(1).to(index) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    pixels = tl.cast(height, index) * width
    total = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    largest = tl.full([BLOCK_C, BLOCK_P], float("-inf"), arithmetic)
    first = tl.full([BLOCK_C, BLOCK_P], FACTOR * FACTOR, index) * pixels
    nan = tl.full([BLOCK_C, BLOCK_P], -1, index)
    for step in range(steps):
        _, i, j, inside_p = scattered_pixels(tl.program_id(0) * steps + step, pixels, width, BLOCK_P, index)
        inside = inside_c[:, None] & inside_p[None, :]
        near, exist = neighbours(y, strides, c, i, j, height, width, inside_c, inside_p, index)
        for tap in range((FACTOR // 2) * (FACTOR // 2)):
            for row in tl.static_range(1, 3):
                for column in tl.static_range(1, 3):
                    u, v = tap_of(row, column, tap, FACTOR)
                    p = fine_pixels(i, j, u, v, inside_p, height, width, FACTOR, index)[0]
                    value = upsampled(near, exist, taps, c, row, column, u, v, channels, inside_c, FACTOR, arithmetic)
                    total += value
                    value = tl.where(inside, value, float("-inf"))
                    at = tl.broadcast_to(p[None, :], value.shape)
                    better = (value > largest) | ((value == largest) & (at < first))
                    first = tl.where(better, at, first)
                    nan = tl.where(value != value, tl.maximum(nan, at), nan)
                    largest = tl.where(better, value, largest)
    at = ((n * tl.num_programs(0) + part) * channels + c)[:, None]
    write(total, largest, first.to(tl.int64), nan.to(tl.int64), sums, maxima, indices, at, inside_c[:, None])


# Of the taps along an axis the first f/2 lead out of the fine map at the first pixel, and the last f/2 at the last one.
@triton.jit
def _reaches(i, size, part: tl.constexpr):
    """Return whether the taps of the first, the middle or the last part are in the fine map, of the coarse pixels i."""
    inside = i < size
    if part == 0:
        inside = inside & (i > 0)
    if part == 2:
        inside = inside & (i < size - 1)
    return inside


@triton.jit
def _by_weights_of_part(
    grad, taps, c, channels, inside_c, part: tl.constexpr, FACTOR: tl.constexpr, arithmetic: tl.constexpr
):  # fmt: skip
    """Return the sum of `grad` times the weights of one of three parts of the rows and of the columns of the taps."""
    half: tl.constexpr = FACTOR // 2
    first_u: tl.constexpr = (part // 3 > 0) * half + (part // 3 > 1) * FACTOR
    first_v: tl.constexpr = (part % 3 > 0) * half + (part % 3 > 1) * FACTOR
    rows: tl.constexpr = FACTOR if part // 3 == 1 else half
    columns: tl.constexpr = FACTOR if part % 3 == 1 else half
    total = tl.zeros([c.shape[0], 1], arithmetic)
    for tap in range(rows * columns):
        weight = weight_of(taps, c, first_u + tap // columns, first_v + tap % columns, channels, inside_c, FACTOR)
        total += grad[:, None] * weight
    return total  # [BLOCK_C, 1]


# One program makes the gradient of BLOCK_P pixels, BLOCK_C channels of one image. That of the mean is the same for all
# fine pixels, so that by it a coarse one has the sum of the weights that reach the fine map. What it is to the weights,
# the sum of the pixels whose taps reach it, is a row of (N, rows, 9, C): of three parts of the taps along each axis.
@triton.jit(do_not_specialize=["rows"])
def _backward_kernel(
    grad_avg, grad_max, y, taps, indices, dy, sums,
    strides, channels, height, width, rows,
    FACTOR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    row, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    y += n * strides[0][0]
    if dy is not None:
        dy += n * strides[1][0]
    c = tl.program_id(1).to(index) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    p, i, j, inside_p = coarse_pixels(tl.program_id(0), tl.cast(height, index) * width, width, BLOCK_P, index)
    inside = inside_c[:, None] & inside_p[None, :]
    of_channel = n * channels + c
    dy_tile = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    if grad_avg is not None:
        of_all = tl.load(grad_avg + of_channel, mask=inside_c, other=0.0).to(arithmetic)
        of_all = of_all / (tl.cast(height, arithmetic) * width * (FACTOR * FACTOR))
        for part in tl.static_range(9):
            reaches = inside_p & _reaches(i, height, part // 3) & _reaches(j, width, part % 3)
            if dy is not None:
                given = _by_weights_of_part(of_all, taps, c, channels, inside_c, part, FACTOR, arithmetic)
                dy_tile += tl.where(reaches[None, :], given, 0.0)
        if sums is not None:
            y_tile = (
                tl.load(y + offsets_in_image(strides[0], c, p), mask=inside, other=0.0).to(arithmetic) * of_all[:, None]
            )
            first_part = (n * rows + row) * 9
            for part in tl.static_range(3):
                reaches = inside_p & _reaches(j, width, part)
                given = tl.sum(tl.where(reaches[None, :], y_tile, 0.0), axis=1)
                above, below = given, given
                first = tl.program_id(0) * BLOCK_P
                if first < width:  # some are in the first row
                    above = tl.sum(tl.where((reaches & (i > 0))[None, :], y_tile, 0.0), axis=1)
                if first + BLOCK_P > (height - 1) * width:  # some are in the last row
                    below = tl.sum(tl.where((reaches & (i < height - 1))[None, :], y_tile, 0.0), axis=1)
                tl.store(sums + ((first_part + part) * channels + c), above, mask=inside_c)
                tl.store(sums + ((first_part + 3 + part) * channels + c), given, mask=inside_c)
                tl.store(sums + ((first_part + 6 + part) * channels + c), below, mask=inside_c)
    if dy is not None:
        if grad_max is not None:
            of_largest = tl.load(grad_max + of_channel, mask=inside_c, other=0.0).to(arithmetic)
            place = tl.load(indices + of_channel, mask=inside_c, other=0).to(index)
            columns = FACTOR * width
            u = (place // columns).to(tl.int32)[:, None] - (FACTOR * i - FACTOR // 2)[None, :]
            v = (place % columns).to(tl.int32)[:, None] - (FACTOR * j - FACTOR // 2)[None, :]
            its_tap = inside & (u >= 0) & (u < 2 * FACTOR) & (v >= 0) & (v < 2 * FACTOR)
            at_tap = (u * (2 * FACTOR) + v) * tl.cast(channels, index) + c[:, None]
            weight = tl.load(taps + at_tap, mask=its_tap, other=0.0)
            dy_tile += tl.where(its_tap, of_largest[:, None] * weight, 0.0)
        tl.store(dy + offsets_in_image(strides[1], c, p), dy_tile.to(dy.dtype.element_ty), mask=inside)


# One program adds up what BLOCK_C weights have of the means, by rows of `sums`, and of the maximum of each image.
@triton.jit(do_not_specialize=["batch", "rows"])
def _weight_kernel(
    sums, grad_max, y, indices, grad_weight,
    strides, weight_strides, batch, channels, height, width, rows,
    FACTOR: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    of_image, of_channel, of_pixel = strides
    blocks = tl.cdiv(channels, BLOCK_C)
    tap = tl.program_id(0) // blocks
    u, v = tap // (2 * FACTOR), tap % (2 * FACTOR)
    half: tl.constexpr = FACTOR // 2
    c = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    total = tl.zeros([BLOCK_C], arithmetic)
    if sums is not None:
        part = 3 * ((u >= half).to(tl.int32) + (u >= half + FACTOR)) + (v >= half).to(tl.int32) + (v >= half + FACTOR)
        total += add_rows(
            sums + part.to(tl.int64) * channels, tl.cast(channels, tl.int64) * 9, rows, c, inside_c, BLOCK_B, BLOCK_C
        )
    if grad_max is not None:
        for n in range(batch):
            at = tl.cast(n, tl.int64) * channels + c
            place = tl.load(indices + at, mask=inside_c, other=0)
            row, column = place // (FACTOR * width) + half - u, place % (FACTOR * width) + half - v
            i, j = row // FACTOR, column // FACTOR
            there = inside_c & (row >= 0) & (column >= 0) & (i < height) & (j < width)
            there = there & (row % FACTOR == 0) & (column % FACTOR == 0)
            given = tl.load(
                y + tl.cast(n, tl.int64) * of_image + c * of_channel + (i * width + j) * of_pixel, mask=there, other=0.0
            ).to(arithmetic)
            of_largest = tl.load(grad_max + at, mask=inside_c, other=0.0).to(arithmetic)
            total += tl.where(there, of_largest * given, 0.0)
    to_channel, to_row, to_column = weight_strides
    at = c * to_channel + u.to(tl.int64) * to_row + v.to(tl.int64) * to_column
    tl.store(grad_weight + at, total.to(grad_weight.dtype.element_ty), mask=inside_c)


@sized(deep="nchw", avg="nc11", max="nc11", index="nc11")
@split_batch("weight")
def forward(deep: Tensor, weight: Tensor, avg: Tensor, max: Tensor, index: Tensor) -> None:
    batch, channels, height, width = deep.shape
    factor = factor_of(weight, deep)
    pixels = factor * factor * height * width
    tile = _tiles.of_upsampled_sums(channels, _tiles.channels_last(deep), deep.itemsize)
    blocks, channel_blocks = _tiles.cdiv(height * width, tile["BLOCK_P"]), _tiles.cdiv(channels, tile["BLOCK_C"])
    steps = _tiles.steps(blocks, blocks * channel_blocks, least=2)
    parts = _tiles.cdiv(blocks, steps)
    sums, maxima = (weight.new_empty((batch, parts, channels)) for _ in range(2))
    indices = weight.new_empty((batch, parts, channels), dtype=torch.int64)
    launch(
        _forward_kernel, (parts, channel_blocks, batch),
        deep, weight, sums, maxima, indices, layout.strides(deep), channels, height, width, steps,
        FACTOR=factor, **tile, index=index_of((deep,), pixels), arithmetic=arithmetic_of(deep),
    )  # fmt: skip
    combine(sums, maxima, indices, pixels, avg, max, index)


@sized(deep="nchw", grad_avg="nc11", grad_max="nc11", index="nc11")
def backward(
    grad_avg: Tensor | None,
    grad_max: Tensor | None,
    deep: Tensor,
    weight: Tensor,
    index: Tensor,
    needed: list[bool],
    grads: list[Tensor],
) -> None:
    grad_deep, grad_weight = spread(grads, needed)
    batch, channels, height, width = deep.shape
    factor = factor_of(weight, deep)
    tile = _tiles.of_upsampling(channels, _tiles.channels_last(deep), deep.itemsize)
    rows, sums = _tiles.cdiv(height * width, tile["BLOCK_P"]), None
    if grad_weight is not None and grad_avg is not None:
        sums = weight.new_empty((batch, rows, 9, channels))
    if grad_deep is not None or sums is not None:
        _backward(grad_avg, grad_max, deep, weight, index, grad_deep, sums, tile)
    if grad_weight is not None:
        add = of_rows(weight)
        launch(
            _weight_kernel, (4 * factor * factor * _tiles.cdiv(channels, add["BLOCK_C"]),),
            sums, grad_max, deep, index, grad_weight,
            layout.strides(deep), (grad_weight.stride(0), *grad_weight.stride()[2:]),
            batch, channels, height, width, batch * rows,
            FACTOR=factor, **add, arithmetic=arithmetic_of(deep),
        )  # fmt: skip


@split_batch("weight")
def _backward(
    grad_avg: Tensor | None,
    grad_max: Tensor | None,
    deep: Tensor,
    weight: Tensor,
    index: Tensor,
    grad_deep: Tensor | None,
    sums: Tensor | None,
    tile: dict[str, int],
) -> None:
    batch, channels, height, width = deep.shape
    factor, rows = factor_of(weight, deep), _tiles.cdiv(height * width, tile["BLOCK_P"])
    index_type = index_of((deep, grad_deep), factor * factor * height * width)
    launch(
        _backward_kernel, (rows, _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        grad_avg, grad_max, deep, weight, index, grad_deep, sums,
        strides_of((deep, grad_deep)), channels, height, width, rows,
        FACTOR=factor, **tile, index=index_type, arithmetic=arithmetic_of(deep),
    )  # fmt: skip
