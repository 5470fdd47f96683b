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
from afa_kernels.triton_kernels._factors import (
    channel_gradients,
    factor,
    of_each_channel,
    of_each_pixel,
    write_gradients,
)
from afa_kernels.triton_kernels._launch import arithmetic_of, check_counts, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._maps import offsets, strides_of


# One program fuses BLOCK_P pixels of BLOCK_C channels of one image.
@triton.jit
def _forward_kernel(
    features, s, q, out,
    strides, s_strides, q_strides, out_strides, channels, pixels,
    K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_c, inside_p = c < channels, p < pixels
    inside = inside_c[:, None] & inside_p[None, :]
    x = _load_features(features, strides, n, c, p, inside, K)
    a = factor(s, s_strides, n, p, inside_p, K, arithmetic)  # K of [BLOCK_P]
    b = factor(q, q_strides, n, c, inside_c, K, arithmetic)  # K of [BLOCK_C]
    total = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    for k in tl.static_range(K):
        total += a[k][None, :] * b[k][:, None] * x[k].to(arithmetic)
    tl.store(out + offsets(out_strides, n, c, p), total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _load_features(features, strides, n, c, p, inside, K: tl.constexpr):
    """Return a tile of each of the features, [BLOCK_C, BLOCK_P]."""
    tiles = ()
    for k in tl.static_range(K):
        tiles = tiles + (tl.load(features[k] + offsets(strides[k], n, c, p), mask=inside, other=0.0),)
    return tiles


@triton.jit
def _features_backward(
    g, features, grad_features, g_strides, strides, grad_strides, n, c, p, a, b, inside,
    sums: tl.constexpr, K: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Store the gradients of one tile of features; return the K g F_k, [BLOCK_C, BLOCK_P], if `sums` are wanted."""
    g_tile = tl.load(g + offsets(g_strides, n, c, p), mask=inside, other=0.0).to(arithmetic)
    x = ()
    if sums and K <= 4:  # before anything is stored, unless they take too many registers
        x = _load_features(features, strides, n, c, p, inside, K)
    products = ()
    for k in tl.static_range(K):
        if sums and K > 4:
            x = x + (tl.load(features[k] + offsets(strides[k], n, c, p), mask=inside, other=0.0),)
        if grad_features[k] is not None:
            dx = (a[k][None, :] * b[k][:, None] * g_tile).to(grad_features[k].dtype.element_ty)
            tl.store(grad_features[k] + offsets(grad_strides[k], n, c, p), dx, mask=inside)
        if sums:
            products = products + (g_tile * x[k].to(arithmetic),)
    return products


# One program handles some pixels of one image, over all channels: the sums over C are its own, and it writes its part
# of the sums over P to its own rows of `channel_sums` (N, rows, K, C), which `channel_gradients` adds up. It goes
# through `steps` blocks of BLOCK_P pixels if a tile has all channels (`whole`), else through the channels of one block.
# Some of these sums may be `wanted`, of them those over C for some `spatial` logits.
@triton.jit(do_not_specialize=["rows", "steps"])
def _backward_kernel(
    g, features, s, q, grad_features, ds, channel_sums,
    g_strides, strides, s_strides, q_strides, grad_strides, channels, pixels, rows, steps,
    whole: tl.constexpr, wanted: tl.constexpr, spatial: tl.constexpr,
    K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1).to(tl.int64)
    if whole:
        c = tl.arange(0, BLOCK_C).to(tl.int64)
        inside_c = c < channels
        b = factor(q, q_strides, n, c, inside_c, K, arithmetic)  # K of [BLOCK_C]
        totals = ()  # over the pixels, of g A_k F_k
        for _ in tl.static_range(K):
            totals = totals + (tl.zeros([BLOCK_C, BLOCK_P], arithmetic),)
        for step in range(steps):
            p = (row * steps + step) * BLOCK_P + tl.arange(0, BLOCK_P)
            inside_p = p < pixels
            inside = inside_c[:, None] & inside_p[None, :]
            a = factor(s, s_strides, n, p, inside_p, K, arithmetic)  # K of [BLOCK_P]
            gx = _features_backward(
                g, features, grad_features, g_strides, strides, grad_strides, n, c, p, a, b, inside,
                wanted, K, arithmetic,
            )  # fmt: skip
            if spatial:
                sums = ()
                for k in tl.static_range(K):
                    sums = sums + (tl.sum(b[k][:, None] * gx[k], axis=0),)
                write_gradients(s, s_strides, ds, n, pixels, p, sums, a, inside_p, K, arithmetic)
            if channel_sums is not None:
                added = ()
                for k in tl.static_range(K):
                    added = added + (totals[k] + a[k][None, :] * gx[k],)
                totals = added
        if channel_sums is not None:
            for k in tl.static_range(K):
                at = channel_sums + ((n * rows + row) * K + k) * channels + c
                tl.store(at, tl.sum(totals[k], axis=1), mask=inside_c)
    else:
        p = row * BLOCK_P + tl.arange(0, BLOCK_P)
        inside_p = p < pixels
        a = factor(s, s_strides, n, p, inside_p, K, arithmetic)
        # Over the channels, of g B_k F_k. The rows of a tile are added up behind the loop only: they lie in several
        # warps, which would pass them through shared memory in every iteration.
        totals = ()
        for _ in tl.static_range(K):
            totals = totals + (tl.zeros([BLOCK_C, BLOCK_P], arithmetic),)
        for first in range(0, channels, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C).to(tl.int64)
            inside_c = c < channels
            inside = inside_c[:, None] & inside_p[None, :]
            b = factor(q, q_strides, n, c, inside_c, K, arithmetic)
            gx = _features_backward(
                g, features, grad_features, g_strides, strides, grad_strides, n, c, p, a, b, inside,
                wanted, K, arithmetic,
            )  # fmt: skip
            if spatial:
                added = ()
                for k in tl.static_range(K):
                    added = added + (totals[k] + b[k][:, None] * gx[k],)
                totals = added
            if channel_sums is not None:
                for k in tl.static_range(K):
                    at = channel_sums + ((n * rows + row) * K + k) * channels + c
                    tl.store(at, tl.sum(a[k][None, :] * gx[k], axis=1), mask=inside_c)
        if spatial:
            sums = ()
            for k in tl.static_range(K):
                sums = sums + (tl.sum(totals[k], axis=0),)
            write_gradients(s, s_strides, ds, n, pixels, p, sums, a, inside_p, K, arithmetic)


@sized(features="nchw", spatial_logits="n1hw", channel_logits="nc11", out="nchw")
@split_batch()
def forward(features: list[Tensor], spatial_logits: list[Tensor], channel_logits: list[Tensor], out: Tensor) -> None:
    check_counts(spatial_logits=(spatial_logits, len(features)), channel_logits=(channel_logits, len(features)))
    batch, channels, height, width = out.shape
    pixels = height * width
    channels_last = _tiles.channels_last(out)
    tile = _tiles.of_maps(_tiles.of_map(channels, channels_last, out.itemsize), len(features), channels_last)
    launch(
        _forward_kernel, (_tiles.cdiv(pixels, tile["BLOCK_P"]), _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
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
    tile = _tiles.of_sums(channels, pixels, channels_last, grad.itemsize)
    tile = _tiles.of_maps(tile, len(features), channels_last, aligned=channels % 8 == 0)
    blocks, whole = _tiles.cdiv(pixels, tile["BLOCK_P"]), channels <= tile["BLOCK_C"]
    steps = _tiles.steps(blocks, blocks, least=4) if whole else 1
    rows = _tiles.cdiv(blocks, steps)
    inputs = len(features)
    places = spread(grads, needed)
    dx, ds, dq = places[:inputs], places[inputs : 2 * inputs], places[2 * inputs :]
    channel_sums = None
    if any(needed[2 * inputs :]):
        dtype = torch.float64 if grad.dtype == torch.float64 else torch.float32
        channel_sums = torch.empty((batch, rows, inputs, channels), dtype=dtype, device=grad.device)
    strides = _strides(features, spatial_logits, channel_logits)
    launch(
        _backward_kernel, (rows, batch),
        grad, tuple(features), tuple(spatial_logits), tuple(channel_logits),
        dx, ds, channel_sums,
        layout.strides(grad), *strides,
        strides_of(dx), channels, pixels, rows, steps,
        whole=whole, wanted=any(needed[inputs:]), spatial=any(needed[inputs : 2 * inputs]),
        K=inputs, **tile, arithmetic=arithmetic_of(grad),
    )  # fmt: skip
    if channel_sums is not None:
        channel_gradients(channel_sums, channel_logits, dq, arithmetic_of(grad))


def _strides(
    features: list[Tensor], spatial_logits: list[Tensor], channel_logits: list[Tensor]
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return those of image, channel and pixel; the spatial logits have no channel, the channel logits no pixel."""
    return strides_of(features), of_each_pixel(spatial_logits), of_each_channel(channel_logits)
