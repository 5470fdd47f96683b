"""global_avg_max_pool in Triton: the mean and the first maximum of every channel, from one read and without atomics."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch
from afa_kernels.triton_kernels._pool import combine, write


# One program reduces `steps` blocks of BLOCK_P pixels of BLOCK_C channels of one image, and writes the sum, the maximum
# (NaN if there is one) and its first pixel (the last NaN's) to its own row of (N, parts, C).
@triton.jit(do_not_specialize=["steps"])
def _forward_kernel(
    x, sums, maxima, indices,
    strides, channels, pixels, steps,
    TOGETHER: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    x_n, x_c, x_p = strides
    part = tl.program_id(0).to(tl.int64)
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]
    total = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    largest = tl.full([BLOCK_C, BLOCK_P], float("-inf"), arithmetic)
    step_of_largest = tl.zeros([BLOCK_C, BLOCK_P], tl.int32)
    step_of_nan = tl.full([BLOCK_C, BLOCK_P], -1, tl.int32)
    lane = part * steps * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    for first in range(0, steps, TOGETHER):
        for i in tl.static_range(TOGETHER):
            step = first + i
            p = lane + step * BLOCK_P
            inside = (c < channels) & (p < pixels)
            tile = tl.load(x + n * x_n + c * x_c + p * x_p, mask=inside, other=float("-inf")).to(arithmetic)
            total += tl.where(inside, tile, 0.0)
            better = tile > largest
            step_of_largest = tl.where(better, step, step_of_largest)
            step_of_nan = tl.where(tile != tile, step, step_of_nan)
            largest = tl.where(better, tile, largest)
    index = lane + step_of_largest.to(tl.int64) * BLOCK_P
    nan = tl.where(step_of_nan >= 0, lane + step_of_nan.to(tl.int64) * BLOCK_P, -1)
    write(
        total, largest, index, nan, sums, maxima, indices, (n * tl.num_programs(0) + part) * channels + c, c < channels
    )


# One program writes BLOCK_P pixels of BLOCK_C channels of one image.
@triton.jit
def _backward_kernel(
    grad_avg, grad_max, index, grad_x,
    strides, channels, pixels,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    x_n, x_c, x_p = strides
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    at, inside_c = n * channels + c, c < channels
    value = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    if grad_avg is not None:
        value += tl.load(grad_avg + at, mask=inside_c, other=0.0).to(arithmetic) / pixels
    if grad_max is not None:
        first = tl.load(index + at, mask=inside_c, other=-1)
        value += tl.where(p == first, tl.load(grad_max + at, mask=inside_c, other=0.0).to(arithmetic), 0.0)
    tl.store(grad_x + n * x_n + c * x_c + p * x_p, value.to(grad_x.dtype.element_ty), mask=inside_c & (p < pixels))


@sized(x="nchw", avg="nc11", max="nc11")
@split_batch()
def forward(x: Tensor, avg: Tensor, max: Tensor, index: Tensor) -> None:
    batch, channels, height, width = x.shape
    pixels = height * width
    tile = _tiles.of_reduction(channels, _tiles.channels_last(x), x.itemsize)
    blocks, channel_blocks = _tiles.cdiv(pixels, tile["BLOCK_P"]), _tiles.cdiv(channels, tile["BLOCK_C"])
    steps = _tiles.steps(blocks, blocks * channel_blocks, least=8, together=_tiles.TOGETHER)
    parts = _tiles.cdiv(blocks, steps)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    sums, maxima = (torch.empty((batch, parts, channels), dtype=dtype, device=x.device) for _ in range(2))
    indices = torch.empty((batch, parts, channels), dtype=torch.int64, device=x.device)
    launch(
        _forward_kernel, (parts, channel_blocks, batch),
        x, sums, maxima, indices, layout.strides(x), channels, pixels, steps,
        TOGETHER=_tiles.TOGETHER, **tile, arithmetic=arithmetic_of(x),
    )  # fmt: skip
    combine(sums, maxima, indices, pixels, avg, max, index)


@sized(grad_x="nchw", grad_avg="nc11", grad_max="nc11", index="nc11")
@split_batch()
def backward(grad_avg: Tensor | None, grad_max: Tensor | None, index: Tensor, grad_x: Tensor) -> None:
    batch, channels, height, width = grad_x.shape
    pixels = height * width
    tile = _tiles.of_map(channels, _tiles.channels_last(grad_x), grad_x.itemsize)
    launch(
        _backward_kernel, (_tiles.cdiv(pixels, tile["BLOCK_P"]), _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        grad_avg, grad_max, index, grad_x, layout.strides(grad_x), channels, pixels,
        **tile, arithmetic=arithmetic_of(grad_x),
    )  # fmt: skip
