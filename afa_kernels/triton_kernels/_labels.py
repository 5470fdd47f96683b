"""The channel with the largest rendered score, which no program stores.

The rendering is sum_k w_k up(prediction_k), or without maps the one prediction that is resized.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._compositing import composite, sample_maps
from afa_kernels.triton_kernels._launch import arithmetic_of, launch
from afa_kernels.triton_kernels._maps import index_of
from afa_kernels.triton_kernels._nchw import as_nchw
from afa_kernels.triton_kernels._resize import (
    sample,
    size_of,
    sizes_of,
    strides_and_size,
    strides_of,
    taps_of_all,
)
from afa_kernels.triton_kernels._softmax import add_exp


# One program labels BLOCK_P pixels of one row of one image. The first of equal scores wins, and the first NaN beats
# all. `total` is the sum of exp(score - best).
@triton.jit
def _forward_kernel(
    predictions, maps, labels, values,
    strides, sizes, maps_strides, maps_size, out_size, channels,
    K: tl.constexpr, same_sizes: tl.constexpr, maps_same_size: tl.constexpr,
    resize_opacities: tl.constexpr, opaque_last: tl.constexpr, probability: tl.constexpr,
    BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    height, width = out_size
    blocks = tl.cdiv(width, BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_x = x < width
    weights = ()
    if maps is not None:
        weights = sample_maps(
            maps, maps_strides, maps_size, n, y, x, out_size, inside_x,
            K, maps_same_size, resize_opacities and opaque_last, index, arithmetic,
        )  # fmt: skip
        if resize_opacities:
            weights, _ = composite(weights, K)
    found = taps_of_all(strides, sizes, n, y, x, out_size, K, same_sizes, index, arithmetic)
    best = tl.full([BLOCK_P], float("-inf"), arithmetic)
    label = tl.zeros([BLOCK_P], tl.int32)
    total = tl.zeros([BLOCK_P], arithmetic)
    for c in range(0, channels):
        score = tl.zeros([BLOCK_P], arithmetic)
        for k in tl.static_range(K):
            value = sample(predictions[k], strides[k], c, found[k], inside_x, same_sizes[k], arithmetic)
            if maps is not None:
                value *= weights[k]
            score += value
        if probability:
            total = add_exp(total, best, score)
        better = (score > best) | ((score != score) & (best == best))
        label = tl.where(better, c, label)
        best = tl.where(better, score, best)
    p = n * height * width + y * width + x
    tl.store(labels + p, label.to(labels.dtype.element_ty), mask=inside_x)
    if values is not None:
        value = best
        if probability:
            value = tl.where(tl.abs(best) < float("inf"), 1.0 / total, float("nan"))
        tl.store(values + p, value.to(values.dtype.element_ty), mask=inside_x)


def forward(
    predictions: list[Tensor],
    maps: Tensor | None,
    opaque_last: bool,
    resize_opacities: bool,
    probability: bool,
    labels: Tensor,
    values: Tensor | None,
) -> None:
    batch, height, width = labels.shape
    predictions = as_nchw(predictions)
    arithmetic = arithmetic_of(*predictions)
    tile = _tiles.of_row(width, len(predictions), arithmetic.primitive_bitwidth // 8)
    launch(
        _forward_kernel, (height * _tiles.cdiv(width, tile["BLOCK_P"]), batch),
        tuple(predictions), maps, labels, values,
        strides_of(predictions), sizes_of(predictions), *strides_and_size(maps),
        (height, width), predictions[0].shape[1],
        K=len(predictions), same_sizes=tuple(size_of(x) == (height, width) for x in predictions),
        maps_same_size=maps is not None and size_of(maps) == (height, width), resize_opacities=resize_opacities,
        opaque_last=opaque_last, probability=probability, **tile,
        index=index_of(predictions if maps is None else [*predictions, maps]), arithmetic=arithmetic,
    )  # fmt: skip
