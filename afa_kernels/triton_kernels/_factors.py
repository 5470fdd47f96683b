"""The factors of a progressive fusion's weights, and the gradients of their logits.

A_k = a_k prod_{j>k} (1-a_j) is a value of each pixel, B_k = b_k prod_{j>k} (1-b_j) one of each channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._gate import gate
from afa_kernels.triton_kernels._launch import launch
from afa_kernels.triton_kernels._rows import load_rows, of_rows


@triton.jit
def factor(logits, strides, n, i, mask, K: tl.constexpr, arithmetic: tl.constexpr):
    """Return A_k or B_k of the elements i of image n for every k; `strides` are those of the image and the element."""
    weights = ()
    transmittance = None
    for behind in tl.static_range(K):
        z_n, z_i = strides[K - 1 - behind]
        open, shut = gate(logits[K - 1 - behind] + n * z_n + i * z_i, mask, arithmetic)
        if behind == 0:
            weights = (open,) + weights
            transmittance = shut
        else:
            weights = (open * transmittance,) + weights
            transmittance = transmittance * shut
    return weights


@triton.jit
def write_gradients(logits, strides, out, n, size, i, sums, weights, mask, K: tl.constexpr, arithmetic: tl.constexpr):
    """Store the gradients of the logits, (1-a_k) S_k - a_k sum_{j<k} S_j with S_k = A_k dA_k; `sums` are the dA_k.

    `out` are contiguous, (N, size), or None.
    """
    before = tl.zeros_like(sums[0])
    for k in tl.static_range(K):
        product = weights[k] * sums[k]
        if out[k] is not None:
            z_n, z_i = strides[k]
            open, shut = gate(logits[k] + n * z_n + i * z_i, mask, arithmetic)
            grad = shut * product - open * before
            tl.store(out[k] + n * size + i, grad.to(out[k].dtype.element_ty), mask=mask)
        before = before + product


# One program stores those of BLOCK elements of one image, in `out`, (N, K, size).
@triton.jit
def _factors_kernel(logits, out, strides, size, K: tl.constexpr, BLOCK: tl.constexpr, arithmetic: tl.constexpr):
    n = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    weights = factor(logits, strides, n, i, i < size, K, arithmetic)
    for k in tl.static_range(K):
        tl.store(out + (n * K + k) * size + i, weights[k], mask=i < size)


def channel_factors(channel_logits: Sequence[Tensor], arithmetic: tl.dtype) -> Tensor:
    """Return the B_k of every channel, (N, K, C)."""
    first, inputs = channel_logits[0], len(channel_logits)
    batch, channels = first.shape[:2]
    dtype = torch.float64 if arithmetic == tl.float64 else torch.float32
    out = torch.empty((batch, inputs, channels), dtype=dtype, device=first.device)
    launch(
        _factors_kernel, (_tiles.cdiv(channels, 128), batch),
        tuple(channel_logits), out, of_each_channel(channel_logits), channels,
        K=inputs, BLOCK=128, num_warps=4, arithmetic=arithmetic,
    )  # fmt: skip
    return out


# One program adds up the rows of BLOCK_C channels of one image, and makes the gradients of their logits.
@triton.jit(do_not_specialize=["rows"])
def _channel_kernel(
    channel_sums, q, dq, q_strides, channels, rows,
    K: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    channel_sums += n * rows * K * channels
    totals = ()
    for _ in tl.static_range(K):
        totals = totals + (tl.zeros([BLOCK_B, BLOCK_C], arithmetic),)
    for first in range(0, rows, BLOCK_B):
        added = ()
        for k in tl.static_range(K):
            of_k = channel_sums + tl.full([], k, tl.int64) * channels
            added = added + (totals[k] + load_rows(of_k, K * channels, first, rows, c, inside_c, BLOCK_B),)
        totals = added
    sums = ()
    for k in tl.static_range(K):
        sums = sums + (tl.sum(totals[k], axis=0),)
    b = factor(q, q_strides, n, c, inside_c, K, arithmetic)
    write_gradients(q, q_strides, dq, n, channels, c, sums, b, inside_c, K, arithmetic)


def channel_gradients(
    channel_sums: Tensor, channel_logits: Sequence[Tensor], grads: Sequence[Tensor | None], arithmetic: tl.dtype
) -> None:
    """Fill `grads` of the logits, where there are such, of the rows of sums (N, rows, K, C)."""
    batch, rows, inputs, channels = channel_sums.shape
    add = of_rows(channel_sums, inputs)
    launch(
        _channel_kernel, (_tiles.cdiv(channels, add["BLOCK_C"]), batch),
        channel_sums, tuple(channel_logits), tuple(grads), of_each_channel(channel_logits), channels, rows,
        K=inputs, **add, arithmetic=arithmetic,
    )  # fmt: skip


def of_each_pixel(spatial_logits: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the strides of the image and the pixel of each."""
    return tuple(layout.strides(s)[::2] for s in spatial_logits)


def of_each_channel(channel_logits: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the strides of the image and the channel of each."""
    return tuple(layout.strides(q)[:2] for q in channel_logits)
