"""progressive_fusion in Triton: out = sum_k A_k B_k F_k.

A_k = a_k prod_{j>k} (1-a_j) is a value of each pixel, B_k = b_k prod_{j>k} (1-b_j) one of each channel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._gate import gate
from afa_kernels.triton_kernels._launch import arithmetic_of, check_counts, launch, sized, split_batch, spread


@triton.jit
def _factor(logits, strides, n, i, mask, K: tl.constexpr, arithmetic: tl.constexpr):
    """Return A_k or B_k of the elements i of image n for every k; `strides` are those of the image and the element."""
    weights = ()
    transmittance = None
    for behind in tl.static_range(K):
        z_n, z_i = strides[K - 1 - behind]
        open, shut = gate(logits[K - 1 - behind] + n * z_n + i * z_i, mask, arithmetic)
        if behind == 0:
            weights = (open,) + weights
            transmittance = shut
        else:
            weights = (open * transmittance,) + weights
            transmittance = transmittance * shut
    return weights


# One program fuses BLOCK_P pixels of one image, over all channels.
@triton.jit
def _forward_kernel(
    features, s, q, out,
    strides, s_strides, q_strides, out_strides, channels, pixels,
    K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    out_n, out_c, out_p = out_strides
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_p = p < pixels
    a = _factor(s, s_strides, n, p, inside_p, K, arithmetic)  # K of [BLOCK_P]
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C).to(tl.int64)
        inside_c = c < channels
        b = _factor(q, q_strides, n, c, inside_c, K, arithmetic)  # K of [BLOCK_C]
        inside = inside_c[:, None] & inside_p[None, :]
        total = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
        for k in tl.static_range(K):
            x_n, x_c, x_p = strides[k]
            at = features[k] + n * x_n + c[:, None] * x_c + p[None, :] * x_p
            total += a[k][None, :] * b[k][:, None] * tl.load(at, mask=inside, other=0.0).to(arithmetic)
        out_at = out + n * out_n + c[:, None] * out_c + p[None, :] * out_p
        tl.store(out_at, total.to(out.dtype.element_ty), mask=inside)


# One program handles BLOCK_P pixels of one image, over all channels: the sums over C are its own, and it writes its
# part of the sums over P to its own rows of `channel_sums` (N, blocks, K, C); `_channel_kernel` adds them up.
@triton.jit
def _backward_kernel(
    g, features, s, q, grad_features, ds, channel_sums,
    g_strides, strides, s_strides, q_strides, grad_strides, channels, pixels, blocks,
    K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    g_n, g_c, g_p = g_strides
    block = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1).to(tl.int64)
    p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_p = p < pixels
    a = _factor(s, s_strides, n, p, inside_p, K, arithmetic)  # K of [BLOCK_P]
    sums = ()  # over the channels, of g B_k F_k
    for _ in tl.static_range(K):
        sums = sums + (tl.zeros([BLOCK_P], arithmetic),)
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C).to(tl.int64)
        inside_c = c < channels
        b = _factor(q, q_strides, n, c, inside_c, K, arithmetic)  # K of [BLOCK_C]
        inside = inside_c[:, None] & inside_p[None, :]
        g_tile = tl.load(g + n * g_n + c[:, None] * g_c + p[None, :] * g_p, mask=inside, other=0.0).to(arithmetic)
        added = ()
        for k in tl.static_range(K):
            x_n, x_c, x_p = strides[k]
            if grad_features[k] is not None:
                dx_n, dx_c, dx_p = grad_strides[k]
                dx = (a[k][None, :] * b[k][:, None] * g_tile).to(grad_features[k].dtype.element_ty)
                tl.store(grad_features[k] + n * dx_n + c[:, None] * dx_c + p[None, :] * dx_p, dx, mask=inside)
            if ds is not None or channel_sums is not None:
                at = features[k] + n * x_n + c[:, None] * x_c + p[None, :] * x_p
                gx = g_tile * tl.load(at, mask=inside, other=0.0).to(arithmetic)  # [BLOCK_C, BLOCK_P]
                added = added + (sums[k] + tl.sum(b[k][:, None] * gx, axis=0),)
                if channel_sums is not None:
                    row = channel_sums + ((n * blocks + block) * K + k) * channels + c
                    tl.store(row, tl.sum(a[k][None, :] * gx, axis=1), mask=inside_c)
            else:
                added = added + (sums[k],)
        sums = added
    if ds is not None:
        _write_gradients(s, s_strides, ds, n, pixels, p, sums, a, inside_p, K, arithmetic)


@triton.jit
def _write_gradients(logits, strides, out, n, size, i, sums, weights, mask, K: tl.constexpr, arithmetic: tl.constexpr):
    """Store the gradients of the logits, (1-a_k) S_k - a_k sum_{j<k} S_j with S_k = A_k dA_k; `sums` are the dA_k.

    `out` are contiguous, (N, size), or None.
    """
    before = tl.zeros_like(sums[0])
    for k in tl.static_range(K):
        product = weights[k] * sums[k]
        if out[k] is not None:
            z_n, z_i = strides[k]
            open, shut = gate(logits[k] + n * z_n + i * z_i, mask, arithmetic)
            grad = shut * product - open * before
            tl.store(out[k] + n * size + i, grad.to(out[k].dtype.element_ty), mask=mask)
        before = before + product


# One program adds up the rows of BLOCK_C channels of one image, in order, and makes the gradients of their logits.
@triton.jit
def _channel_kernel(
    channel_sums, q, dq, q_strides, channels, blocks,
    K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_B: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    sums = ()
    for k in tl.static_range(K):
        total = tl.zeros([BLOCK_C], arithmetic)
        for first in range(0, blocks, BLOCK_B):
            block = first + tl.arange(0, BLOCK_B)
            rows = channel_sums + ((n * blocks + block[:, None]) * K + k) * channels + c[None, :]
            inside = (block < blocks)[:, None] & inside_c[None, :]
            total += tl.sum(tl.load(rows, mask=inside, other=0.0), axis=0)
        sums = sums + (total,)
    b = _factor(q, q_strides, n, c, inside_c, K, arithmetic)
    _write_gradients(q, q_strides, dq, n, channels, c, sums, b, inside_c, K, arithmetic)


@sized(features="nchw", spatial_logits="n1hw", channel_logits="nc11", out="nchw")
@split_batch()
def forward(features: list[Tensor], spatial_logits: list[Tensor], channel_logits: list[Tensor], out: Tensor) -> None:
    check_counts(spatial_logits=(spatial_logits, len(features)), channel_logits=(channel_logits, len(features)))
    batch, channels, height, width = out.shape
    pixels = height * width
    channels_last = _tiles.channels_last(out)
    tile = _tiles.of_maps(len(features), channels, channels_last, out.itemsize)
    launch(
        _forward_kernel, (triton.cdiv(pixels, tile["BLOCK_P"]), batch),
        tuple(features), tuple(spatial_logits), tuple(channel_logits), out,
        *_strides(features, spatial_logits, channel_logits), layout.strides(out), channels, pixels,
        K=len(features), **tile, arithmetic=arithmetic_of(out),
    )  # fmt: skip


@sized(grad="nchw", features="nchw", spatial_logits="n1hw", channel_logits="nc11")
@split_batch()
def backward(
    grad: Tensor,
    features: list[Tensor],
    spatial_logits: list[Tensor],
    channel_logits: list[Tensor],
    needed: list[bool],
    grads: list[Tensor],
) -> None:
    check_counts(spatial_logits=(spatial_logits, len(features)), channel_logits=(channel_logits, len(features)))
    batch, channels, height, width = grad.shape
    pixels = height * width
    channels_last = _tiles.channels_last(grad)
    tile = _tiles.of_maps(len(features), channels, channels_last, grad.itemsize, aligned=channels % 8 == 0)
    blocks = triton.cdiv(pixels, tile["BLOCK_P"])
    inputs = len(features)
    places = spread(grads, needed)
    dx, ds, dq = places[:inputs], places[inputs : 2 * inputs], places[2 * inputs :]
    channel_sums = None
    if any(needed[2 * inputs :]):
        dtype = torch.float64 if grad.dtype == torch.float64 else torch.float32
        channel_sums = torch.empty((batch, blocks, inputs, channels), dtype=dtype, device=grad.device)
    strides = _strides(features, spatial_logits, channel_logits)
    launch(
        _backward_kernel, (blocks, batch),
        grad, tuple(features), tuple(spatial_logits), tuple(channel_logits),
        dx, ds if any(needed[inputs : 2 * inputs]) else None, channel_sums,
        layout.strides(grad), *strides,
        tuple((0, 0, 0) if x is None else layout.strides(x) for x in dx), channels, pixels, blocks,
        K=inputs, **tile, arithmetic=arithmetic_of(grad),
    )  # fmt: skip
    if channel_sums is not None:
        launch(
            _channel_kernel, (triton.cdiv(channels, 64), batch),
            channel_sums, tuple(channel_logits), dq, strides[2], channels, blocks,
            K=inputs, BLOCK_C=64, BLOCK_B=32, arithmetic=arithmetic_of(grad),
        )  # fmt: skip


def _strides(
    features: list[Tensor], spatial_logits: list[Tensor], channel_logits: list[Tensor]
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return those of image, channel and pixel; the spatial logits have no channel, the channel logits no pixel."""
    return (
        tuple(layout.strides(x) for x in features),
        tuple(layout.strides(s)[::2] for s in spatial_logits),
        tuple(layout.strides(q)[:2] for q in channel_logits),
    )
