"""scale_space_render in Triton: out = sum_k w_k up(pred_k), resized on the fly."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._compositing import composite, sample_maps, store_map_gradients, sums_of_products
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._maps import index_of
from afa_kernels.triton_kernels._nchw import as_nchw, copy, empty_nchw
from afa_kernels.triton_kernels._resize import (
    gather,
    sample,
    size_of,
    sizes_of,
    strides_and_size,
    strides_of,
    taps_of_all,
)
from afa_kernels.triton_kernels._weights import make_maps, maps_backward


# One program renders BLOCK_P pixels of one row of one image, over all channels.
@triton.jit
def _forward_kernel(
    predictions, maps, out,
    strides, sizes, maps_strides, maps_size, out_strides, out_size, channels,
    K: tl.constexpr, same_sizes: tl.constexpr, maps_same_size: tl.constexpr,
    resize_opacities: tl.constexpr, opaque_last: tl.constexpr,
    BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    out_n, out_c, out_p = out_strides
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(out_size[1], BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_x = x < out_size[1]
    weights = sample_maps(
        maps, maps_strides, maps_size, n, y, x, out_size, inside_x,
        K, maps_same_size, resize_opacities and opaque_last, index, arithmetic,
    )  # fmt: skip
    if resize_opacities:
        weights, _ = composite(weights, K)
    found = taps_of_all(strides, sizes, n, y, x, out_size, K, same_sizes, index, arithmetic)
    out += n * out_n + y * out_size[1] * out_p
    for c in range(0, channels):
        rendered = tl.zeros([BLOCK_P], arithmetic)
        for k in tl.static_range(K):
            rendered += weights[k] * sample(
                predictions[k], strides[k], c, found[k], inside_x, same_sizes[k], arithmetic
            )
        tl.store(out + tl.cast(c, tl.int64) * out_c + x * out_p, rendered.to(out.dtype.element_ty), mask=inside_x)


# One program handles BLOCK_P output pixels of one row of one image, over all channels: it writes their weights and the
# gradient that reaches their maps, both (N, K, H, W).
@triton.jit
def _maps_backward_kernel(
    grad, predictions, maps, weights_out, grad_maps_out,
    grad_strides, strides, sizes, maps_strides, maps_size, out_size, channels,
    K: tl.constexpr, same_sizes: tl.constexpr, maps_same_size: tl.constexpr,
    resize_opacities: tl.constexpr, opaque_last: tl.constexpr,
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
    opacities = sample_maps(
        maps, maps_strides, maps_size, n, y, x, out_size, inside_x,
        K, maps_same_size, resize_opacities and opaque_last, index, arithmetic,
    )  # fmt: skip
    weights, transmittances = opacities, opacities
    if resize_opacities:
        weights, transmittances = composite(opacities, K)
    if weights_out is not None:
        for k in tl.static_range(K):
            tl.store(weights_out + (n * K + k) * height * width + p, weights[k], mask=inside_x)
    if grad_maps_out is not None:
        found = taps_of_all(strides, sizes, n, y, x, out_size, K, same_sizes, index, arithmetic)
        sums = sums_of_products(
            grad + n * grad_n + y * width * grad_p, grad_c, x * grad_p, predictions, strides, found, channels, inside_x,
            K, same_sizes, arithmetic,
        )  # fmt: skip
        store_map_gradients(
            grad_maps_out, n, p, out_size, sums, opacities, transmittances, inside_x, K, resize_opacities
        )


@sized(predictions="ncxy", logits="nkxy", out="nchw")
@split_batch()
def forward(
    predictions: list[Tensor], logits: Tensor, phi: str, opaque_last: bool, resize_opacities: bool, out: Tensor
) -> None:
    batch, channels, height, width = out.shape
    predictions, rendered = as_nchw(predictions), empty_nchw(out)
    maps = make_maps(predictions, logits, phi, opaque_last, resize_opacities)
    tile = _tiles.of_row(width, len(predictions), out.itemsize)
    launch(
        _forward_kernel, (height * _tiles.cdiv(width, tile["BLOCK_P"]), batch),
        tuple(predictions), maps, rendered,
        strides_of(predictions), sizes_of(predictions), *strides_and_size(maps),
        layout.strides(rendered), size_of(out), channels,
        K=len(predictions), same_sizes=tuple(size_of(x) == size_of(out) for x in predictions),
        maps_same_size=size_of(maps) == size_of(out), resize_opacities=resize_opacities, opaque_last=opaque_last,
        **tile, index=index_of([*predictions, maps]), arithmetic=arithmetic_of(maps),
    )  # fmt: skip
    copy(rendered, out)


@sized(grad="nchw", predictions="ncxy", logits="nkxy")
@split_batch()
def backward(
    grad: Tensor,
    predictions: list[Tensor],
    logits: Tensor,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    needed: list[bool],
    grads: list[Tensor],
) -> None:
    *grad_predictions, grad_logits = spread(grads, needed)
    batch, channels, height, width = grad.shape
    predictions, (grad,) = as_nchw(predictions), as_nchw([grad])
    maps = make_maps(predictions, logits, phi, opaque_last, resize_opacities)
    resized = (batch, len(predictions), height, width)
    weights_out = maps.new_empty(resized) if any(needed[:-1]) else None
    grad_maps_out = maps.new_empty(resized) if grad_logits is not None else None
    tile = _tiles.of_row(width, len(predictions), grad.itemsize)
    launch(
        _maps_backward_kernel, (height * _tiles.cdiv(width, tile["BLOCK_P"]), batch),
        grad, tuple(predictions), maps, weights_out, grad_maps_out,
        layout.strides(grad), strides_of(predictions), sizes_of(predictions),
        *strides_and_size(maps), size_of(grad), channels,
        K=len(predictions), same_sizes=tuple(size_of(x) == size_of(grad) for x in predictions),
        maps_same_size=size_of(maps) == size_of(grad), resize_opacities=resize_opacities, opaque_last=opaque_last,
        **tile, index=index_of([*predictions, maps]), arithmetic=arithmetic_of(maps),
    )  # fmt: skip
    for k, grad_prediction in enumerate(grad_predictions):
        if grad_prediction is not None:
            grad_nchw = empty_nchw(grad_prediction)
            gather(grad, weights_out, k, grad_nchw, height)
            copy(grad_nchw, grad_prediction)
    if grad_logits is not None and grad_maps_out is not None:
        maps_backward(grad_maps_out, maps, logits, phi, opaque_last, resize_opacities, grad_logits)
