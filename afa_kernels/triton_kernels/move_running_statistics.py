"""The running statistics of a batch norm, in place: one launch, where PyTorch's operators take three a batch."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized

BLOCK = 256


@triton.jit
def _load(x, stride, c, inside, arithmetic: tl.constexpr):
    return tl.load(x + c * stride, mask=inside, other=0.0).to(arithmetic)


# One program moves both statistics of BLOCK channels: towards those of one batch, or of two, the first before the next.
@triton.jit(do_not_specialize=["count"])
def _forward_kernel(
    running_mean, running_var, mean, variance, next_mean, next_variance,
    strides, channels, count,
    MOMENTUM: tl.constexpr, BLOCK: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    unbiased = tl.cast(count, arithmetic) / tl.cast(count - 1, arithmetic)
    center = _load(running_mean, strides[0], c, inside, arithmetic)
    spread = _load(running_var, strides[1], c, inside, arithmetic)
    center = (1 - MOMENTUM) * center + MOMENTUM * _load(mean, 1, c, inside, arithmetic)
    spread = (1 - MOMENTUM) * spread + MOMENTUM * unbiased * _load(variance, 1, c, inside, arithmetic)
    if next_mean is not None:
        center = (1 - MOMENTUM) * center + MOMENTUM * _load(next_mean, 1, c, inside, arithmetic)
        spread = (1 - MOMENTUM) * spread + MOMENTUM * unbiased * _load(next_variance, 1, c, inside, arithmetic)
    tl.store(running_mean + c * strides[0], center.to(running_mean.dtype.element_ty), mask=inside)
    tl.store(running_var + c * strides[1], spread.to(running_var.dtype.element_ty), mask=inside)


@sized(running_mean="c", running_var="c", means="c", variances="c")
def forward(
    running_mean: Tensor,
    running_var: Tensor,
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    count: int,
    momentum: float,
) -> None:
    """Two statistics of one batch or of two, dense and of one type."""
    (channels,) = running_mean.shape
    launch(
        _forward_kernel, (_tiles.cdiv(channels, BLOCK),),
        running_mean, running_var, means[0], variances[0], *((means[1], variances[1]) if means[1:] else (None, None)),
        (running_mean.stride(0), running_var.stride(0)), channels, count,
        MOMENTUM=momentum, BLOCK=BLOCK, num_warps=4, arithmetic=arithmetic_of(means[0]),
    )  # fmt: skip
