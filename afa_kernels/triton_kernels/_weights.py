"""From the logits of scales to their weights or opacities, the maps of _compositing, and back.

T_i = exp(-sum_{j<i} d_j) and w_i = (1 - exp(-d_i)) T_i, with d_i = phi(y_i); the opacity is 1 - exp(-d_i).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch
from afa_kernels.triton_kernels._resize import gather


@triton.jit
def _opacity(d, arithmetic: tl.constexpr):
    """Return 1 - exp(-d) for d >= 0, accurate also where exp(-d) rounds to 1."""
    # d (1 - d/2 (1 - d/3 (1 - ...))), whose rest is below rounding for d < 1/2
    series = tl.full(d.shape, 1.0, arithmetic)
    for i in tl.static_range(16 if arithmetic == tl.float64 else 9, 1, -1):
        series = 1.0 - d * (1.0 / i) * series
    return tl.where(d < 0.5, d * series, 1.0 - tl.exp(-d))


@triton.jit
def _depth_and_opacity(y, phi: tl.constexpr, arithmetic: tl.constexpr):
    """Return the optical depth d and the opacity 1 - exp(-d) of the logit y. A NaN stays one."""
    if phi == "softplus":
        # sigmoid(y) is the opacity; the depth, which is only added up, needs absolute accuracy alone
        e = tl.exp(-tl.abs(y))
        d = tl.where(y < 0, 0.0, y) + tl.log(1.0 + e)
        opacity = tl.where(y < 0, e, 1.0) / (1.0 + e)
    else:
        if phi == "abs":
            d = tl.abs(y)
        elif phi == "relu":
            d = tl.where(y <= 0, 0.0, y)
        else:
            d = tl.exp(tl.where(y > 80, 80.0, y))
        opacity = _opacity(d, arithmetic)
    return d, opacity


@triton.jit
def _logit_gradient(grad, y, d, opacity, phi: tl.constexpr):
    """Return the gradient that reaches the logit y from the one that reaches its optical depth d."""
    if phi == "abs":
        grad = tl.where(y > 0, grad, tl.where(y < 0, -grad, grad * 0.0))
    elif phi == "relu":
        grad = tl.where(y <= 0, 0.0, grad)
    elif phi == "softplus":
        grad = grad * opacity
    else:
        grad = tl.where(y <= 80, grad * d, 0.0)
    return grad


@triton.jit
def _load(x, strides, n, k, p, inside, arithmetic: tl.constexpr):
    """Return elements (n, k, p) of x; n and p have 64 bits."""
    x_n, x_k, x_p = strides
    return tl.load(x + n * x_n + tl.full([], k, tl.int64) * x_k + p * x_p, mask=inside, other=0.0).to(arithmetic)


# One program weighs all K scales of BLOCK_P pixels of one image. Without `composite` it writes their opacities instead.
@triton.jit
def _weights_kernel(
    y, weights_out, transmittance_out,
    pixels, y_strides,
    K: tl.constexpr, phi: tl.constexpr, opaque_last: tl.constexpr, composite: tl.constexpr,
    BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = p < pixels
    depth = tl.zeros([BLOCK_P], arithmetic)
    transmittance = tl.full([BLOCK_P], 1.0, arithmetic)  # T_k
    for k in tl.static_range(K):
        if opaque_last and k == K - 1:
            weight = transmittance
            transmittance = transmittance * 0.0  # a NaN stays one
        else:
            d, weight = _depth_and_opacity(_load(y, y_strides, n, k, p, inside, arithmetic), phi, arithmetic)
            if composite:
                weight *= transmittance
                depth += d
                transmittance = tl.exp(-depth)
        tl.store(weights_out + (n * K + k) * pixels + p, weight.to(weights_out.dtype.element_ty), mask=inside)
    if transmittance_out is not None:
        tl.store(transmittance_out + n * pixels + p, transmittance.to(transmittance_out.dtype.element_ty), mask=inside)


# One program makes the gradient of all K logits of BLOCK_P pixels of one image:
# dL/dd_i = exp(-d_i) T_i G_i - sum_{j>i} w_j G_j - T_{K+1} G_T, or exp(-d_i) G_i where G is that of the opacities.
@triton.jit
def _weights_backward_kernel(
    y, grad_weights, grad_transmittance, grad_y,
    pixels, y_strides, weights_strides, transmittance_strides,
    K: tl.constexpr, phi: tl.constexpr, opaque_last: tl.constexpr, composite: tl.constexpr,
    BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = p < pixels
    depth = tl.zeros([BLOCK_P], arithmetic)
    transmittances = (tl.full([BLOCK_P], 1.0, arithmetic),)  # T_1, ..., T_{K+1}
    for k in tl.static_range(K):
        d, _ = _depth_and_opacity(_load(y, y_strides, n, k, p, inside, arithmetic), phi, arithmetic)
        depth += d
        transmittances = transmittances + (tl.exp(-depth),)
    behind = tl.zeros([BLOCK_P], arithmetic)  # what the scales behind this one, and the background, take back
    if grad_transmittance is not None and not opaque_last:
        behind = transmittances[K] * _load(grad_transmittance, transmittance_strides, n, 0, p, inside, arithmetic)
    for k in tl.static_range(K - 1, -1, -1):
        grad = tl.zeros([BLOCK_P], arithmetic)
        if grad_weights is not None:
            grad = _load(grad_weights, weights_strides, n, k, p, inside, arithmetic)
        if opaque_last and k == K - 1:
            grad_logit = tl.zeros([BLOCK_P], arithmetic)
            behind = transmittances[k] * grad
        else:
            logit = _load(y, y_strides, n, k, p, inside, arithmetic)
            d, opacity = _depth_and_opacity(logit, phi, arithmetic)
            if composite:
                grad *= transmittances[k]
            grad_depth = tl.exp(-d) * grad
            if composite:
                grad_depth -= behind
                behind += opacity * grad
            grad_logit = _logit_gradient(grad_depth, logit, d, opacity, phi)
        tl.store(grad_y + (n * K + k) * pixels + p, grad_logit.to(grad_y.dtype.element_ty), mask=inside)


def _check_phi(phi: str) -> None:
    if phi not in ("abs", "relu", "softplus", "exp"):
        raise ValueError(f"phi must be abs, relu, softplus or exp, got {phi!r}")


def weigh(
    logits: Tensor, phi: str, opaque_last: bool, weights: Tensor, transmittance: Tensor | None, composite: bool = True
) -> None:
    _check_phi(phi)
    batch, scales, height, width = logits.shape
    tile = _tiles.of_pixels(min(logits.itemsize, weights.itemsize))
    launch(
        _weights_kernel, (_tiles.cdiv(height * width, tile["BLOCK_P"]), batch),
        logits, weights, transmittance, height * width, layout.strides(logits),
        K=scales, phi=phi, opaque_last=opaque_last, composite=composite,
        **tile, arithmetic=arithmetic_of(weights),
    )  # fmt: skip


def weigh_backward(
    grad_weights: Tensor | None,
    grad_transmittance: Tensor | None,
    logits: Tensor,
    phi: str,
    opaque_last: bool,
    grad_logits: Tensor,
    composite: bool = True,
) -> None:
    _check_phi(phi)
    batch, scales, height, width = logits.shape
    grads = (grad_weights, grad_transmittance)
    strides = ((0, 0, 0) if x is None else layout.strides(x) for x in grads)
    tile = _tiles.of_pixels(min(logits.itemsize, grad_logits.itemsize))
    launch(
        _weights_backward_kernel, (_tiles.cdiv(height * width, tile["BLOCK_P"]), batch),
        logits, *grads, grad_logits, height * width, layout.strides(logits), *strides,
        K=scales, phi=phi, opaque_last=opaque_last, composite=composite,
        **tile, arithmetic=arithmetic_of(*(x for x in grads if x is not None)),
    )  # fmt: skip


def make_maps(predictions: list[Tensor], logits: Tensor, phi: str, opaque_last: bool, resize_opacities: bool) -> Tensor:
    if len(predictions) != logits.shape[1]:
        raise ValueError(
            f"logits must have a channel for each of {len(predictions)} predictions, got {logits.shape[1]}"
        )
    dtype = torch.float64 if predictions[0].dtype == torch.float64 else torch.float32
    maps = logits.new_empty(logits.shape, dtype=dtype)
    weigh(logits, phi, opaque_last, maps, None, composite=not resize_opacities)
    return maps


def maps_backward(
    grad: Tensor,
    maps: Tensor,
    logits: Tensor,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    grad_logits: Tensor,
) -> None:
    """Fill `grad_logits`, given the gradient `grad` of the maps resized to the output's resolution."""
    grad_maps = maps.new_empty(maps.shape)
    gather(grad, None, 0, grad_maps, grad.shape[2])
    weigh_backward(grad_maps, None, logits, phi, opaque_last, grad_logits, composite=not resize_opacities)
