"""Bilinear resizing on the fly, as F.interpolate does it with align_corners=False, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch


def encoded(numbers: Sequence[int]) -> tuple[int, ...]:
    """Return sizes or strides as kernels take them that make them `decoded`: odd numbers, and 1 for 1.

    Triton compiles a kernel once more for every size and stride in a tuple that 16 divides where it did not before.
    What is resized has so many that images of all sizes would take a hundred kernels, and the loads, which are
    scattered, would gain nothing. A stride of 1 it still knows, and by it the layout.
    """
    return tuple(2 * number - 1 for number in numbers)


@triton.jit
def decoded(number):
    return (number >> 1) + 1


@triton.jit
def _source(dst, size, size_out, arithmetic: tl.constexpr):
    """Return the two source pixels of an output pixel along one axis, in 32 bits, and the share of the second."""
    size_in = tl.cast(size, arithmetic)
    if arithmetic == tl.float64:
        scale = size_in / size_out
    else:
        scale = tl.div_rn(size_in, tl.cast(size_out, arithmetic))
    position = tl.maximum((dst.to(tl.int32).to(arithmetic) + 0.5) * scale - 0.5, 0.0)
    first = tl.minimum(position.to(tl.int32), size - 1)
    second = tl.where(size == size_out, first, tl.minimum(first + 1, size - 1))
    return first, second, position - first.to(arithmetic)


@triton.jit
def taps(
    strides, size, n, y, x, size_out, same_size: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr
):  # fmt: skip
    """Return where the output pixels y, a scalar, and x, [BLOCK_P], read every channel of image n of a map in NCHW.

    The offset of the image, those of two rows, two columns, and the shares of the four pixels; one row and x where the
    sizes are the same. Offsets inside an image are of the type `index`. `strides` and `size` are `encoded`.
    """
    of_image = n * decoded(strides[0])
    height, width = decoded(size[0]), decoded(size[1])
    height_out, width_out = size_out
    if same_size:
        found = (of_image, y.to(index) * width, x.to(index))
    else:
        y0, y1, below = _source(y, height, height_out, arithmetic)
        x0, x1, right = _source(tl.minimum(x, width_out - 1), width, width_out, arithmetic)  # also where x is outside
        found = (
            of_image, y0.to(index) * width, y1.to(index) * width, x0, x1,
            (1.0 - below) * (1.0 - right), (1.0 - below) * right, below * (1.0 - right), below * right,
        )  # fmt: skip
    return found


@triton.jit
def sample(data, strides, c, found, inside, same_size: tl.constexpr, arithmetic: tl.constexpr):
    """Return channel c, a scalar, at the `taps` that were found; `inside` says where the output has a pixel."""
    of_channel = tl.cast(c, found[1].dtype) * decoded(strides[1])
    data += found[0]
    if same_size:
        value = tl.load(data + (of_channel + found[1] + found[2]), mask=inside, other=0.0).to(arithmetic)
    else:
        top, bottom = of_channel + found[1], of_channel + found[2]
        # fused by name: a compiler might else fuse another product in the backward pass than in the forward one
        value = found[5] * tl.load(data + (top + found[3])).to(arithmetic)
        value = tl.fma(found[6], tl.load(data + (top + found[4])).to(arithmetic), value)
        value = tl.fma(found[7], tl.load(data + (bottom + found[3])).to(arithmetic), value)
        value = tl.fma(found[8], tl.load(data + (bottom + found[4])).to(arithmetic), value)
    return value


@triton.jit
def taps_of_all(
    strides, sizes, n, y, x, size_out,
    K: tl.constexpr, same_sizes: tl.constexpr, index: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Return the `taps` of K maps."""
    found = ()
    for k in tl.static_range(K):
        found = found + (taps(strides[k], sizes[k], n, y, x, size_out, same_sizes[k], index, arithmetic),)
    return found


@triton.jit
def _share(i, dst, size, size_out, arithmetic: tl.constexpr):
    """Return whether the output pixel dst reads the source pixel i along one axis, and with which share."""
    first, second, of_second = _source(dst, size, size_out, arithmetic)
    reads = ((first == i) | (second == i)) & (dst < size_out)
    return reads, tl.where(first == i, 1.0 - of_second, 0.0) + tl.where(second == i, of_second, 0.0)


@triton.jit
def _first_reader(i, size, size_out, narrow: tl.constexpr):
    """Return the first output pixel that may read the source pixel i, one before the first that should, for rounding.

    `narrow`: the product fits in 32 bits, where a GPU divides several times as fast.
    """
    if narrow:
        first = tl.maximum((2 * i - 1) * size_out - size, 0) // (2 * size)
    else:
        first = (tl.maximum((2 * i.to(tl.int64) - 1) * size_out - size, 0) // (2 * size)).to(tl.int32)
    return first


@triton.jit
def _times(number, unit: tl.constexpr):
    """Return a decoded number of units, in 64 bits."""
    return tl.cast(decoded(number), tl.int64) * unit


# A gather has two passes: down the columns, from the output's rows to the source's, and then along these rows.
#
# One program of the first makes BLOCK_P pixels of one source row, BLOCK_C channels of one image, still at the output's
# width: `size` is that of what all make. It adds up the rows of `grad` (times the weight k of each pixel and the factor
# k of the channel, if there are such, (N, K, H, W) and (N, K, C)) that read the source row. The source rows begin at
# `first_row`, those of `grad` at `first_grad_row` and those of `out` at `first_out_row`. Every stride but the pixel's,
# and the width, comes divided by `unit`: by it the compiler knows where a thread may take so many pixels at once.
@triton.jit(do_not_specialize=["k", "readers", "first_row", "first_grad_row", "first_out_row"])  # one for all scales
def _gather_down_kernel(
    grad, weights, factors, out,
    grad_strides, out_strides, size, height_out, channels, k, readers, first_row, first_grad_row, first_out_row,
    K: tl.constexpr, narrow: tl.constexpr, unit: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    grad_n, grad_c, grad_p = _times(grad_strides[0], unit), _times(grad_strides[1], unit), decoded(grad_strides[2])
    out_n, out_c, out_p = _times(out_strides[0], unit), _times(out_strides[1], unit), decoded(out_strides[2])
    height, width, height_out = decoded(size[0]), decoded(size[1]) * unit, decoded(height_out)
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C
    blocks = tl.cdiv(width, BLOCK_P)
    row = first_row + tl.program_id(0) // blocks
    x = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = x < width
    first = _first_reader(row, height, height_out, narrow)
    grad += n * grad_n
    if weights is not None:
        weights += (n * K + k) * height_out * width
    totals = ()
    for _ in tl.static_range(BLOCK_C):
        totals = totals + (tl.zeros([BLOCK_P], arithmetic),)
    for down in range(0, readers):
        y = first + down
        reads, share = _share(row, y, height, height_out, arithmetic)
        if reads:
            of_row = (y - first_grad_row).to(tl.int64) * width
            shares = tl.full([BLOCK_P], 1.0, arithmetic) * share
            if weights is not None:
                shares *= tl.load(weights + y.to(tl.int64) * width + x, mask=inside, other=0.0)
            added = ()
            for i in tl.static_range(BLOCK_C):
                at = grad + tl.minimum(c + i, channels - 1) * grad_c + (of_row + x) * grad_p
                g = tl.load(at, mask=inside, other=0.0)
                added = added + (totals[i] + shares * g.to(arithmetic),)
            totals = added
    if factors is not None:
        scaled = ()
        for i in tl.static_range(BLOCK_C):
            at = factors + (n * K + k) * channels + tl.minimum(c + i, channels - 1)
            scaled = scaled + (totals[i] * tl.load(at),)
        totals = scaled
    out += n * out_n + ((row - first_out_row).to(tl.int64) * width + x) * out_p
    for i in tl.static_range(BLOCK_C):
        inside = x < tl.where(c + i < channels, width, 0)
        tl.store(out + (c + i) * out_c, totals[i].to(out.dtype.element_ty), mask=inside)


# One program of the second makes BLOCK_C channels of BLOCK_P pixels of one source row of one image, from what the first
# has left of them, (N, C, rows, `width_out`). These begin at `first_row`, those of `out` at 0; `size` is the source.
@triton.jit(do_not_specialize=["readers", "rows", "first_row"])  # one for all scales
def _gather_along_kernel(
    sums, out,
    out_strides, size, width_out, channels, readers, rows, first_row,
    narrow: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    out_n, out_c, out_p = decoded(out_strides[0]), decoded(out_strides[1]), decoded(out_strides[2])
    width, width_out = decoded(size[1]), decoded(width_out)
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C
    blocks = tl.cdiv(width, BLOCK_P)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    first = _first_reader(column, width, width_out, narrow)
    first = tl.where(_share(column, first, width, width_out, arithmetic)[0], first, first + 1)
    sums += (n * channels * rows + row) * width_out
    of_channel = rows.to(tl.int64) * width_out
    totals = ()
    for _ in tl.static_range(BLOCK_C):
        totals = totals + (tl.zeros([BLOCK_P], arithmetic),)
    for right in range(0, readers):
        x = first + right
        reads, share = _share(column, x, width, width_out, arithmetic)  # none reads behind the last column
        added = ()
        for i in tl.static_range(BLOCK_C):
            at = sums + tl.minimum(c + i, channels - 1) * of_channel + x.to(tl.int64)
            added = added + (totals[i] + share * tl.load(at, mask=reads, other=0.0),)
        totals = added
    out += n * out_n + ((first_row + row) * width + column.to(tl.int64)) * out_p
    for i in tl.static_range(BLOCK_C):
        inside = column < tl.where(c + i < channels, width, 0)
        tl.store(out + (c + i) * out_c, totals[i].to(out.dtype.element_ty), mask=inside)


def gather(
    grad: Tensor,
    weights: Tensor | None,
    k: int,
    out: Tensor,
    height: int,
    rows: tuple[int, int] | None = None,
    first_grad_row: int = 0,
    factors: Tensor | None = None,
) -> None:
    """Fill `out`, or its `rows` from one to another, by the gradient of its resize to `height` rows.

    That of the output is `grad`, from its row `first_grad_row` on, times `weights[:, k]` of each pixel and
    `factors[:, k]` of each channel.
    """
    batch, channels, out_height, out_width = out.shape
    width, arithmetic = grad.shape[3], arithmetic_of(grad)
    begin, end = rows or (0, out_height)
    sums, first_sum = out, 0  # where the first pass leaves all there is to do
    if width != out_width:
        dtype = torch.float64 if arithmetic == tl.float64 else torch.float32
        sums, first_sum = grad.new_empty((batch, channels, end - begin, width), dtype=dtype), begin
    strides, sums_strides = layout.strides(grad), layout.strides(sums)
    unit = 1
    if strides[2] == sums_strides[2] == 1 and not any(x % 4 for x in (*strides[:2], *sums_strides[:2], width)):
        unit = 4  # pixels: 16 bytes of float32
    tile = _tiles.of_gather_down(channels)
    launch(
        _gather_down_kernel,
        ((end - begin) * _tiles.cdiv(width, tile["BLOCK_P"]), _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        grad, weights, factors, sums,
        _encoded_by(unit, strides), _encoded_by(unit, sums_strides), encoded((out_height, width // unit)),
        *encoded((height,)), channels,
        k, _readers(out_height, height), begin, first_grad_row, first_sum,
        K=1 if weights is None else weights.shape[1], narrow=_narrow(out_height, height), unit=unit,
        **tile, arithmetic=arithmetic,
    )  # fmt: skip
    if sums is out:
        return
    tile = _tiles.of_gather_along(channels)
    launch(
        _gather_along_kernel,
        ((end - begin) * _tiles.cdiv(out_width, tile["BLOCK_P"]), _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        sums, out,
        encoded(layout.strides(out)), encoded(size_of(out)), *encoded((width,)), channels,
        _readers(out_width, width) - 1, end - begin, begin,  # but the first, if it does not read
        narrow=_narrow(out_width, width), **tile, arithmetic=arithmetic,
    )  # fmt: skip


def _encoded_by(unit: int, strides: tuple[int, int, int]) -> tuple[int, ...]:
    return encoded((strides[0] // unit, strides[1] // unit, strides[2]))


def _readers(size: int, size_out: int) -> int:
    """Return how many output pixels from `_first_reader` on may read a source pixel, along one axis."""
    return 2 if size == size_out else _tiles.cdiv(2 * size_out, size) + 2


def _narrow(size: int, size_out: int) -> bool:
    return 2 * size * size_out < 2**31


def size_of(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def sizes_of(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the encoded sizes of what a kernel samples."""
    return tuple(encoded(size_of(x)) for x in tensors)


def strides_of(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the encoded strides of what a kernel samples, of image and channel: its pixels lie side by side."""
    return tuple(encoded(layout.strides(x)[:2]) for x in tensors)


def strides_and_size(maps: Tensor | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the encoded strides and size of what a kernel samples, or of nothing."""
    return ((0, 0), (0, 0)) if maps is None else (encoded(layout.strides(maps)[:2]), encoded(size_of(maps)))
