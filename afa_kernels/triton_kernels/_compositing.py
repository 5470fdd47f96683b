"""Scales composited front to back: w_k = T_k alpha_k with T_k = prod_{j<k} (1 - alpha_j), and its gradient.

A map is a (N, K, h, w) tensor at the attention's resolution: the weights, or the opacities that are composited at the
output's resolution.
"""

from __future__ import annotations

import triton
import triton.language as tl

from afa_kernels.triton_kernels._resize import sample, taps


@triton.jit
def sample_maps(
    maps, strides, size, n, y, x, size_out, inside,
    K: tl.constexpr, same_size: tl.constexpr, ones_last: tl.constexpr,
    index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Return the K maps at the output pixels, each [BLOCK_P]; the last is 1 if `ones_last`."""
    found = taps(strides, size, n, y, x, size_out, same_size, index, arithmetic)
    values = ()
    for k in tl.static_range(K):
        if ones_last and k == K - 1:
            value = tl.full(x.shape, 1.0, arithmetic)
        else:
            value = sample(maps, strides, k, found, inside, same_size, arithmetic)
        values = values + (value,)
    return values


@triton.jit
def sums_of_products(
    grad, grad_c, at, predictions, strides, found, channels, inside,
    K: tl.constexpr, same_sizes: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Return sum_c grad_c up(prediction_k)_c of each scale, which is the gradient that reaches its weight.

    Two scales at a time, though each two read `grad` once more: on an H200 five at once took 1.7 times as long.
    """
    sums = ()
    for first in tl.static_range(0, K, 2):
        part = ()
        for k in tl.static_range(first, first + 2):
            if k < K:
                part = part + (tl.zeros(at.shape, arithmetic),)
        for c in range(0, channels):
            g = tl.load(grad + tl.cast(c, tl.int64) * grad_c + at, mask=inside, other=0.0).to(arithmetic)
            added = ()
            for k in tl.static_range(first, first + 2):
                if k < K:
                    prediction = sample(predictions[k], strides[k], c, found[k], inside, same_sizes[k], arithmetic)
                    added = added + (part[k - first] + g * prediction,)
            part = added
        sums = sums + part
    return sums


@triton.jit
def composite(opacities, K: tl.constexpr):
    """Return the weights w_k = T_k alpha_k, and the transmittances T_k."""
    weights = ()
    transmittances = ()
    transmittance = tl.full(opacities[0].shape, 1.0, opacities[0].dtype)
    for k in tl.static_range(K):
        weights = weights + (transmittance * opacities[k],)
        transmittances = transmittances + (transmittance,)
        transmittance *= 1.0 - opacities[k]
    return weights, transmittances


@triton.jit
def store_map_gradients(
    out, n, p, size, grads, opacities, transmittances, inside, K: tl.constexpr, resize_opacities: tl.constexpr
):  # fmt: skip
    """Store the gradients of the K maps at the pixels p of image n, given those of the weights, `grads`."""
    behind = tl.zeros(grads[0].shape, grads[0].dtype)  # S_{k+1}, where S_k = alpha_k G_k + (1 - alpha_k) S_{k+1}
    for k in tl.static_range(K - 1, -1, -1):
        grad_map = grads[k]
        if resize_opacities:
            grad_map = transmittances[k] * (grads[k] - behind)
            behind = opacities[k] * grads[k] + (1.0 - opacities[k]) * behind
        tl.store(out + (n * K + k) * size[0] * size[1] + p, grad_map, mask=inside)
