"""Mean and variance of every channel of a map, from one read of it, and how sums over its pixels are taken in parts.

The order of every sum does not depend on the launch.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, split_batch
from afa_kernels.triton_kernels._rows import of_rows


@triton.jit
def part_and_channels(channels, BLOCK_C: tl.constexpr):
    """Return the part of the pixels and the channels of this program; neighbouring programs share a part."""
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    block = tl.program_id(0).to(tl.int64)
    return block // channel_blocks, block % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)


@triton.jit
def _first_of(hidden, c, inside_c, z_c, arithmetic: tl.constexpr):
    """Return the first pixel of the channels c.

    Statistics are taken of the differences from it, which keep the digits that values far from zero would lose.
    """
    return tl.load(hidden + c * z_c, mask=inside_c, other=0.0).to(arithmetic)


# One program takes the mean and the sum of squared deviations of `steps` blocks of BLOCK_P pixels of BLOCK_C channels
# of one image, each place in the block for itself and then all by Chan's formula; and writes them to its own row of
# (N, parts, C).
@triton.jit(do_not_specialize=["parts", "steps"])
def _statistics_kernel(
    hidden, origin_image, means, squares,
    strides, channels, pixels, parts, steps,
    TOGETHER: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    z_n, z_c, z_p = strides
    part, c = part_and_channels(channels, BLOCK_C)
    n = tl.program_id(1).to(tl.int64)
    inside_c = c < channels
    origin = _first_of(origin_image, c, inside_c, z_c, arithmetic)[:, None]
    count = tl.zeros([BLOCK_P], tl.int32)
    mean = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    square = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    for first in range(0, steps, TOGETHER):
        for i in tl.static_range(TOGETHER):
            step = first + i
            p = (part * steps + step) * BLOCK_P + tl.arange(0, BLOCK_P)
            inside = inside_c[:, None] & (p < pixels)[None, :]
            z = tl.load(hidden + n * z_n + c[:, None] * z_c + p[None, :] * z_p, mask=inside, other=0.0).to(arithmetic)
            z -= origin
            delta = tl.where(inside, z - mean, 0.0)
            mean += delta * (1.0 / tl.cast(step + 1, arithmetic))
            square += delta * (z - mean)
            count += (p < pixels).to(tl.int32)
    counts = count.to(arithmetic)[None, :]
    of_all = tl.sum(mean * counts, axis=1) / tl.sum(counts, axis=1)
    delta = mean - of_all[:, None]
    squares_of_all = tl.sum(square + delta * delta * counts, axis=1)
    row = (n * parts + part) * channels + c
    tl.store(means + row, of_all, mask=inside_c)
    tl.store(squares + row, squares_of_all, mask=inside_c)


# One program merges the rows of BLOCK_C channels: first the mean, then the deviations from it.
@triton.jit(do_not_specialize=["rows", "count", "parts", "pixels_of_part"])
def _merge_kernel(
    hidden, means, squares, mean, variance,
    strides, rows, count, channels, pixels, parts, pixels_of_part,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    _, z_c, _ = strides
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    total = tl.zeros([BLOCK_B, BLOCK_C], arithmetic)
    for first in range(0, rows, BLOCK_B):
        row = first + tl.arange(0, BLOCK_B).to(tl.int64)[:, None]
        inside = (row < rows) & (c < channels)
        fraction = tl.minimum(pixels - row % parts * pixels_of_part, pixels_of_part).to(arithmetic) / count
        total += tl.load(means + row * channels + c, mask=inside, other=0.0) * fraction
    center = tl.sum(total, axis=0)[None, :]
    total = tl.zeros([BLOCK_B, BLOCK_C], arithmetic)
    for first in range(0, rows, BLOCK_B):
        row = first + tl.arange(0, BLOCK_B).to(tl.int64)[:, None]
        inside = (row < rows) & (c < channels)
        fraction = tl.minimum(pixels - row % parts * pixels_of_part, pixels_of_part).to(arithmetic) / count
        delta = tl.load(means + row * channels + c, mask=inside, other=0.0) - center
        squared = tl.load(squares + row * channels + c, mask=inside, other=0.0) / count + delta * delta * fraction
        total += tl.where(inside, squared, 0.0)
    tl.store(mean + c, _first_of(hidden, c, c < channels, z_c, arithmetic) + center, mask=c < channels)
    tl.store(variance + c, tl.sum(total, axis=0)[None, :], mask=c < channels)


def statistics(hidden: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Write the mean and the biased variance of every channel."""
    batch, channels, height, width = hidden.shape
    pixels = height * width
    parts, steps = parts_and_steps(hidden)
    means, squares = (mean.new_empty((batch, parts, channels)) for _ in range(2))
    _launch_statistics(hidden, hidden, steps, means, squares)
    add = of_rows(means)
    launch(
        _merge_kernel, (_tiles.cdiv(channels, add["BLOCK_C"]),),
        hidden, means, squares, mean, variance, layout.strides(hidden), batch * parts, batch * pixels,
        channels, pixels, parts, steps * tile_of_sums(hidden)["BLOCK_P"],
        **add, arithmetic=arithmetic_of(hidden),
    )  # fmt: skip


@split_batch("first_image")
def _launch_statistics(hidden: Tensor, first_image: Tensor, steps: int, means: Tensor, squares: Tensor) -> None:
    batch, parts, channels = means.shape
    tile = tile_of_sums(hidden)
    launch(
        _statistics_kernel, (parts * _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        hidden, first_image, means, squares,
        layout.strides(hidden), channels, hidden.shape[2] * hidden.shape[3], parts, steps,
        TOGETHER=_tiles.TOGETHER, **tile, arithmetic=arithmetic_of(hidden),
    )  # fmt: skip


def parts_and_steps(hidden: Tensor) -> tuple[int, int]:
    """Return in how many parts the sums over the pixels of an image are taken, and the blocks of pixels of each."""
    batch, channels, height, width = hidden.shape
    tile = tile_of_sums(hidden)
    blocks = _tiles.cdiv(height * width, tile["BLOCK_P"])
    steps = _tiles.steps(
        blocks, batch * blocks * _tiles.cdiv(channels, tile["BLOCK_C"]), least=8, together=_tiles.TOGETHER
    )
    return _tiles.cdiv(blocks, steps), steps


def tile_of_sums(hidden: Tensor) -> dict[str, int]:
    """Return the tile of what only sums."""
    return _tiles.of_reduction(hidden.shape[1], _tiles.channels_last(hidden), hidden.itemsize)
