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
from afa_kernels.triton_kernels._compositing import composite
from afa_kernels.triton_kernels._launch import arithmetic_of, check_counts, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._nchw import as_nchw, copy, empty_nchw
from afa_kernels.triton_kernels._resize import gather, sample, size_of, sizes_of, strides_of


@triton.jit
def _sample_opacities(
    attentions, strides, sizes, n, y, x, out_size, inside,
    K: tl.constexpr, same_sizes: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Return the opacities of the K scales at the output pixels, each [1, BLOCK_P]."""
    opacities = ()
    c = tl.full([], 0, tl.int64)
    for k in tl.static_range(K - 1):
        value = sample(attentions[k], strides[k], sizes[k], n, c, y, x, out_size, inside, same_sizes[k], arithmetic)
        opacities = opacities + (value,)
    return opacities + (tl.full(x.shape, 1.0, arithmetic),)


# One program renders BLOCK_P pixels of one row of one image, over all channels.
@triton.jit
def _forward_kernel(
    predictions, attentions, out,
    strides, sizes, attention_strides, attention_sizes, out_strides, out_size, channels,
    K: tl.constexpr, same_sizes: tl.constexpr, attention_same_sizes: tl.constexpr, premultiplied: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    out_n, out_c, out_p = out_strides
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(out_size[1], BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    inside_x = x < out_size[1]
    opacities = _sample_opacities(
        attentions, attention_strides, attention_sizes, n, y, x, out_size, inside_x,
        K, attention_same_sizes, arithmetic,
    )  # fmt: skip
    weights, transmittances = composite(opacities, K)
    if premultiplied:
        weights = transmittances
    for first in tl.range(0, channels, BLOCK_C, disable_licm=K > 8):
        c = first + tl.arange(0, BLOCK_C)[:, None].to(tl.int64)
        inside = (c < channels) & inside_x
        fused = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
        for k in tl.static_range(K):
            fused += weights[k] * sample(
                predictions[k], strides[k], sizes[k], n, c, y, x, out_size, inside, same_sizes[k], arithmetic
            )
        at = out + n * out_n + c * out_c + (y * out_size[1] + x) * out_p
        tl.store(at, fused.to(out.dtype.element_ty), mask=inside)


# One program handles BLOCK_P output pixels of one row of one image, over all channels: it writes their weights,
# (N, K, H, W), and the gradient that reaches their opacities, (N, K - 1, H, W).
@triton.jit
def _opacities_backward_kernel(
    grad, predictions, attentions, weights_out, grad_opacities_out,
    grad_strides, strides, sizes, attention_strides, attention_sizes, out_size, channels,
    K: tl.constexpr, same_sizes: tl.constexpr, attention_same_sizes: tl.constexpr, premultiplied: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    grad_n, grad_c, grad_p = grad_strides
    height, width = out_size
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(width, BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    p = y * width + x
    inside_x = x < width
    opacities = _sample_opacities(
        attentions, attention_strides, attention_sizes, n, y, x, out_size, inside_x,
        K, attention_same_sizes, arithmetic,
    )  # fmt: skip
    weights, transmittances = composite(opacities, K)
    if premultiplied:
        weights = transmittances
    if weights_out is not None:
        for k in tl.static_range(K):
            tl.store(weights_out + (n * K + k) * height * width + p, weights[k], mask=inside_x)
    if grad_opacities_out is not None:
        sums = ()  # over the channels, of grad up(pred_k): the gradient G_k that reaches the weight of scale k
        for _ in tl.static_range(K):
            sums = sums + (tl.zeros([1, BLOCK_P], arithmetic),)
        for first in tl.range(0, channels, BLOCK_C, disable_licm=K > 8):
            c = first + tl.arange(0, BLOCK_C)[:, None].to(tl.int64)
            inside = (c < channels) & inside_x
            g = tl.load(grad + n * grad_n + c * grad_c + p * grad_p, mask=inside, other=0.0).to(arithmetic)
            added = ()
            for k in tl.static_range(K):
                prediction = sample(
                    predictions[k], strides[k], sizes[k], n, c, y, x, out_size, inside, same_sizes[k], arithmetic
                )
                added = added + (sums[k] + tl.sum(g * prediction, axis=0)[None, :],)
            sums = added
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
    predictions, fused = as_nchw(predictions), empty_nchw(out)
    tile = _tiles.of_row(channels, width, len(predictions), out.itemsize)
    launch(
        _forward_kernel, (height * triton.cdiv(width, tile["BLOCK_P"]), batch),
        tuple(predictions), tuple(attentions), fused,
        strides_of(predictions), sizes_of(predictions), strides_of(attentions), sizes_of(attentions),
        layout.strides(fused), size_of(out), channels,
        K=len(predictions), same_sizes=tuple(size_of(x) == size_of(out) for x in predictions),
        attention_same_sizes=tuple(size_of(x) == size_of(out) for x in attentions), premultiplied=premultiplied,
        **tile, arithmetic=arithmetic_of(predictions[0]),
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
    predictions, (grad,) = as_nchw(predictions), as_nchw([grad])
    tile = _tiles.of_row(channels, width, scales, grad.itemsize)
    launch(
        _opacities_backward_kernel, (height * triton.cdiv(width, tile["BLOCK_P"]), batch),
        grad, tuple(predictions), tuple(attentions), weights, grad_opacities,
        layout.strides(grad), strides_of(predictions), sizes_of(predictions),
        strides_of(attentions), sizes_of(attentions), size_of(grad), channels,
        K=scales, same_sizes=tuple(size_of(x) == size_of(grad) for x in predictions),
        attention_same_sizes=tuple(size_of(x) == size_of(grad) for x in attentions), premultiplied=premultiplied,
        **tile, arithmetic=arithmetic_of(predictions[0]),
    )  # fmt: skip
    for k, grad_prediction in enumerate(places[:scales]):
        if grad_prediction is not None:
            grad_nchw = empty_nchw(grad_prediction)
            gather(grad, weights, k, grad_nchw, height)
            copy(grad_nchw, grad_prediction)
    for k, grad_attention in enumerate(places[scales:]):
        if grad_attention is not None and grad_opacities is not None:
            gather(grad_opacities[:, k : k + 1], None, 0, grad_attention, height)
