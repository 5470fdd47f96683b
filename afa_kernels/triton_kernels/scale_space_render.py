"""scale_space_render in Triton: out = sum_k w_k up(pred_k), resized on the fly.

A map is a (N, K, h, w) tensor at the attention's resolution: the weights, or the opacities that are composited at the
output's resolution. `scale_space_weights` makes it; it is small beside the output.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import scale_space_weights
from afa_kernels.triton_kernels._launch import launch, spread


@triton.jit
def _source(dst, size, size_out, arithmetic: tl.constexpr):
    """The two source pixels of an output pixel along one axis and the share of the second, as F.interpolate does it."""
    size_in = tl.cast(size, arithmetic)
    if arithmetic == tl.float64:
        scale = size_in / size_out
    else:
        scale = tl.div_rn(size_in, tl.cast(size_out, arithmetic))
    position = tl.maximum((dst.to(arithmetic) + 0.5) * scale - 0.5, 0.0)
    first = tl.minimum(position.to(tl.int64), size - 1)
    second = tl.where(size == size_out, first, tl.minimum(first + 1, size - 1))
    return first, second, position - first.to(arithmetic)


@triton.jit
def sample(
    data, strides, size, n, c, y, x, size_out, inside, same_size: tl.constexpr, arithmetic: tl.constexpr
):  # fmt: skip
    """Channels c, [BLOCK_C, 1] or a scalar, of an image at the output pixels y, a scalar, and x, [1, BLOCK_P]."""
    data_n, data_c, data_p = strides
    height, width = size
    height_out, width_out = size_out
    data += n * data_n + c * data_c
    if same_size:
        value = tl.load(data + (y * width + x) * data_p, mask=inside, other=0.0).to(arithmetic)
    else:
        y0, y1, below = _source(y, height, height_out, arithmetic)
        x0, x1, right = _source(x, width, width_out, arithmetic)
        v00 = tl.load(data + (y0 * width + x0) * data_p, mask=inside, other=0.0).to(arithmetic)
        v01 = tl.load(data + (y0 * width + x1) * data_p, mask=inside, other=0.0).to(arithmetic)
        v10 = tl.load(data + (y1 * width + x0) * data_p, mask=inside, other=0.0).to(arithmetic)
        v11 = tl.load(data + (y1 * width + x1) * data_p, mask=inside, other=0.0).to(arithmetic)
        value = (1.0 - below) * ((1.0 - right) * v00 + right * v01) + below * ((1.0 - right) * v10 + right * v11)
    return value


@triton.jit
def sample_maps(
    maps, strides, size, n, y, x, size_out, inside,
    K: tl.constexpr, same_size: tl.constexpr, ones_last: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """The K maps at the output pixels, each [1, BLOCK_P]; the last is 1 if `ones_last`."""
    values = ()
    for k in tl.static_range(K):
        if ones_last and k == K - 1:
            value = tl.full(x.shape, 1.0, arithmetic)
        else:
            c = tl.full([], k, tl.int64)
            value = sample(maps, strides, size, n, c, y, x, size_out, inside, same_size, arithmetic)
        values = values + (value,)
    return values


@triton.jit
def composite(opacities, K: tl.constexpr):
    """The weights w_k = T_k alpha_k, and the T_k."""
    weights = ()
    lefts = ()
    left = tl.full(opacities[0].shape, 1.0, opacities[0].dtype)
    for k in tl.static_range(K):
        weights = weights + (left * opacities[k],)
        lefts = lefts + (left,)
        left *= 1.0 - opacities[k]
    return weights, lefts


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
    for first in tl.range(0, channels, BLOCK_C, disable_licm=K > 4):
        c = first + tl.arange(0, BLOCK_C)[:, None].to(tl.int64)
        inside = (c < channels) & inside_x
        rendered = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
        for k in tl.static_range(K):
            rendered += weights[k] * sample(
                predictions[k], strides[k], sizes[k], n, c, y, x, out_size, inside, same_sizes[k], arithmetic
            )
        at = out + n * out_n + c * out_c + (y * out_size[1] + x) * out_p
        tl.store(at, rendered.to(out.dtype.element_ty), mask=inside)


@triton.jit
def store_map_gradients(
    out, n, p, size, grads, opacities, lefts, inside, K: tl.constexpr, resize_opacities: tl.constexpr
):  # fmt: skip
    """Store the gradients of the K maps at the pixels p of image n, given those of the weights, `grads`."""
    behind = tl.zeros(grads[0].shape, grads[0].dtype)  # S_{k+1}, where S_k = alpha_k G_k + (1 - alpha_k) S_{k+1}
    for k in tl.static_range(K - 1, -1, -1):
        grad_map = grads[k]
        if resize_opacities:
            grad_map = lefts[k] * (grads[k] - behind)
            behind = opacities[k] * grads[k] + (1.0 - opacities[k]) * behind
        tl.store(out + (n * K + k) * size[0] * size[1] + p, grad_map, mask=inside)


@triton.jit
def add_exp(total, best, score, largest, counted):
    """The sum over the channels so far of exp(score - the larger of `best` and `largest`), given `total` about `best`.

    `largest` is that of the block `score`, [BLOCK_C, BLOCK_P]. Equal infinities differ by nothing.
    """
    both = tl.maximum(best, largest)
    share = tl.where(score == both, 1.0, tl.exp(score - both))
    before = tl.where(best == both, total, total * tl.exp(best - both))
    return before + tl.sum(tl.where(counted, share, 0.0), axis=0)[None, :]


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
    weights, lefts = opacities, opacities
    if resize_opacities:
        weights, lefts = composite(opacities, K)
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
        store_map_gradients(grad_maps_out, n, p, out_size, sums, opacities, lefts, inside_x, K, resize_opacities)


@triton.jit
def _share(i, dst, size, size_out, same_size: tl.constexpr, arithmetic: tl.constexpr):
    """Whether the output pixel dst reads the source pixel i along one axis, and with which share."""
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
    """The first output pixel that may read the source pixel i, one more than needed to allow for rounding.

    `narrow`: the product fits in 32 bits, where a GPU divides several times as fast.
    """
    if same_size:
        first = i
    elif narrow:
        first = (tl.maximum((2 * i.to(tl.int32) - 1) * size_out - size, 0) // (2 * size)).to(tl.int64)
    else:
        first = tl.maximum((2 * i - 1) * size_out - size, 0) // (2 * size)
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
    grad_n, grad_c, grad_p = grad_strides
    out_n, out_c, out_p = out_strides
    height, width = size
    height_out, width_out = size_out
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]
    blocks = tl.cdiv(width, BLOCK_P)
    row = (first_row + tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    inside = (c < channels) & (column < width)
    first_y = _first_reader(row, height, height_out, same_size, narrow)
    first_x = _first_reader(column, width, width_out, same_size, narrow)
    total = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    for down in range(0, readers_y):
        y = first_y + down
        reads_y, share_y = _share(row, y, height, height_out, same_size, arithmetic)
        if reads_y:
            for right in range(0, readers_x):
                x = first_x + right
                reads_x, share_x = _share(column, x, width, width_out, same_size, arithmetic)  # [1, BLOCK_P]
                p = y * width_out + x
                at = grad + n * grad_n + c * grad_c + ((y - first_grad_row) * width_out + x) * grad_p
                g = tl.load(at, mask=reads_x & inside, other=0.0).to(arithmetic)  # [BLOCK_C, BLOCK_P]
                if weights is not None:
                    weights_at = weights + (n * K + k) * height_out * width_out + p
                    g *= tl.load(weights_at, mask=reads_x & (column < width), other=0.0)
                total += share_y * share_x * g
    out_at = out + n * out_n + c * out_c + (row * width + column) * out_p
    tl.store(out_at, total.to(out.dtype.element_ty), mask=inside)


def heuristics(channels: int, width: int, scales: int, channels_last: bool, itemsize: int) -> dict[str, int]:
    """BLOCK_C and BLOCK_P: at most 256 elements, or 128 of many scales or of float64, which must stay in registers.

    The longer side lies along the axis that is contiguous in memory. `itemsize` is that of the predictions' type.
    """
    most = 256 if scales <= 4 and itemsize < 8 else 128
    whole_c, whole_p = triton.next_power_of_2(channels), triton.next_power_of_2(width)
    if channels_last:
        block_c = min(whole_c, 64)
        return {"BLOCK_C": block_c, "BLOCK_P": min(whole_p, most // block_c)}
    block_p = min(whole_p, most)
    return {"BLOCK_C": min(whole_c, most // block_p), "BLOCK_P": block_p}


def forward(
    predictions: list[Tensor], logits: Tensor, phi: str, opaque_last: bool, resize_opacities: bool, out: Tensor
) -> None:
    batch, channels, height, width = out.shape
    maps = make_maps(predictions, logits, phi, opaque_last, resize_opacities)
    channels_last = layout.memory_format(out) == torch.channels_last
    tile = heuristics(channels, width, len(predictions), channels_last, out.itemsize)
    launch(
        _forward_kernel, (height * triton.cdiv(width, tile["BLOCK_P"]), batch),
        tuple(predictions), maps, out,
        strides_of(predictions), sizes_of(predictions), layout.strides(maps), size_of(maps),
        layout.strides(out), size_of(out), channels,
        K=len(predictions), same_sizes=tuple(size_of(x) == size_of(out) for x in predictions),
        maps_same_size=size_of(maps) == size_of(out), resize_opacities=resize_opacities, opaque_last=opaque_last,
        **tile, arithmetic=scale_space_weights.arithmetic_of(maps),
    )  # fmt: skip


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
    maps = make_maps(predictions, logits, phi, opaque_last, resize_opacities)
    resized = (batch, len(predictions), height, width)
    weights_out = maps.new_empty(resized) if any(needed[:-1]) else None
    grad_maps_out = maps.new_empty(resized) if grad_logits is not None else None
    channels_last = layout.memory_format(grad) == torch.channels_last
    tile = heuristics(channels, width, len(predictions), channels_last, grad.itemsize)
    launch(
        _maps_backward_kernel, (height * triton.cdiv(width, tile["BLOCK_P"]), batch),
        grad, tuple(predictions), maps, weights_out, grad_maps_out,
        layout.strides(grad), strides_of(predictions), sizes_of(predictions), layout.strides(maps), size_of(maps),
        size_of(grad), channels,
        K=len(predictions), same_sizes=tuple(size_of(x) == size_of(grad) for x in predictions),
        maps_same_size=size_of(maps) == size_of(grad), resize_opacities=resize_opacities, opaque_last=opaque_last,
        **tile, arithmetic=scale_space_weights.arithmetic_of(maps),
    )  # fmt: skip
    for k, grad_prediction in enumerate(grad_predictions):
        if grad_prediction is not None:
            gather(grad, weights_out, k, grad_prediction, height)
    if grad_logits is not None and grad_maps_out is not None:
        grad_maps = maps.new_empty(maps.shape)
        gather(grad_maps_out, None, 0, grad_maps, height)
        scale_space_weights.backward(
            grad_maps, None, logits, phi, opaque_last, grad_logits, composite=not resize_opacities
        )


def make_maps(predictions: list[Tensor], logits: Tensor, phi: str, opaque_last: bool, resize_opacities: bool) -> Tensor:
    dtype = torch.float64 if predictions[0].dtype == torch.float64 else torch.float32
    maps = logits.new_empty(logits.shape, dtype=dtype)
    scale_space_weights.forward(logits, phi, opaque_last, maps, None, composite=not resize_opacities)
    return maps


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
    tile = heuristics(channels, width, 1, layout.memory_format(out) == torch.channels_last, out.itemsize)
    blocks = triton.cdiv(width, tile["BLOCK_P"])
    launch(
        _gather_kernel, ((end - begin) * blocks, triton.cdiv(channels, tile["BLOCK_C"]), batch),
        grad, weights, out, layout.strides(grad), layout.strides(out), size, size_out, channels,
        k, readers_y, readers_x, begin, first_grad_row,
        K=1 if weights is None else weights.shape[1], same_size=size == size_out,
        narrow=2 * max(size) * max(size_out) < 2**31, **tile,
        arithmetic=tl.float64 if grad.dtype == torch.float64 else tl.float32,
    )  # fmt: skip


def size_of(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def sizes_of(tensors: list[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple(size_of(x) for x in tensors)


def strides_of(tensors: list[Tensor]) -> tuple[tuple[int, int, int], ...]:
    return tuple(layout.strides(x) for x in tensors)
