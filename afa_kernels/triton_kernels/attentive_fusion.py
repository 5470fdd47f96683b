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


# One program fuses BLOCK_P pixels of one image, over all channels.
@triton.jit
def _forward_kernel(
    x, y, s, q, out,
    channels, pixels,
    x_n, x_c, x_p, y_n, y_c, y_p, s_n, s_p, q_n, q_c, out_n, out_c, out_p,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_p = p < pixels
    a, not_a = gate(s + n * s_n + p * s_p, inside_p, arithmetic)  # [BLOCK_P]
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C).to(tl.int64)
        inside_c = c < channels
        b, not_b = gate(q + n * q_n + c * q_c, inside_c, arithmetic)  # [BLOCK_C]
        inside = inside_c[:, None] & inside_p[None, :]
        x_tile = tl.load(x + n * x_n + c[:, None] * x_c + p[None, :] * x_p, mask=inside, other=0.0).to(arithmetic)
        y_tile = tl.load(y + n * y_n + c[:, None] * y_c + p[None, :] * y_p, mask=inside, other=0.0).to(arithmetic)
        fused = a[None, :] * not_b[:, None] * x_tile + not_a[None, :] * b[:, None] * y_tile  # [BLOCK_C, BLOCK_P]
        tl.store(out + n * out_n + c[:, None] * out_c + p[None, :] * out_p, fused.to(out.dtype.element_ty), mask=inside)


# One program handles BLOCK_P pixels of one image, over all channels: the sum over C is its own, and it writes its part
# of the sum over P to its own row of `channel_sums` (N, blocks, C); `_channel_kernel` adds the rows up.
@triton.jit
def _backward_kernel(
    g, x, y, s, q, dx, dy, ds, channel_sums,
    channels, pixels, blocks,
    g_n, g_c, g_p, x_n, x_c, x_p, y_n, y_c, y_p, s_n, s_p, q_n, q_c, dx_n, dx_c, dx_p, dy_n, dy_c, dy_p,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1).to(tl.int64)
    p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_p = p < pixels
    a, not_a = gate(s + n * s_n + p * s_p, inside_p, arithmetic)  # [BLOCK_P]
    if ds is not None:
        spatial_sum = tl.zeros([BLOCK_P], arithmetic)
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C).to(tl.int64)
        inside_c = c < channels
        b, not_b = gate(q + n * q_n + c * q_c, inside_c, arithmetic)  # [BLOCK_C]
        inside = inside_c[:, None] & inside_p[None, :]
        g_tile = tl.load(g + n * g_n + c[:, None] * g_c + p[None, :] * g_p, mask=inside, other=0.0).to(arithmetic)
        if dx is not None:
            dx_tile = (a[None, :] * not_b[:, None] * g_tile).to(dx.dtype.element_ty)
            tl.store(dx + n * dx_n + c[:, None] * dx_c + p[None, :] * dx_p, dx_tile, mask=inside)
        if dy is not None:
            dy_tile = (not_a[None, :] * b[:, None] * g_tile).to(dy.dtype.element_ty)
            tl.store(dy + n * dy_n + c[:, None] * dy_c + p[None, :] * dy_p, dy_tile, mask=inside)
        if ds is not None or channel_sums is not None:
            x_tile = tl.load(x + n * x_n + c[:, None] * x_c + p[None, :] * x_p, mask=inside, other=0.0).to(arithmetic)
            y_tile = tl.load(y + n * y_n + c[:, None] * y_c + p[None, :] * y_p, mask=inside, other=0.0).to(arithmetic)
        if ds is not None:
            spatial_sum += tl.sum((not_b[:, None] * x_tile - b[:, None] * y_tile) * g_tile, axis=0)
        if channel_sums is not None:
            part = tl.sum((not_a[None, :] * y_tile - a[None, :] * x_tile) * g_tile, axis=1)  # [BLOCK_C]
            tl.store(channel_sums + (n * blocks + block) * channels + c, part * b * not_b, mask=inside_c)
    if ds is not None:
        # ds is contiguous, (N, 1, H, W)
        tl.store(ds + n * pixels + p, (spatial_sum * a * not_a).to(ds.dtype.element_ty), mask=inside_p)


# One program adds up the block rows of BLOCK_C channels of one image, in order.
@triton.jit
def _channel_kernel(channel_sums, dq, channels, blocks, BLOCK_C: tl.constexpr, BLOCK_B: tl.constexpr):
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    total = tl.zeros([BLOCK_C], channel_sums.dtype.element_ty)
    for first in range(0, blocks, BLOCK_B):
        block = first + tl.arange(0, BLOCK_B)
        rows = channel_sums + (n * blocks + block[:, None]) * channels + c[None, :]
        inside = (block < blocks)[:, None] & inside_c[None, :]
        total += tl.sum(tl.load(rows, mask=inside, other=0.0), axis=0)
    tl.store(dq + n * channels + c, total.to(dq.dtype.element_ty), mask=inside_c)


@sized(shallow="nchw", deep="nchw", spatial_logits="n1hw", channel_logits="nc11", out="nchw")
@split_batch()
def forward(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor, out: Tensor) -> None:
    batch, channels, height, width = shallow.shape
    pixels = height * width
    tile = _tiles.of_map(channels, _tiles.channels_last(out), shallow.itemsize)
    launch(
        _forward_kernel, (triton.cdiv(pixels, tile["BLOCK_P"]), batch),
        shallow, deep, spatial_logits, channel_logits, out, channels, pixels,
        *layout.strides(shallow), *layout.strides(deep), *_pixel_strides(spatial_logits),
        *channel_logits.stride()[:2], *layout.strides(out),
        **tile, arithmetic=arithmetic_of(shallow),
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
    tile = _tiles.of_map(channels, _tiles.channels_last(grad), shallow.itemsize)
    blocks = triton.cdiv(pixels, tile["BLOCK_P"])
    channel_sums = None
    if grad_channel is not None:
        dtype = torch.float64 if shallow.dtype == torch.float64 else torch.float32
        channel_sums = torch.empty((batch, blocks, channels), dtype=dtype, device=grad.device)
    launch(
        _backward_kernel, (blocks, batch),
        grad, shallow, deep, spatial_logits, channel_logits, grad_shallow, grad_deep, grad_spatial, channel_sums,
        channels, pixels, blocks,
        *layout.strides(grad), *layout.strides(shallow), *layout.strides(deep), *_pixel_strides(spatial_logits),
        *channel_logits.stride()[:2], *_strides_or_zeros(grad_shallow), *_strides_or_zeros(grad_deep),
        **tile, arithmetic=arithmetic_of(shallow),
    )  # fmt: skip
    if grad_channel is not None:
        launch(
            _channel_kernel,
            (triton.cdiv(channels, 64), batch),
            channel_sums,
            grad_channel,
            channels,
            blocks,
            BLOCK_C=64,
            BLOCK_B=32,
        )


def _pixel_strides(x: Tensor) -> tuple[int, int]:
    n, _, p = layout.strides(x)
    return n, p


def _strides_or_zeros(x: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if x is None else layout.strides(x)
