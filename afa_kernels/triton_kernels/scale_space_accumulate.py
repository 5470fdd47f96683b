"""scale_space_accumulate in Triton: one more scale in a rendering, in place."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch
from afa_kernels.triton_kernels._maps import index_of
from afa_kernels.triton_kernels._nchw import as_nchw, copy, empty_nchw
from afa_kernels.triton_kernels._resize import sample, size_of, strides_and_size, taps


# One program renders BLOCK_P pixels of one row of one image, over all channels. `before` and `after` are one tensor, as
# are `transmittance_before` and `transmittance_after`; of the first scale there is nothing before.
@triton.jit
def _forward_kernel(
    before, transmittance_before, prediction, weight, after, transmittance_after,
    strides, size, weight_strides, weight_size, out_strides, out_size, channels,
    same_size: tl.constexpr, weight_same_size: tl.constexpr,
    BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    out_n, out_c, out_p = out_strides
    height, width = out_size
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(width, BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_x = x < width
    p = y * width + x
    of_weight = taps(weight_strides, weight_size, n, y, x, out_size, weight_same_size, index, arithmetic)
    factor = sample(weight, weight_strides, 0, of_weight, inside_x, weight_same_size, arithmetic)
    if transmittance_after is not None:
        transmittance = tl.full(factor.shape, 1.0, arithmetic)
        if transmittance_before is not None:
            transmittance = tl.load(transmittance_before + n * height * width + p, mask=inside_x, other=0.0)
        tl.store(transmittance_after + n * height * width + p, transmittance * (1.0 - factor), mask=inside_x)
        factor *= transmittance
    found = taps(strides, size, n, y, x, out_size, same_size, index, arithmetic)
    for c in range(0, channels):
        at = n * out_n + tl.cast(c, tl.int64) * out_c + p * out_p
        value = factor * sample(prediction, strides, c, found, inside_x, same_size, arithmetic)
        if before is not None:
            value += tl.load(before + at, mask=inside_x, other=0.0)
        tl.store(after + at, value, mask=inside_x)


@sized(rendered="nchw", transmittance="n1hw", prediction="ncxy", weight="n1xy")
@split_batch()
def forward(rendered: Tensor, transmittance: Tensor | None, prediction: Tensor, weight: Tensor, first: bool) -> None:
    batch, channels, height, width = rendered.shape
    prediction, weight = as_nchw([prediction, weight])
    into = empty_nchw(rendered)
    if not first:
        copy(rendered, into)
    tile = _tiles.of_row(width, 1, rendered.itemsize)
    launch(
        _forward_kernel, (height * _tiles.cdiv(width, tile["BLOCK_P"]), batch),
        None if first else into, None if first else transmittance, prediction, weight, into, transmittance,
        *strides_and_size(prediction), *strides_and_size(weight),
        layout.strides(into), size_of(into), channels,
        same_size=size_of(prediction) == size_of(into), weight_same_size=size_of(weight) == size_of(into),
        **tile, index=index_of([prediction, weight]), arithmetic=arithmetic_of(into),
    )  # fmt: skip
    copy(into, rendered)
