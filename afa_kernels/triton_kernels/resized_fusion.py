"""resized_fusion in Triton: out = sum_k A_k B_k up(F_k), resized on the fly.

A_k is a value of each pixel, B_k one of each channel.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._factors import (
    channel_factors,
    channel_gradients,
    factor,
    of_each_pixel,
    write_gradients,
)
from afa_kernels.triton_kernels._launch import arithmetic_of, check_counts, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._maps import index_of
from afa_kernels.triton_kernels._maps import strides_of as strides_of_maps
from afa_kernels.triton_kernels._nchw import as_nchw, copy, empty_nchw
from afa_kernels.triton_kernels._resize import gather, sample, size_of, sizes_of, strides_of, taps_of_all


# One program fuses BLOCK_P pixels of one row of one image, and `steps` of its channels, TOGETHER of which it reads
# before it uses any.
@triton.jit(do_not_specialize=["steps"])
def _forward_kernel(
    features, s, b, out,
    strides, sizes, s_strides, out_strides, out_size, channels, steps,
    K: tl.constexpr, same_sizes: tl.constexpr,
    TOGETHER: tl.constexpr, BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    out_n, out_c, out_p = out_strides
    n = tl.program_id(2).to(tl.int64)
    width = out_size[1]
    blocks = tl.cdiv(width, BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_x = x < width
    a = factor(s, s_strides, n, y * width + x, inside_x, K, arithmetic)  # K of [BLOCK_P]
    found = taps_of_all(strides, sizes, n, y, x, out_size, K, same_sizes, index, arithmetic)
    first = tl.program_id(1) * steps
    b += n * K * channels
    out += n * out_n + y * width * out_p
    for step in range(0, steps, TOGETHER):
        totals = ()
        for i in tl.static_range(TOGETHER):
            c = tl.minimum(first + step + i, channels - 1)  # behind the last it reads that, and stores nothing
            total = tl.zeros([BLOCK_P], arithmetic)
            for k in tl.static_range(K):
                weight = a[k] * tl.load(b + (k * channels + tl.cast(c, tl.int64)))
                total += weight * sample(features[k], strides[k], c, found[k], inside_x, same_sizes[k], arithmetic)
            totals = totals + (total,)
        for i in tl.static_range(TOGETHER):
            c = first + step + i
            inside = x < tl.where(c < channels, width, 0)
            tl.store(out + tl.cast(c, tl.int64) * out_c + x * out_p, totals[i].to(out.dtype.element_ty), mask=inside)


# One program handles BLOCK_P pixels of one row of one image, over all channels: the sums over C are its own, and it
# writes its part of the sums over the pixels to its own row of `channel_sums` (N, rows, K, C), which
# `channel_gradients` adds up. The gradients of features that have the output's size it stores; for those of the others
# it leaves the A_k in `weights_out`, (N, K, H, W). Some of the sums may be `wanted`, of them those over C for some
# `spatial` logits.
@triton.jit
def _backward_kernel(
    g, features, s, b, grad_features, ds, weights_out, channel_sums,
    g_strides, strides, sizes, s_strides, grad_strides, out_size, channels,
    wanted: tl.constexpr, spatial: tl.constexpr, K: tl.constexpr, same_sizes: tl.constexpr,
    TOGETHER: tl.constexpr, BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    g_n, g_c, g_p = g_strides
    n = tl.program_id(1).to(tl.int64)
    height, width = out_size
    blocks = tl.cdiv(width, BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    p = y * width + x
    inside_x = x < width
    a = factor(s, s_strides, n, p, inside_x, K, arithmetic)  # K of [BLOCK_P]
    if weights_out is not None:
        for k in tl.static_range(K):
            tl.store(weights_out + (n * K + k) * height * width + p, a[k], mask=inside_x)
    found = taps_of_all(strides, sizes, n, y, x, out_size, K, same_sizes, index, arithmetic)
    b += n * K * channels
    totals = ()  # over the channels, of g B_k up(F_k)
    for _ in tl.static_range(K):
        totals = totals + (tl.zeros([BLOCK_P], arithmetic),)
    for first in range(0, channels, TOGETHER):
        g_rows, factors, products = (), (), ()
        for i in tl.static_range(TOGETHER):  # before anything is stored
            c = tl.minimum(first + i, channels - 1)
            inside = x < tl.where(first + i < channels, width, 0)
            of_channel = g + n * g_n + tl.cast(c, tl.int64) * g_c
            g_row = tl.load(of_channel + p * g_p, mask=inside, other=0.0).to(arithmetic)
            g_rows = g_rows + (g_row,)
            for k in tl.static_range(K):
                factors = factors + (tl.load(b + (k * channels + tl.cast(c, tl.int64))),)
                if wanted:
                    value = sample(features[k], strides[k], c, found[k], inside_x, same_sizes[k], arithmetic)
                    # outside it is the last pixel's, which may be infinite
                    products = products + (tl.where(inside, g_row * value, 0.0),)
        for i in tl.static_range(TOGETHER):
            c = first + i
            inside = x < tl.where(c < channels, width, 0)
            for k in tl.static_range(K):
                if grad_features[k] is not None:
                    grad_n, grad_c, grad_p = grad_strides[k]
                    to = grad_features[k] + n * grad_n + tl.cast(c, tl.int64) * grad_c + p * grad_p
                    dx = a[k] * factors[i * K + k] * g_rows[i]
                    tl.store(to, dx.to(grad_features[k].dtype.element_ty), mask=inside)
            if spatial:
                added = ()
                for k in tl.static_range(K):
                    added = added + (totals[k] + factors[i * K + k] * products[i * K + k],)
                totals = added
            if channel_sums is not None:
                row = n * tl.num_programs(0) + tl.program_id(0)
                for k in tl.static_range(K):
                    part = channel_sums + ((row * K + k) * channels + c)
                    tl.store(part, tl.sum(a[k] * products[i * K + k], axis=0), mask=c < channels)
    if spatial:
        pixels = tl.cast(height, tl.int64) * width
        write_gradients(s, s_strides, ds, n, pixels, p, totals, a, inside_x, K, arithmetic)


@sized(features="ncxy", spatial_logits="n1hw", channel_logits="nc11", out="nchw")
@split_batch()
def forward(features: list[Tensor], spatial_logits: list[Tensor], channel_logits: list[Tensor], out: Tensor) -> None:
    check_counts(spatial_logits=(spatial_logits, len(features)), channel_logits=(channel_logits, len(features)))
    batch, channels, height, width = out.shape
    features, fused = as_nchw(features), empty_nchw(out)
    arithmetic = arithmetic_of(out)
    tile = _tiles.of_row(width, len(features), out.itemsize) | _tiles.channels_together(len(features))
    rows = height * _tiles.cdiv(width, tile["BLOCK_P"])
    steps = _tiles.channels_of_row(channels, rows)
    launch(
        _forward_kernel, (rows, _tiles.cdiv(channels, steps), batch),
        tuple(features), tuple(spatial_logits), channel_factors(channel_logits, arithmetic), fused,
        strides_of(features), sizes_of(features), of_each_pixel(spatial_logits), layout.strides(fused), size_of(out),
        channels, steps,
        K=len(features), same_sizes=tuple(size_of(x) == size_of(out) for x in features),
        **tile, index=index_of(features), arithmetic=arithmetic,
    )  # fmt: skip
    copy(fused, out)


@sized(grad="nchw", features="ncxy", spatial_logits="n1hw", channel_logits="nc11")
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
    features, (grad,) = as_nchw(features), as_nchw([grad])
    inputs, arithmetic = len(features), arithmetic_of(grad)
    places = spread(grads, needed)
    dx, ds, dq = places[:inputs], places[inputs : 2 * inputs], places[2 * inputs :]
    computed = [None if x is None else empty_nchw(x) for x in dx]
    same_sizes = tuple(size_of(x) == size_of(grad) for x in features)
    stored = tuple(x if same else None for x, same in zip(computed, same_sizes))
    tile = _tiles.of_row(width, inputs, grad.itemsize) | _tiles.channels_together(inputs)
    rows = height * _tiles.cdiv(width, tile["BLOCK_P"])
    b, weights_out, channel_sums = channel_factors(channel_logits, arithmetic), None, None
    if any(x is not None and not same for x, same in zip(dx, same_sizes)):
        weights_out = b.new_empty((batch, inputs, height, width))
    if any(needed[2 * inputs :]):
        channel_sums = b.new_empty((batch, rows, inputs, channels))
    launch(
        _backward_kernel, (rows, batch),
        grad, tuple(features), tuple(spatial_logits), b, stored, ds, weights_out, channel_sums,
        layout.strides(grad), strides_of(features), sizes_of(features), of_each_pixel(spatial_logits),
        strides_of_maps(stored), size_of(grad), channels,
        wanted=any(needed[inputs:]), spatial=any(needed[inputs : 2 * inputs]), K=inputs, same_sizes=same_sizes,
        **tile, index=index_of(features), arithmetic=arithmetic,
    )  # fmt: skip
    for k, (x, result) in enumerate(zip(computed, dx)):
        if x is not None and result is not None:
            if not same_sizes[k]:
                gather(grad, weights_out, k, x, height, factors=b)
            copy(x, result)
    if channel_sums is not None:
        channel_gradients(channel_sums, channel_logits, dq, arithmetic)
