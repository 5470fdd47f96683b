"""attentive_fusion in Triton: out = a (1-b) x + (1-a) b y with a = sigmoid(spatial), b = sigmoid(channel)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._gate import gate
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._maps import offsets, strides_of
from afa_kernels.triton_kernels._rows import sum_rows


# One program fuses BLOCK_P pixels of BLOCK_C channels of one image.
@triton.jit
def _forward_kernel(
    x, y, s, q, out,
    strides, s_strides, q_strides, channels, pixels,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_c, inside_p = c < channels, p < pixels
    inside = inside_c[:, None] & inside_p[None, :]
    x_tile = tl.load(x + offsets(strides[0], n, c, p), mask=inside, other=0.0).to(arithmetic)
    y_tile = tl.load(y + offsets(strides[1], n, c, p), mask=inside, other=0.0).to(arithmetic)
    a, not_a = gate(s + n * s_strides[0] + p * s_strides[1], inside_p, arithmetic)  # [BLOCK_P]
    b, not_b = gate(q + n * q_strides[0] + c * q_strides[1], inside_c, arithmetic)  # [BLOCK_C]
    fused = a[None, :] * not_b[:, None] * x_tile + not_a[None, :] * b[:, None] * y_tile  # [BLOCK_C, BLOCK_P]
    tl.store(out + offsets(strides[2], n, c, p), fused.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _features_backward(
    g, x, y, dx, dy, strides, n, c, p, a, not_a, b, not_b, inside, sums: tl.constexpr, arithmetic: tl.constexpr
):  # fmt: skip
    """Store the gradients of one tile of features; return g x and g y, [BLOCK_C, BLOCK_P], if `sums` are wanted."""
    g_tile = tl.load(g + offsets(strides[0], n, c, p), mask=inside, other=0.0).to(arithmetic)
    gx, gy = g_tile, g_tile
    if sums:
        gx = g_tile * tl.load(x + offsets(strides[1], n, c, p), mask=inside, other=0.0).to(arithmetic)
        gy = g_tile * tl.load(y + offsets(strides[2], n, c, p), mask=inside, other=0.0).to(arithmetic)
    if dx is not None:
        dx_tile = (a[None, :] * not_b[:, None] * g_tile).to(dx.dtype.element_ty)
        tl.store(dx + offsets(strides[3], n, c, p), dx_tile, mask=inside)
    if dy is not None:
        dy_tile = (not_a[None, :] * b[:, None] * g_tile).to(dy.dtype.element_ty)
        tl.store(dy + offsets(strides[4], n, c, p), dy_tile, mask=inside)
    return gx, gy


# One program handles some pixels of one image, over all channels: the sum over C is its own, and it writes its part of
# the sum over P to its own row of `channel_sums` (N, rows, C), which `sum_rows` adds up. It goes through
# `steps` blocks of BLOCK_P pixels if a tile has all channels (`whole`), else through the channels of one block.
@triton.jit(do_not_specialize=["rows", "steps"])
def _backward_kernel(
    g, x, y, s, q, dx, dy, ds, channel_sums,
    strides, s_strides, q_strides, channels, pixels, rows, steps,
    whole: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1).to(tl.int64)
    s += n * s_strides[0]
    q += n * q_strides[0]
    sums: tl.constexpr = ds is not None or channel_sums is not None
    total = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    if whole:
        c = tl.arange(0, BLOCK_C).to(tl.int64)
        inside_c = c < channels
        b, not_b = gate(q + c * q_strides[1], inside_c, arithmetic)  # [BLOCK_C]
        for step in range(steps):
            p = (row * steps + step) * BLOCK_P + tl.arange(0, BLOCK_P)
            inside_p = p < pixels
            inside = inside_c[:, None] & inside_p[None, :]
            a, not_a = gate(s + p * s_strides[1], inside_p, arithmetic)  # [BLOCK_P]
            gx, gy = _features_backward(
                g, x, y, dx, dy, strides, n, c, p, a, not_a, b, not_b, inside, sums, arithmetic
            )  # fmt: skip
            if ds is not None:  # contiguous, (N, 1, H, W)
                spatial_sum = tl.sum(not_b[:, None] * gx - b[:, None] * gy, axis=0)
                tl.store(ds + n * pixels + p, (spatial_sum * a * not_a).to(ds.dtype.element_ty), mask=inside_p)
            if channel_sums is not None:
                total += not_a[None, :] * gy - a[None, :] * gx
        if channel_sums is not None:
            part = tl.sum(total, axis=1) * b * not_b
            tl.store(channel_sums + (n * rows + row) * channels + c, part, mask=inside_c)
    else:
        p = row * BLOCK_P + tl.arange(0, BLOCK_P)
        inside_p = p < pixels
        a, not_a = gate(s + p * s_strides[1], inside_p, arithmetic)
        for first in range(0, channels, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C).to(tl.int64)
            inside_c = c < channels
            inside = inside_c[:, None] & inside_p[None, :]
            b, not_b = gate(q + c * q_strides[1], inside_c, arithmetic)
            gx, gy = _features_backward(
                g, x, y, dx, dy, strides, n, c, p, a, not_a, b, not_b, inside, sums, arithmetic
            )  # fmt: skip
            if ds is not None:
                total += not_b[:, None] * gx - b[:, None] * gy
            if channel_sums is not None:
                part = tl.sum(not_a[None, :] * gy - a[None, :] * gx, axis=1) * b * not_b
                tl.store(channel_sums + (n * rows + row) * channels + c, part, mask=inside_c)
        if ds is not None:
            spatial_sum = tl.sum(total, axis=0)
            tl.store(ds + n * pixels + p, (spatial_sum * a * not_a).to(ds.dtype.element_ty), mask=inside_p)


@sized(shallow="nchw", deep="nchw", spatial_logits="n1hw", channel_logits="nc11", out="nchw")
@split_batch()
def forward(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor, out: Tensor) -> None:
    batch, channels, height, width = shallow.shape
    pixels = height * width
    tile = _tiles.of_map(channels, _tiles.channels_last(out), shallow.itemsize)
    launch(
        _forward_kernel, (_tiles.cdiv(pixels, tile["BLOCK_P"]), _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        shallow, deep, spatial_logits, channel_logits, out,
        strides_of((shallow, deep, out)), layout.strides(spatial_logits)[::2], channel_logits.stride()[:2],
        channels, pixels, **tile, arithmetic=arithmetic_of(shallow),
    )  # fmt: skip


@sized(grad="nchw", shallow="nchw", deep="nchw", spatial_logits="n1hw", channel_logits="nc11")
@split_batch()
def backward(
    grad: Tensor,
    shallow: Tensor,
    deep: Tensor,
    spatial_logits: Tensor,
    channel_logits: Tensor,
    needed: list[bool],
    grads: list[Tensor],
) -> None:
    grad_shallow, grad_deep, grad_spatial, grad_channel = spread(grads, needed)
    batch, channels, height, width = shallow.shape
    pixels = height * width
    tile = _tiles.of_sums(channels, pixels, _tiles.channels_last(grad), shallow.itemsize)
    blocks, whole = _tiles.cdiv(pixels, tile["BLOCK_P"]), channels <= tile["BLOCK_C"]
    steps = _tiles.steps(blocks, blocks, least=4) if whole else 1
    rows = _tiles.cdiv(blocks, steps)
    channel_sums = None
    if grad_channel is not None:
        dtype = torch.float64 if shallow.dtype == torch.float64 else torch.float32
        channel_sums = torch.empty((batch, rows, channels), dtype=dtype, device=grad.device)
    launch(
        _backward_kernel, (rows, batch),
        grad, shallow, deep, spatial_logits, channel_logits, grad_shallow, grad_deep, grad_spatial, channel_sums,
        strides_of((grad, shallow, deep, grad_shallow, grad_deep)),
        layout.strides(spatial_logits)[::2], channel_logits.stride()[:2], channels, pixels, rows, steps,
        whole=whole, **tile, arithmetic=arithmetic_of(shallow),
    )  # fmt: skip
    if grad_channel is not None and channel_sums is not None:
        sum_rows(channel_sums, grad_channel)
