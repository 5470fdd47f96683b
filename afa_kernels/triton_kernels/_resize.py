"""Bilinear resizing on the fly, as F.interpolate does it with align_corners=False, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

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
def sample(
    data, strides, size, n, c, y, x, size_out, inside, same_size: tl.constexpr, arithmetic: tl.constexpr
):  # fmt: skip
    """Return channels c, [BLOCK_C, 1] or a scalar, of image n at the output pixels y, a scalar, and x, [1, BLOCK_P].

    `strides` and `size` are `encoded`, `size_out` is not.
    """
    data_n, data_c, data_p = decoded(strides[0]), decoded(strides[1]), decoded(strides[2])
    height, width = decoded(size[0]), decoded(size[1])
    height_out, width_out = size_out
    data += n * data_n + c * data_c
    if same_size:
        value = tl.load(data + (y * width + x) * data_p, mask=inside, other=0.0).to(arithmetic)
    else:
        y0, y1, below = _source(y, height, height_out, arithmetic)
        x0, x1, right = _source(x, width, width_out, arithmetic)
        y0, y1, x0, x1 = y0.to(tl.int64), y1.to(tl.int64), x0.to(tl.int64), x1.to(tl.int64)
        v00 = tl.load(data + (y0 * width + x0) * data_p, mask=inside, other=0.0).to(arithmetic)
        v01 = tl.load(data + (y0 * width + x1) * data_p, mask=inside, other=0.0).to(arithmetic)
        v10 = tl.load(data + (y1 * width + x0) * data_p, mask=inside, other=0.0).to(arithmetic)
        v11 = tl.load(data + (y1 * width + x1) * data_p, mask=inside, other=0.0).to(arithmetic)
        value = (1.0 - below) * ((1.0 - right) * v00 + right * v01) + below * ((1.0 - right) * v10 + right * v11)
    return value


@triton.jit
def _share(i, dst, size, size_out, same_size: tl.constexpr, arithmetic: tl.constexpr):
    """Return whether the output pixel dst reads the source pixel i along one axis, and with which share."""
    if same_size:
        reads = (dst == i) & (dst < size_out)
        share = tl.where(reads, 1.0, 0.0).to(arithmetic)
    else:
        first, second, of_second = _source(dst, size, size_out, arithmetic)
        reads = ((first == i) | (second == i)) & (dst < size_out)
        share = tl.where(first == i, 1.0 - of_second, 0.0) + tl.where(second == i, of_second, 0.0)
    return reads, share


@triton.jit
def _first_reader(i, size, size_out, same_size: tl.constexpr, narrow: tl.constexpr):
    """Return the first output pixel that may read the source pixel i, one before the first that should, for rounding.

    `narrow`: the product fits in 32 bits, where a GPU divides several times as fast.
    """
    if same_size:
        first = i
    elif narrow:
        first = tl.maximum((2 * i - 1) * size_out - size, 0) // (2 * size)
    else:
        first = (tl.maximum((2 * i.to(tl.int64) - 1) * size_out - size, 0) // (2 * size)).to(tl.int32)
    return first


# One program makes BLOCK_C channels of BLOCK_P source pixels of one row of one image: it collects `grad` (times the
# weight k of its pixel, if there are weights) from the output pixels that read them. The source rows begin at
# `first_row`; `grad` begins at the output row `first_grad_row`.
@triton.jit(do_not_specialize=["k", "readers_y", "readers_x", "first_row", "first_grad_row"])  # one for all scales
def _gather_kernel(
    grad, weights, out,
    grad_strides, out_strides, size, size_out, channels, k, readers_y, readers_x, first_row, first_grad_row,
    K: tl.constexpr, same_size: tl.constexpr, narrow: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    grad_n, grad_c, grad_p = decoded(grad_strides[0]), decoded(grad_strides[1]), decoded(grad_strides[2])
    out_n, out_c, out_p = decoded(out_strides[0]), decoded(out_strides[1]), decoded(out_strides[2])
    height, width = decoded(size[0]), decoded(size[1])
    height_out, width_out = decoded(size_out[0]), decoded(size_out[1])
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]
    blocks = tl.cdiv(width, BLOCK_P)
    row = first_row + tl.program_id(0) // blocks
    # As if neighbours were none: what is read is scattered, and a thread shall have the channels of one pixel.
    column = tl.max_contiguous(tl.program_id(0) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)[None, :], [1, 1])
    inside = (c < channels) & (column < width)
    first_y = _first_reader(row, height, height_out, same_size, narrow)
    first_x = _first_reader(column, width, width_out, same_size, narrow)
    grad += n * grad_n + c * grad_c  # [BLOCK_C, 1]
    if weights is not None:
        weights += (n * K + k) * height_out * width_out
    total = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    for down in range(0, readers_y):
        y = first_y + down
        reads_y, share_y = _share(row, y, height, height_out, same_size, arithmetic)
        if reads_y:
            of_row = (y - first_grad_row).to(tl.int64) * width_out
            for right in range(0, readers_x):
                x = first_x + right
                reads_x, share = _share(column, x, width, width_out, same_size, arithmetic)  # [1, BLOCK_P]
                share *= share_y
                if weights is not None:
                    weights_at = weights + (y.to(tl.int64) * width_out + x)
                    share *= tl.load(weights_at, mask=reads_x & (column < width), other=0.0)
                g = tl.load(grad + (of_row + x) * grad_p, mask=reads_x & inside, other=0.0)  # [BLOCK_C, BLOCK_P]
                total += share * g.to(arithmetic)
    out_at = out + n * out_n + c * out_c + (row.to(tl.int64) * width + column) * out_p
    tl.store(out_at, total.to(out.dtype.element_ty), mask=inside)


def gather(
    grad: Tensor,
    weights: Tensor | None,
    k: int,
    out: Tensor,
    height: int,
    rows: tuple[int, int] | None = None,
    first_grad_row: int = 0,
) -> None:
    """Fill `out`, or its `rows` from one to another, by the gradient of its resize to `height` rows.

    That of the output is `grad`, from its row `first_grad_row` on, times `weights[:, k]`.
    """
    batch, channels, out_height, width = out.shape
    begin, end = rows or (0, out_height)
    size, size_out = size_of(out), (height, grad.shape[3])
    readers_y, readers_x = (1 if size == size_out else triton.cdiv(2 * o, i) + 2 for i, o in zip(size, size_out))
    tile = _tiles.of_gather(channels, width, _tiles.channels_last(out), out.itemsize)
    blocks = triton.cdiv(width, tile["BLOCK_P"])
    launch(
        _gather_kernel, ((end - begin) * blocks, triton.cdiv(channels, tile["BLOCK_C"]), batch),
        grad, weights, out,
        encoded(layout.strides(grad)), encoded(layout.strides(out)), encoded(size), encoded(size_out), channels,
        k, readers_y, readers_x, begin, first_grad_row,
        K=1 if weights is None else weights.shape[1], same_size=size == size_out,
        narrow=2 * max(size) * max(size_out) < 2**31, **tile,
        arithmetic=arithmetic_of(grad),
    )  # fmt: skip


def size_of(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def sizes_of(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the encoded sizes of what a kernel samples."""
    return tuple(encoded(size_of(x)) for x in tensors)


def strides_of(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the encoded strides of what a kernel samples."""
    return tuple(encoded(layout.strides(x)) for x in tensors)


def strides_and_size(maps: Tensor | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the encoded strides and size of what a kernel samples, or of nothing."""
    return ((0, 0, 0), (0, 0)) if maps is None else (encoded(layout.strides(maps)), encoded(size_of(maps)))
