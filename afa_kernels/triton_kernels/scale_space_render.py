"""scale_space_render in Triton: out = sum_k w_k up(pred_k), resized on the fly."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._compositing import composite, sample_maps, store_map_gradients
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._nchw import as_nchw, copy, empty_nchw
from afa_kernels.triton_kernels._resize import gather, sample, size_of, sizes_of, strides_and_size, strides_of
from afa_kernels.triton_kernels._weights import make_maps, maps_backward


# One program renders BLOCK_P pixels of one row of one image, over all channels.
@triton.jit
def _forward_kernel(
    predictions, maps, out,
    strides, sizes, maps_strides, maps_size, out_strides, out_size, channels,
    K: tl.constexpr, same_sizes: tl.constexpr, maps_same_size: tl.constexpr,
    resize_opacities: tl.constexpr, opaque_last: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    out_n, out_c, out_p = out_strides
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(out_size[1], BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    inside_x = x < out_size[1]
    weights = sample_maps(
        maps, maps_strides, maps_size, n, y, x, out_size, inside_x,
        K, maps_same_size, resize_opacities and opaque_last, arithmetic,
    )  # fmt: skip
    if resize_opacities:
        weights, _ = composite(weights, K)
    for first in tl.range(0, channels, BLOCK_C, disable_licm=K > 8):
        c = first + tl.arange(0, BLOCK_C)[:, None].to(tl.int64)
        inside = (c < channels) & inside_x
        rendered = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
        for k in tl.static_range(K):
            rendered += weights[k] * sample(
                predictions[k], strides[k], sizes[k], n, c, y, x, out_size, inside, same_sizes[k], arithmetic
            )
        at = out + n * out_n + c * out_c + (y * out_size[1] + x) * out_p
        tl.store(at, rendered.to(out.dtype.element_ty), mask=inside)


# One program handles BLOCK_P output pixels of one row of one image, over all channels: it writes their weights and the
# gradient that reaches their maps, both (N, K, H, W).
@triton.jit
def _maps_backward_kernel(
    grad, predictions, maps, weights_out, grad_maps_out,
    grad_strides, strides, sizes, maps_strides, maps_size, out_size, channels,
    K: tl.constexpr, same_sizes: tl.constexpr, maps_same_size: tl.constexpr,
    resize_opacities: tl.constexpr, opaque_last: tl.constexpr,
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
    opacities = sample_maps(
        maps, maps_strides, maps_size, n, y, x, out_size, inside_x,
        K, maps_same_size, resize_opacities and opaque_last, arithmetic,
    )  # fmt: skip
    weights, transmittances = opacities, opacities
    if resize_opacities:
        weights, transmittances = composite(opacities, K)
    if weights_out is not None:
        for k in tl.static_range(K):
            tl.store(weights_out + (n * K + k) * height * width + p, weights[k], mask=inside_x)
    if grad_maps_out is not None:
        # Four scales at a time: the indices and shares of more would not fit in the registers.
        sums = ()  # over the channels, of grad up(pred_k): the gradient that reaches w_k
        for first_k in tl.static_range(0, K, 4):
            part = ()
            for k in tl.static_range(first_k, first_k + 4):
                if k < K:
                    part = part + (tl.zeros([1, BLOCK_P], arithmetic),)
            for first in range(0, channels, BLOCK_C):
                c = first + tl.arange(0, BLOCK_C)[:, None].to(tl.int64)
                inside = (c < channels) & inside_x
                g = tl.load(grad + n * grad_n + c * grad_c + p * grad_p, mask=inside, other=0.0).to(arithmetic)
                added = ()
                for k in tl.static_range(first_k, first_k + 4):
                    if k < K:
                        prediction = sample(
                            predictions[k], strides[k], sizes[k], n, c, y, x, out_size, inside, same_sizes[k],
                            arithmetic,
                        )  # fmt: skip
                        added = added + (part[k - first_k] + tl.sum(g * prediction, axis=0)[None, :],)
                part = added
            sums = sums + part
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
    tile = _tiles.of_row(channels, width, len(predictions), out.itemsize)
    launch(
        _forward_kernel, (height * triton.cdiv(width, tile["BLOCK_P"]), batch),
        tuple(predictions), maps, rendered,
        strides_of(predictions), sizes_of(predictions), *strides_and_size(maps),
        layout.strides(rendered), size_of(out), channels,
        K=len(predictions), same_sizes=tuple(size_of(x) == size_of(out) for x in predictions),
        maps_same_size=size_of(maps) == size_of(out), resize_opacities=resize_opacities, opaque_last=opaque_last,
        **tile, arithmetic=arithmetic_of(maps),
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
    tile = _tiles.of_row(channels, width, len(predictions), grad.itemsize)
    launch(
        _maps_backward_kernel, (height * triton.cdiv(width, tile["BLOCK_P"]), batch),
        grad, tuple(predictions), maps, weights_out, grad_maps_out,
        layout.strides(grad), strides_of(predictions), sizes_of(predictions),
        *strides_and_size(maps), size_of(grad), channels,
        K=len(predictions), same_sizes=tuple(size_of(x) == size_of(grad) for x in predictions),
        maps_same_size=size_of(maps) == size_of(grad), resize_opacities=resize_opacities, opaque_last=opaque_last,
        **tile, arithmetic=arithmetic_of(maps),
    )  # fmt: skip
    for k, grad_prediction in enumerate(grad_predictions):
        if grad_prediction is not None:
            grad_nchw = empty_nchw(grad_prediction)
            gather(grad, weights_out, k, grad_nchw, height)
            copy(grad_nchw, grad_prediction)
    if grad_logits is not None and grad_maps_out is not None:
        maps_backward(grad_maps_out, maps, logits, phi, opaque_last, resize_opacities, grad_logits)
