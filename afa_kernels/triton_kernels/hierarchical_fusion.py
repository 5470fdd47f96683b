"""hierarchical_fusion in Triton: predictions composited by opacities, each resized on the fly from its own resolution.

The last scale is opaque and has no opacity of its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._compositing import composite, sums_of_products
from afa_kernels.triton_kernels._launch import arithmetic_of, check_counts, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._maps import index_of
from afa_kernels.triton_kernels._nchw import as_nchw, copy, empty_nchw
from afa_kernels.triton_kernels._resize import gather, sample, size_of, sizes_of, strides_of, taps_of_all


@triton.jit
def _sample_opacities(
    attentions, strides, sizes, n, y, x, out_size, inside,
    K: tl.constexpr, same_sizes: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Return the opacities of the K scales at the output pixels, each [BLOCK_P]."""
    found = taps_of_all(strides, sizes, n, y, x, out_size, K - 1, same_sizes, index, arithmetic)
    opacities = ()
    for k in tl.static_range(K - 1):
        opacities = opacities + (sample(attentions[k], strides[k], 0, found[k], inside, same_sizes[k], arithmetic),)
    return opacities + (tl.full(x.shape, 1.0, arithmetic),)


# One program renders BLOCK_P pixels of one row of one image, over all channels.
@triton.jit
def _forward_kernel(
    predictions, attentions, out,
    strides, sizes, attention_strides, attention_sizes, out_strides, out_size, channels,
    K: tl.constexpr, same_sizes: tl.constexpr, attention_same_sizes: tl.constexpr, premultiplied: tl.constexpr,
    BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    out_n, out_c, out_p = out_strides
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(out_size[1], BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_x = x < out_size[1]
    opacities = _sample_opacities(
        attentions, attention_strides, attention_sizes, n, y, x, out_size, inside_x,
        K, attention_same_sizes, index, arithmetic,
    )  # fmt: skip
    weights, transmittances = composite(opacities, K)
    if premultiplied:
        weights = transmittances
    found = taps_of_all(strides, sizes, n, y, x, out_size, K, same_sizes, index, arithmetic)
    out += n * out_n + y * out_size[1] * out_p
    for c in range(0, channels):
        fused = tl.zeros([BLOCK_P], arithmetic)
        for k in tl.static_range(K):
            fused += weights[k] * sample(predictions[k], strides[k], c, found[k], inside_x, same_sizes[k], arithmetic)
        tl.store(out + tl.cast(c, tl.int64) * out_c + x * out_p, fused.to(out.dtype.element_ty), mask=inside_x)


# One program handles BLOCK_P output pixels of one row of one image, over all channels: it writes their weights,
# (N, K, H, W), and the gradient that reaches their opacities, (N, K - 1, H, W).
@triton.jit
def _opacities_backward_kernel(
    grad, predictions, attentions, weights_out, grad_opacities_out,
    grad_strides, strides, sizes, attention_strides, attention_sizes, out_size, channels,
    K: tl.constexpr, same_sizes: tl.constexpr, attention_same_sizes: tl.constexpr, premultiplied: tl.constexpr,
    BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    grad_n, grad_c, grad_p = grad_strides
    height, width = out_size
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(width, BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    p = y * width + x
    inside_x = x < width
    opacities = _sample_opacities(
        attentions, attention_strides, attention_sizes, n, y, x, out_size, inside_x,
        K, attention_same_sizes, index, arithmetic,
    )  # fmt: skip
    weights, transmittances = composite(opacities, K)
    if premultiplied:
        weights = transmittances
    if weights_out is not None:
        for k in tl.static_range(K):
            tl.store(weights_out + (n * K + k) * height * width + p, weights[k], mask=inside_x)
    if grad_opacities_out is not None:
        found = taps_of_all(strides, sizes, n, y, x, out_size, K, same_sizes, index, arithmetic)
        sums = sums_of_products(
            grad + n * grad_n + y * width * grad_p, grad_c, x * grad_p, predictions, strides, found, channels, inside_x,
            K, same_sizes, arithmetic,
        )  # fmt: skip
        behind = sums[K - 1]  # S_{k+1}, where S_k = alpha_k G_k + (1 - alpha_k) S_{k+1}, premultiplied with G_k
        for k in tl.static_range(K - 2, -1, -1):
            if premultiplied:
                grad_opacity = -transmittances[k] * behind
                behind = sums[k] + (1.0 - opacities[k]) * behind
            else:
                grad_opacity = transmittances[k] * (sums[k] - behind)
                behind = opacities[k] * sums[k] + (1.0 - opacities[k]) * behind
            tl.store(grad_opacities_out + (n * (K - 1) + k) * height * width + p, grad_opacity, mask=inside_x)


@sized(predictions="ncxy", attentions="n1xy", out="nchw")
@split_batch()
def forward(predictions: list[Tensor], attentions: list[Tensor], premultiplied: bool, out: Tensor) -> None:
    check_counts(attentions=(attentions, len(predictions) - 1))
    batch, channels, height, width = out.shape
    predictions, attentions, fused = as_nchw(predictions), as_nchw(attentions), empty_nchw(out)
    tile = _tiles.of_row(width, len(predictions), out.itemsize)
    launch(
        _forward_kernel, (height * _tiles.cdiv(width, tile["BLOCK_P"]), batch),
        tuple(predictions), tuple(attentions), fused,
        strides_of(predictions), sizes_of(predictions), strides_of(attentions), sizes_of(attentions),
        layout.strides(fused), size_of(out), channels,
        K=len(predictions), same_sizes=tuple(size_of(x) == size_of(out) for x in predictions),
        attention_same_sizes=tuple(size_of(x) == size_of(out) for x in attentions), premultiplied=premultiplied,
        **tile, index=index_of([*predictions, *attentions]), arithmetic=arithmetic_of(predictions[0]),
    )  # fmt: skip
    copy(fused, out)


@sized(grad="nchw", predictions="ncxy", attentions="n1xy")
@split_batch()
def backward(
    grad: Tensor,
    predictions: list[Tensor],
    attentions: list[Tensor],
    premultiplied: bool,
    needed: list[bool],
    grads: list[Tensor],
) -> None:
    check_counts(attentions=(attentions, len(predictions) - 1))
    batch, channels, height, width = grad.shape
    dtype = torch.float64 if predictions[0].dtype == torch.float64 else torch.float32
    scales = len(predictions)
    places = spread(grads, needed)
    weights = grad.new_empty((batch, scales, height, width), dtype=dtype) if any(needed[:scales]) else None
    grad_opacities = grad.new_empty((batch, scales - 1, height, width), dtype=dtype) if any(needed[scales:]) else None
    predictions, attentions, (grad,) = as_nchw(predictions), as_nchw(attentions), as_nchw([grad])
    tile = _tiles.of_row(width, scales, grad.itemsize)
    launch(
        _opacities_backward_kernel, (height * _tiles.cdiv(width, tile["BLOCK_P"]), batch),
        grad, tuple(predictions), tuple(attentions), weights, grad_opacities,
        layout.strides(grad), strides_of(predictions), sizes_of(predictions),
        strides_of(attentions), sizes_of(attentions), size_of(grad), channels,
        K=scales, same_sizes=tuple(size_of(x) == size_of(grad) for x in predictions),
        attention_same_sizes=tuple(size_of(x) == size_of(grad) for x in attentions), premultiplied=premultiplied,
        **tile, index=index_of([*predictions, *attentions]), arithmetic=arithmetic_of(predictions[0]),
    )  # fmt: skip
    for k, grad_prediction in enumerate(places[:scales]):
        if grad_prediction is not None:
            grad_nchw = empty_nchw(grad_prediction)
            gather(grad, weights, k, grad_nchw, height)
            copy(grad_nchw, grad_prediction)
    for k, grad_attention in enumerate(places[scales:]):
        if grad_attention is not None and grad_opacities is not None:
            gather(grad_opacities[:, k : k + 1], None, 0, grad_attention, height)
