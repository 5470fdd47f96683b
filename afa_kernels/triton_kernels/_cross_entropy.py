"""The cross-entropy of a rendering: weight_t (lse - r_t) + sum_c smoothing_c (lse - r_c) of every pixel.

The rendering r is sum_k w_k up(prediction_k), or without maps the one prediction that is resized; lse is
log(sum_c exp(r_c)). The forward kernel keeps it. The backward renders once more, a band of rows at a time, writes the
gradient of the band and gathers it to the predictions before it goes to the next band.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._compositing import composite, sample_maps, store_map_gradients
from afa_kernels.triton_kernels._launch import arithmetic_of, launch
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
from afa_kernels.triton_kernels._softmax import add_exp

# Of the gradient of a band. A quarter would stay in the second-level cache; but ten bands of an image of 1024 x 2048
# pixels took the CPU 5.4 ms to launch, for 0.63 ms of an H200.
BAND_BYTES = 2**26


@triton.jit
def _target(target, class_weight, ignore_index, channels, inside, arithmetic: tl.constexpr):
    """Return the classes of some pixels and their weights: 0 where the target is ignored, NaN where it is no class."""
    t = tl.load(target, mask=inside, other=0).to(tl.int64)
    is_class = (t >= 0) & (t < channels)
    weight = tl.full(t.shape, 1.0, arithmetic)
    if class_weight is not None:
        weight = tl.load(class_weight + t, mask=inside & is_class, other=0.0)
    weight = tl.where(is_class, weight, float("nan"))
    return t, tl.where(t == ignore_index, 0.0, weight)


# One program makes the losses of BLOCK_P pixels of one row of one image.
@triton.jit
def _forward_kernel(
    predictions, maps, target, class_weight, smoothing, losses, lse_out,
    strides, sizes, maps_strides, maps_size, out_size, channels, ignore_index,
    K: tl.constexpr, same_sizes: tl.constexpr, maps_same_size: tl.constexpr,
    resize_opacities: tl.constexpr, opaque_last: tl.constexpr,
    BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    height, width = out_size
    blocks = tl.cdiv(width, BLOCK_P)
    y = (tl.program_id(0) // blocks).to(tl.int64)
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_x = x < width
    p = n * height * width + y * width + x
    t, weight = _target(target + p, class_weight, ignore_index, channels, inside_x, arithmetic)
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
    total = tl.zeros([BLOCK_P], arithmetic)
    score_of_target = tl.zeros([BLOCK_P], arithmetic)
    smooth = tl.zeros([BLOCK_P], arithmetic)  # sum_c smoothing_c r_c
    for c in range(0, channels):
        score = tl.zeros([BLOCK_P], arithmetic)
        for k in tl.static_range(K):
            value = sample(predictions[k], strides[k], c, found[k], inside_x, same_sizes[k], arithmetic)
            score = tl.fma(weights[k], value, score) if maps is not None else value
        if smoothing is not None:
            smooth += tl.load(smoothing + tl.cast(c, tl.int64)) * score
        total = add_exp(total, best, score)
        best = tl.maximum(best, score)
        score_of_target = tl.where(c == t, score, score_of_target)
    # an infinite score has no softmax
    lse = tl.where(best == float("inf"), float("nan"), best + tl.log(total))
    loss = weight * (lse - score_of_target)
    if smoothing is not None:
        loss += tl.load(smoothing + tl.cast(channels, tl.int64)) * lse - smooth
    loss = tl.where(t == ignore_index, 0.0, loss)
    tl.store(lse_out + p, lse, mask=inside_x)
    tl.store(losses + p, loss, mask=inside_x)


# One program handles BLOCK_P output pixels of one row of one image, over all channels: it writes the gradient of their
# rendered scores, whose first row is `first_row`; and of all rows their weights and the gradient that reaches their
# maps, both (N, K, H, W).
@triton.jit(do_not_specialize=["first_row"])
def _gradient_kernel(
    grad_losses, target, class_weight, smoothing, lse, predictions, maps, grad_out, weights_out, grad_maps_out,
    grad_strides, strides, sizes, maps_strides, maps_size, out_size, channels, ignore_index, first_row,
    K: tl.constexpr, same_sizes: tl.constexpr, maps_same_size: tl.constexpr,
    resize_opacities: tl.constexpr, opaque_last: tl.constexpr,
    BLOCK_P: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    grad_n, grad_c, grad_p = grad_strides
    height, width = out_size
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(width, BLOCK_P)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    y = first_row + row
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    p = y * width + x
    inside_x = x < width
    of_image = n * height * width
    t, weight = _target(target + of_image + p, class_weight, ignore_index, channels, inside_x, arithmetic)
    upstream = tl.load(grad_losses + of_image + p, mask=inside_x, other=0.0)
    upstream = tl.where(t == ignore_index, 0.0, upstream)  # whatever reaches the loss of an ignored pixel
    factor = weight * upstream
    log_sum_exp = tl.load(lse + of_image + p, mask=inside_x, other=0.0)
    opacities, weights, transmittances = (), (), ()
    if maps is not None:
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
    sums = ()  # over the channels, of the gradient times up(pred_k): what reaches w_k
    for _ in tl.static_range(K):
        sums = sums + (tl.zeros([BLOCK_P], arithmetic),)
    found = taps_of_all(strides, sizes, n, y, x, out_size, K, same_sizes, index, arithmetic)
    if grad_out is not None:
        grad_out += n * grad_n + row * width * grad_p
    for c in range(0, channels):
        score = tl.zeros([BLOCK_P], arithmetic)
        values = ()
        for k in tl.static_range(K):
            value = sample(predictions[k], strides[k], c, found[k], inside_x, same_sizes[k], arithmetic)
            values = values + (value,)
            score = tl.fma(weights[k], value, score) if maps is not None else value
        softmax = tl.exp(score - log_sum_exp)
        g = factor * (softmax - tl.where(c == t, 1.0, 0.0))
        if smoothing is not None:
            g += upstream * (
                tl.load(smoothing + tl.cast(channels, tl.int64)) * softmax - tl.load(smoothing + tl.cast(c, tl.int64))
            )
        if grad_out is not None:
            tl.store(grad_out + tl.cast(c, tl.int64) * grad_c + x * grad_p, g, mask=inside_x)
        if maps is not None:
            added = ()
            for k in tl.static_range(K):
                added = added + (sums[k] + g * values[k],)
            sums = added
    if grad_maps_out is not None:
        store_map_gradients(
            grad_maps_out, n, p, out_size, sums, opacities, transmittances, inside_x, K, resize_opacities
        )


def _check_smoothing(smoothing: Tensor | None, channels: int) -> None:
    if smoothing is not None and smoothing.shape != (channels + 1,):
        raise ValueError(f"smoothing must have the shape ({channels + 1},), got {tuple(smoothing.shape)}")


def _pixels(predictions: Sequence[Tensor]) -> int:
    """Return how many a thread has: the faster on an H200."""
    return 1 if len(predictions) <= 2 else 2


def forward(
    predictions: list[Tensor],
    maps: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    smoothing: Tensor | None,
    ignore_index: int,
    opaque_last: bool,
    resize_opacities: bool,
    losses: Tensor,
    lse: Tensor,
) -> None:
    batch, height, width = losses.shape
    channels = predictions[0].shape[1]
    _check_smoothing(smoothing, channels)
    predictions = as_nchw(predictions)
    tile = _tiles.of_row(width, len(predictions), losses.itemsize, _pixels(predictions))
    launch(
        _forward_kernel, (height * _tiles.cdiv(width, tile["BLOCK_P"]), batch),
        tuple(predictions), maps, target, weight, smoothing, losses, lse,
        strides_of(predictions), sizes_of(predictions), *strides_and_size(maps),
        (height, width), channels, ignore_index,
        K=len(predictions), same_sizes=tuple(size_of(x) == (height, width) for x in predictions),
        maps_same_size=maps is not None and size_of(maps) == (height, width), resize_opacities=resize_opacities,
        opaque_last=opaque_last, **tile,
        index=index_of(predictions if maps is None else [*predictions, maps]), arithmetic=arithmetic_of(losses),
    )  # fmt: skip


def backward(
    grad: Tensor,
    predictions: list[Tensor],
    maps: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    smoothing: Tensor | None,
    lse: Tensor,
    ignore_index: int,
    opaque_last: bool,
    resize_opacities: bool,
    grad_predictions: Sequence[Tensor | None],
    grad_maps_out: Tensor | None,
) -> None:
    """Fill the gradients of the predictions and, (N, K, H, W), what reaches the resized maps, where they are wanted."""
    batch, height, width = grad.shape
    channels = predictions[0].shape[1]
    _check_smoothing(smoothing, channels)
    together = max(1, BAND_BYTES // max(1, channels * height * width * grad.itemsize))
    if together < batch:  # as bands of few rows of all images would render most rows several times
        for first in range(0, batch, together):
            images = slice(first, first + together)
            backward(
                grad[images], [x[images] for x in predictions], None if maps is None else maps[images], target[images],
                weight, smoothing, lse[images], ignore_index, opaque_last, resize_opacities,
                [None if x is None else x[images] for x in grad_predictions],
                None if grad_maps_out is None else grad_maps_out[images],
            )  # fmt: skip
        return
    predictions = as_nchw(predictions)
    wanted = [(k, empty_nchw(x), x) for k, x in enumerate(grad_predictions) if x is not None]
    weights_out = None
    if maps is not None and wanted:
        weights_out = maps.new_empty((batch, len(predictions), height, width))
    tile = _tiles.of_row(width, len(predictions), grad.itemsize, _pixels(predictions))
    index = index_of(predictions if maps is None else [*predictions, maps])
    sources = [x.shape[2] for _, _, x in wanted]
    for owned, first, last in bands(height, sources, BAND_BYTES // (batch * channels * width * grad.itemsize)):
        band = None
        if wanted:
            band = grad.new_empty((batch, channels, last - first, width))
        launch(
            _gradient_kernel, ((last - first) * _tiles.cdiv(width, tile["BLOCK_P"]), batch),
            grad, target, weight, smoothing, lse, tuple(predictions), maps, band, weights_out, grad_maps_out,
            (0, 0, 0) if band is None else layout.strides(band),
            strides_of(predictions), sizes_of(predictions), *strides_and_size(maps),
            (height, width), channels, ignore_index, first,
            K=len(predictions), same_sizes=tuple(size_of(x) == (height, width) for x in predictions),
            maps_same_size=maps is not None and size_of(maps) == (height, width), resize_opacities=resize_opacities,
            opaque_last=opaque_last, **tile, index=index, arithmetic=arithmetic_of(grad),
        )  # fmt: skip
        for (k, grad_nchw, _), rows in zip(wanted, owned):
            if band is not None and rows[0] < rows[1]:
                gather(band, weights_out, k, grad_nchw, height, rows, first)
    for _, grad_nchw, out in wanted:
        copy(grad_nchw, out)


def bands(height: int, sources: list[int], rows: int) -> list[tuple[list[tuple[int, int]], int, int]]:
    """Return bands of at least one and about `rows` output rows, which share out the rows of every source among them.

    Each is the source rows it owns, from one to another, and the output rows that these are read by, with its own.
    """
    found = []
    step = max(1, rows)
    for begin in range(0, height, step):
        end = min(begin + step, height)
        owned = [(begin * source // height, end * source // height) for source in sources]
        first, last = begin, end
        for (i, j), source in zip(owned, sources):
            if i < j and source != height:
                first = min(first, max((2 * i - 1) * height - source, 0) // (2 * source))
                last = max(last, min(-((source - (2 * j + 1) * height) // (2 * source)) + 1, height))
        found.append((owned, first, last))
    return found
