"""channel_attention in Triton: all that follows the pooling, in evaluation mode, as one kernel."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch
from afa_kernels.triton_kernels._norm import norm, rectify

BLOCKS = {"BLOCK_M": 16, "BLOCK_C": 32, "BLOCK_O": 64, "num_warps": 8}


# One program computes BLOCK_O outputs of one image, and for them every hidden unit, BLOCK_M at a time.
@triton.jit
def _forward_kernel(
    avg, max, conv1_weight, weight, bias, mean, variance, conv2_weight, logits,
    inputs, hidden, outputs,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    total = tl.zeros([BLOCK_O], arithmetic)
    for first_m in range(0, hidden, BLOCK_M):
        m = first_m + tl.arange(0, BLOCK_M).to(tl.int64)
        inside_m = m < hidden
        of_avg = tl.zeros([BLOCK_M], arithmetic)
        of_max = tl.zeros([BLOCK_M], arithmetic)
        for first_c in range(0, inputs, BLOCK_C):
            c = first_c + tl.arange(0, BLOCK_C).to(tl.int64)
            inside_c = c < inputs
            inside = inside_m[:, None] & inside_c[None, :]
            w1 = tl.load(conv1_weight + m[:, None] * inputs + c[None, :], mask=inside, other=0.0)
            avg_tile = tl.load(avg + n * inputs + c, mask=inside_c, other=0.0).to(arithmetic)
            max_tile = tl.load(max + n * inputs + c, mask=inside_c, other=0.0).to(arithmetic)
            of_avg += tl.sum(w1 * avg_tile[None, :], axis=1)
            of_max += tl.sum(w1 * max_tile[None, :], axis=1)
        center, _, scale, beta = norm(weight, bias, mean, variance, m, inside_m, EPS, ABS_WEIGHT)
        y_avg = (of_avg - center) * scale + beta
        y_max = (of_max - center) * scale + beta
        units = rectify(y_max, y_max, SLOPE) + rectify(y_avg, y_avg, SLOPE)
        inside = (o < outputs)[:, None] & inside_m[None, :]
        w2 = tl.load(conv2_weight + o[:, None] * hidden + m[None, :], mask=inside, other=0.0)
        total += tl.sum(tl.where(inside_m[None, :], w2 * units[None, :], 0.0), axis=1)
    tl.store(logits + n * outputs + o, total.to(logits.dtype.element_ty), mask=o < outputs)


@sized(
    avg="nc11",
    max="nc11",
    conv1_weight="hc11",
    weight="h",
    bias="h",
    running_mean="h",
    running_var="h",
    conv2_weight="oh11",
    logits="no11",
)
@split_batch("conv1_weight", "weight", "bias", "running_mean", "running_var", "conv2_weight")
def forward(
    avg: Tensor,
    max: Tensor,
    conv1_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    conv2_weight: Tensor,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    logits: Tensor,
) -> None:
    batch, outputs = logits.shape[:2]
    hidden, inputs = conv1_weight.shape[:2]
    launch(
        _forward_kernel, (_tiles.cdiv(outputs, BLOCKS["BLOCK_O"]), batch),
        avg, max, conv1_weight, weight, bias, running_mean, running_var, conv2_weight, logits,
        inputs, hidden, outputs,
        EPS=eps, SLOPE=activation_slope, ABS_WEIGHT=abs_weight, **BLOCKS,
        arithmetic=arithmetic_of(avg),
    )  # fmt: skip
