"""Batch norm and what rectifies it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def norm(weight, bias, mean, variance, c, inside_c, EPS: tl.constexpr, ABS_WEIGHT: tl.constexpr):
    """Return of the channels c: mean, 1 / sqrt(variance + EPS), gamma times that, and beta."""
    gamma = tl.load(weight + c, mask=inside_c, other=0.0)
    if ABS_WEIGHT:
        gamma = tl.abs(gamma) + EPS
    deviation = 1.0 / tl.sqrt(tl.load(variance + c, mask=inside_c, other=1.0) + EPS)
    center = tl.load(mean + c, mask=inside_c, other=0.0)
    return center, deviation, gamma * deviation, tl.load(bias + c, mask=inside_c, other=0.0)


@triton.jit
def rectify(y, value, SLOPE: tl.constexpr):
    """Return `value` where y > 0, else SLOPE * value. ReLU lets NaN through and gives 0 for infinity, as PyTorch's."""
    if SLOPE == 0.0:
        return tl.where(y <= 0.0, 0.0, value)
    return tl.where(y > 0.0, value, SLOPE * value)
