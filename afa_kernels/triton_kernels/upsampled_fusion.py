"""upsampled_fusion in Triton: attentive_fusion of a deep map that is upsampled where it is read."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._gate import gate, gates
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._maps import index_of, offsets_in_image, strides_of
from afa_kernels.triton_kernels._rows import add_rows, of_rows, sum_rows
from afa_kernels.triton_kernels._upsampling import (
    factor_of,
    fine_pixels,
    neighbours,
    scattered_pixels,
    tap_of,
    upsampled,
    weight_of,
)


# One program fuses the own pixels of BLOCK_P pixels of the deep map, BLOCK_C channels of one image.
@triton.jit
def _forward_kernel(
    x, y, taps, s, q, out,
    strides, s_strides, q_strides, channels, height, width,
    FACTOR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(2).to(tl.int64)
    x += n * strides[0][0]
    y += n * strides[1][0]
    out += n * strides[2][0]
    s += n * s_strides[0]
    c = tl.program_id(1).to(index) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    _, i, j, inside_p = scattered_pixels(tl.program_id(0), tl.cast(height, index) * width, width, BLOCK_P, index)
    inside = inside_c[:, None] & inside_p[None, :]
    b, not_b = gate(q + n * q_strides[0] + c * q_strides[1], inside_c, arithmetic)  # [BLOCK_C]
    near, exist = neighbours(y, strides[1], c, i, j, height, width, inside_c, inside_p, index)
    for step in range((FACTOR // 2) * (FACTOR // 2)):
        for row in tl.static_range(1, 3):
            for column in tl.static_range(1, 3):
                u, v = tap_of(row, column, step, FACTOR)
                p = fine_pixels(i, j, u, v, inside_p, height, width, FACTOR, index)[0]
                x_tile = tl.load(x + offsets_in_image(strides[0], c, p), mask=inside, other=0.0).to(arithmetic)
                y_tile = upsampled(near, exist, taps, c, row, column, u, v, channels, inside_c, FACTOR, arithmetic)
                a, not_a = gate(s + p * s_strides[1], inside_p, arithmetic)  # [BLOCK_P]
                fused = a[None, :] * not_b[:, None] * x_tile + not_a[None, :] * b[:, None] * y_tile
                tl.store(out + offsets_in_image(strides[2], c, p), fused.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gathered(grad, there, total, taps, c, u, v, channels, inside_c, FACTOR: tl.constexpr):
    """Return `total`, of the coarse pixels, and what the gradients of the fine pixels at the tap (u, v) add to it."""
    weight = tl.broadcast_to(weight_of(taps, c, u, v, channels, inside_c, FACTOR), grad.shape)
    return tl.where(there, tl.fma(weight, grad, total), total)


# One program handles `steps` blocks of BLOCK_P pixels of the deep map, BLOCK_C channels of one image, and all taps of
# these, of 16 parts one each at a time: it reads all of it before it writes any, for no load goes ahead of a store. Its
# sums over the channels are `whole` if the tile has all of them, else parts for `_spatial_kernel`; all others are
# parts. Those of the 16 weights of a factor of 2 stay in registers; those of more are one step's.
@triton.jit(do_not_specialize=["rows", "steps"])
def _backward_kernel(
    g, x, y, taps, s, q, dx, dy, ds, channel_sums, weight_sums,
    strides, s_strides, q_strides, channels, height, width, rows, steps,
    whole: tl.constexpr, FACTOR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    part, block, n = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(index) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    g += n * strides[0][0]
    x += n * strides[1][0]
    y += n * strides[2][0]
    if dx is not None:
        dx += n * strides[3][0]
    if dy is not None:
        dy += n * strides[4][0]
    b, not_b = gate(q + n * q_strides[0] + c * q_strides[1], inside_c, arithmetic)  # [BLOCK_C]
    s += n * s_strides[0]
    sums: tl.constexpr = ds is not None or channel_sums is not None
    pixels = tl.cast(height, index) * width
    if ds is not None:  # (N, blocks of channels, pixels)
        ds += (n * tl.num_programs(1) + block) * (tl.cast(height, tl.int64) * width * (FACTOR * FACTOR))
    if weight_sums is not None:
        weight_sums += (n * rows + part) * (4 * FACTOR * FACTOR) * channels
    total = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    of_weights = ()
    if weight_sums is not None and FACTOR == 2:
        for _ in tl.static_range(16):
            of_weights = of_weights + (tl.zeros([BLOCK_C, BLOCK_P], arithmetic),)
    for step in range(steps):
        p, i, j, inside_p = scattered_pixels(tl.program_id(0) * steps + step, pixels, width, BLOCK_P, index)
        inside = inside_c[:, None] & inside_p[None, :]
        dy_tile = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
        if sums:
            near, exist = neighbours(y, strides[2], c, i, j, height, width, inside_c, inside_p, index)
            y_tile = near[4].to(arithmetic)
        elif weight_sums is not None:
            y_tile = tl.load(y + offsets_in_image(strides[2], c, p), mask=inside, other=0.0).to(arithmetic)
        for tap in range((FACTOR // 2) * (FACTOR // 2)):
            g_tiles, x_tiles, logits = (), (), ()
            for row in tl.static_range(4):
                for column in tl.static_range(4):
                    u, v = tap_of(row, column, tap, FACTOR)
                    fine, there_p = fine_pixels(i, j, u, v, inside_p, height, width, FACTOR, index)
                    there = inside_c[:, None] & there_p[None, :]
                    g_tiles = g_tiles + (tl.load(g + offsets_in_image(strides[0], c, fine), mask=there, other=0.0),)
                    logits = logits + (tl.load(s + fine * s_strides[1], mask=there_p, other=0.0),)
                    if sums and row % 3 > 0 and column % 3 > 0:
                        x_tiles = x_tiles + (tl.load(x + offsets_in_image(strides[1], c, fine), mask=there, other=0.0),)
            added = ()
            for row in tl.static_range(4):
                for column in tl.static_range(4):
                    u, v = tap_of(row, column, tap, FACTOR)
                    fine, there_p = fine_pixels(i, j, u, v, inside_p, height, width, FACTOR, index)
                    there = inside_c[:, None] & there_p[None, :]
                    g_tile = g_tiles[4 * row + column].to(arithmetic)
                    a, not_a = gates(logits[4 * row + column], arithmetic)
                    grad = not_a[None, :] * g_tile
                    if dy is not None:
                        dy_tile = _gathered(grad, there, dy_tile, taps, c, u, v, channels, inside_c, FACTOR)
                    if weight_sums is not None:
                        of_weight = tl.where(there, grad * y_tile, 0.0)
                        if FACTOR == 2:
                            added = added + (of_weights[4 * row + column] + of_weight,)
                        else:
                            at = weight_sums + (u * (2 * FACTOR) + v) * tl.cast(channels, tl.int64) + c
                            tl.store(at, tl.sum(of_weight, axis=1) * b, mask=inside_c)
                    if dx is not None and row % 3 > 0 and column % 3 > 0:
                        dx_tile = (a[None, :] * not_b[:, None] * g_tile).to(dx.dtype.element_ty)
                        tl.store(dx + offsets_in_image(strides[3], c, fine), dx_tile, mask=there)
                    if sums and row % 3 > 0 and column % 3 > 0:
                        gx = g_tile * x_tiles[2 * row + column - 3].to(arithmetic)
                        gy = g_tile * upsampled(
                            near, exist, taps, c, row, column, u, v, channels, inside_c, FACTOR, arithmetic
                        )
                        total += not_a[None, :] * gy - a[None, :] * gx
                        if ds is not None:
                            spatial_sum = tl.sum(not_b[:, None] * gx - b[:, None] * gy, axis=0)
                            if whole:
                                spatial_sum = spatial_sum * a * not_a
                            tl.store(ds + fine, spatial_sum.to(ds.dtype.element_ty), mask=there_p)
            of_weights = added
        if dy is not None:
            tl.store(
                dy + offsets_in_image(strides[4], c, p), (dy_tile * b[:, None]).to(dy.dtype.element_ty), mask=inside
            )
    if weight_sums is not None and FACTOR == 2:
        for tap in tl.static_range(16):
            at = weight_sums + tap * tl.cast(channels, tl.int64) + c
            tl.store(at, tl.sum(of_weights[tap], axis=1) * b, mask=inside_c)
    if channel_sums is not None:
        tl.store(channel_sums + (n * rows + part) * channels + c, tl.sum(total, axis=1) * b * not_b, mask=inside_c)


# One program adds up the parts of the sums over the channels of BLOCK_P pixels of one image.
@triton.jit
def _spatial_kernel(
    spatial_sums, s, ds, s_strides, pixels, parts, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = p < pixels
    total = tl.zeros([BLOCK_P], arithmetic)
    for part in range(parts):
        total += tl.load(spatial_sums + (n * parts + part) * pixels + p, mask=inside, other=0.0)
    a, not_a = gate(s + n * s_strides[0] + p * s_strides[1], inside, arithmetic)
    tl.store(ds + n * pixels + p, (total * a * not_a).to(ds.dtype.element_ty), mask=inside)


# One program adds up the rows of BLOCK_C weights, which are counted tap by tap, and in each channel by channel.
@triton.jit(do_not_specialize=["rows"])
def _weight_kernel(
    sums, grad_weight, strides, channels, rows, FACTOR: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    of_channel, of_row, of_column = strides
    count = 4 * FACTOR * FACTOR * channels
    w = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = w < count
    total = add_rows(sums, count, rows, w, inside, BLOCK_B, BLOCK_C)
    c, u, v = w % channels, w // channels // (2 * FACTOR), w // channels % (2 * FACTOR)
    at = c * of_channel + u * of_row + v * of_column
    tl.store(grad_weight + at, total.to(grad_weight.dtype.element_ty), mask=inside)


@sized(shallow="nchw", deep="ncxy", spatial_logits="n1hw", channel_logits="nc11", out="nchw")
def forward(
    shallow: Tensor, deep: Tensor, weight: Tensor, spatial_logits: Tensor, channel_logits: Tensor, out: Tensor
) -> None:
    _check(shallow, deep, weight)
    _forward(shallow, deep, weight, spatial_logits, channel_logits, out)


def _check(shallow: Tensor, deep: Tensor, weight: Tensor) -> None:
    """Refuse maps that are not as many times as large as each other as the weight says."""
    factor, (height, width) = factor_of(weight, deep), deep.shape[2:]
    if shallow.shape[2:] != (factor * height, factor * width):
        raise ValueError(
            f"upsampled_fusion: shallow must have the shape {(*deep.shape[:2], factor * height, factor * width)}, "
            f"got {tuple(shallow.shape)}"
        )


@split_batch("weight")
def _forward(
    shallow: Tensor, deep: Tensor, weight: Tensor, spatial_logits: Tensor, channel_logits: Tensor, out: Tensor
) -> None:
    batch, channels, height, width = deep.shape
    factor, tile = factor_of(weight, deep), _tiles.of_upsampling(channels, _tiles.channels_last(out), shallow.itemsize)
    launch(
        _forward_kernel, (_tiles.cdiv(height * width, tile["BLOCK_P"]), _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        shallow, deep, weight, spatial_logits, channel_logits, out,
        strides_of((shallow, deep, out)), layout.strides(spatial_logits)[::2], channel_logits.stride()[:2],
        channels, height, width, FACTOR=factor, **tile, index=index_of((shallow, deep, out)),
        arithmetic=arithmetic_of(shallow),
    )  # fmt: skip


@sized(grad="nchw", shallow="nchw", deep="ncxy", spatial_logits="n1hw", channel_logits="nc11")
def backward(
    grad: Tensor,
    shallow: Tensor,
    deep: Tensor,
    weight: Tensor,
    spatial_logits: Tensor,
    channel_logits: Tensor,
    needed: list[bool],
    grads: list[Tensor],
) -> None:
    _check(shallow, deep, weight)
    grad_shallow, grad_deep, grad_weight, grad_spatial, grad_channel = spread(grads, needed)
    batch, channels, height, width = deep.shape
    tile = _tiles.of_upsampled_sums(channels, _tiles.channels_last(grad), shallow.itemsize)
    blocks = _tiles.cdiv(channels, tile["BLOCK_C"])
    steps = _steps(deep, factor_of(weight, deep), tile)
    rows = _tiles.cdiv(_tiles.cdiv(height * width, tile["BLOCK_P"]), steps)

    def sums(wanted: Tensor | None, *shape: int) -> Tensor | None:
        return None if wanted is None else weight.new_empty((batch, *shape))

    channel_sums, weight_sums = (
        sums(grad_channel, rows, channels),
        sums(grad_weight, rows, weight.shape[0] ** 2, channels),
    )
    spatial_sums = grad_spatial if blocks == 1 else sums(grad_spatial, blocks, *shallow.shape[2:])
    _backward(
        grad, shallow, deep, weight, spatial_logits, channel_logits,
        grad_shallow, grad_deep, spatial_sums, channel_sums, weight_sums, blocks == 1, rows, steps, tile,
    )  # fmt: skip
    if grad_channel is not None and channel_sums is not None:
        sum_rows(channel_sums, grad_channel)
    if grad_spatial is not None and spatial_sums is not None and blocks > 1:
        _add_spatial(spatial_sums, spatial_logits, grad_spatial)
    if grad_weight is not None and weight_sums is not None:
        add = of_rows(weight_sums)
        launch(
            _weight_kernel, (_tiles.cdiv(weight_sums[0, 0].numel(), add["BLOCK_C"]),),
            weight_sums, grad_weight, (grad_weight.stride(0), *grad_weight.stride()[2:]), channels, batch * rows,
            FACTOR=factor_of(weight, deep), **add,
        )  # fmt: skip


def _steps(deep: Tensor, factor: int, tile: dict[str, int]) -> int:
    """Return how many blocks of pixels one program takes: one, if it cannot keep the sums of its weights."""
    if factor > 2:
        return 1
    blocks = _tiles.cdiv(deep.shape[2] * deep.shape[3], tile["BLOCK_P"])
    channel_blocks = _tiles.cdiv(deep.shape[1], tile["BLOCK_C"])
    return _tiles.steps(blocks, blocks * channel_blocks, least=4)


@split_batch("weight")
def _backward(
    grad: Tensor,
    shallow: Tensor,
    deep: Tensor,
    weight: Tensor,
    spatial_logits: Tensor,
    channel_logits: Tensor,
    grad_shallow: Tensor | None,
    grad_deep: Tensor | None,
    spatial_sums: Tensor | None,
    channel_sums: Tensor | None,
    weight_sums: Tensor | None,
    whole: bool,
    rows: int,
    steps: int,
    tile: dict[str, int],
) -> None:
    batch, channels, height, width = deep.shape
    factor = factor_of(weight, deep)
    launch(
        _backward_kernel, (rows, _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        grad, shallow, deep, weight, spatial_logits, channel_logits,
        grad_shallow, grad_deep, spatial_sums, channel_sums, weight_sums,
        strides_of((grad, shallow, deep, grad_shallow, grad_deep)),
        layout.strides(spatial_logits)[::2], channel_logits.stride()[:2], channels, height, width, rows, steps,
        whole=whole, FACTOR=factor, **tile, index=index_of((grad, shallow, deep, grad_shallow, grad_deep)),
        arithmetic=arithmetic_of(shallow),
    )  # fmt: skip


@split_batch()
def _add_spatial(spatial_sums: Tensor, spatial_logits: Tensor, grad_spatial: Tensor) -> None:
    batch, parts, height, width = spatial_sums.shape
    tile = _tiles.of_pixels(spatial_sums.itemsize)
    launch(
        _spatial_kernel, (_tiles.cdiv(height * width, tile["BLOCK_P"]), batch),
        spatial_sums, spatial_logits, grad_spatial, layout.strides(spatial_logits)[::2], height * width, parts,
        **tile, arithmetic=arithmetic_of(spatial_sums),
    )  # fmt: skip
