"""channel_attention in Triton: all that follows the pooling, in evaluation mode as one kernel, else as two.

By statistics of the batch, and in backward, one program computes a hidden unit in all images: first sums over images,
then what follows from them. A batch that is one block is computed once and kept in registers, a larger one every time.
The gradients of avg, max and the two weights are products with what these programs have written. Every sum is taken in
an order that does not depend on the launch. None of the grids but that of evaluation mode has more than one axis.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch
from afa_kernels.triton_kernels._norm import norm, rectify

BLOCKS = {"BLOCK_M": 16, "BLOCK_C": 32, "BLOCK_O": 64, "num_warps": 8}
# Of the kernels of a unit, for a batch that is one block, and others; and of those of an image, or unit, and channels.
UNITS = {"BLOCK_N": 16, "BLOCK_C": 64, "num_warps": 4}
UNITS_OF_MANY = {"BLOCK_N": 64, "BLOCK_C": 32, "num_warps": 8}
CHANNELS = {"BLOCK_R": 16, "BLOCK_C": 32, "num_warps": 4}


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


@triton.jit
def _hidden(
    avg, max, row, first, batch, inputs, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr
):
    """Return of BLOCK_N images from `first` on the products of avg and of max with the `row` of a weight."""
    n = first + tl.arange(0, BLOCK_N).to(tl.int64)
    of_avg = tl.zeros([BLOCK_N, BLOCK_C], arithmetic)
    of_max = tl.zeros([BLOCK_N, BLOCK_C], arithmetic)
    for first_c in range(0, inputs, BLOCK_C):
        c = first_c + tl.arange(0, BLOCK_C).to(tl.int64)
        inside = (n < batch)[:, None] & (c < inputs)[None, :]
        at = n[:, None] * inputs + c[None, :]
        w1 = tl.load(row + c, mask=c < inputs, other=0.0).to(arithmetic)[None, :]
        of_avg += tl.load(avg + at, mask=inside, other=0.0).to(arithmetic) * w1
        of_max += tl.load(max + at, mask=inside, other=0.0).to(arithmetic) * w1
    return tl.sum(of_avg, axis=1), tl.sum(of_max, axis=1)


@triton.jit
def _grad_activated(
    grad, column, first, batch, outputs, units, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr
):
    """Return of BLOCK_N images from `first` on the products of the gradient with the `column` of a weight."""
    n = first + tl.arange(0, BLOCK_N).to(tl.int64)
    total = tl.zeros([BLOCK_N, BLOCK_C], arithmetic)
    for first_o in range(0, outputs, BLOCK_C):
        o = first_o + tl.arange(0, BLOCK_C).to(tl.int64)
        inside = (n < batch)[:, None] & (o < outputs)[None, :]
        w2 = tl.load(column + o * units, mask=o < outputs, other=0.0).to(arithmetic)[None, :]
        total += tl.load(grad + n[:, None] * outputs + o[None, :], mask=inside, other=0.0).to(arithmetic) * w2
    return tl.sum(total, axis=1)


@triton.jit
def _gamma(weight, m, EPS: tl.constexpr, ABS_WEIGHT: tl.constexpr, arithmetic: tl.constexpr):
    gamma = tl.load(weight + m).to(arithmetic)
    if ABS_WEIGHT:
        gamma = tl.abs(gamma) + EPS
    return gamma


# One program computes a unit in all images: its statistics, and the sum of its activations of avg and of max.
@triton.jit(do_not_specialize=["batch"])
def _units_kernel(
    avg, max, conv1_weight, weight, bias, activated, mean, variance,
    batch, inputs, units,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64)
    row = conv1_weight + m * inputs
    gamma = _gamma(weight, m, EPS, ABS_WEIGHT, arithmetic)
    beta = tl.load(bias + m).to(arithmetic)
    z_avg = tl.zeros([BLOCK_N], arithmetic)
    z_max = tl.zeros([BLOCK_N], arithmetic)
    center_avg = tl.sum(z_avg, axis=0)
    center_max = center_avg
    variance_avg = center_avg
    variance_max = center_avg
    for reading in range(0, 3):  # for the mean, for the variance about it, and for the activations
        sum_avg = tl.zeros([BLOCK_N], arithmetic)
        sum_max = tl.zeros([BLOCK_N], arithmetic)
        scale_avg = gamma * (1.0 / tl.sqrt(variance_avg + EPS))
        scale_max = gamma * (1.0 / tl.sqrt(variance_max + EPS))
        for first in range(0, batch, BLOCK_N):
            if (reading == 0) | (batch > BLOCK_N):
                z_avg, z_max = _hidden(avg, max, row, first, batch, inputs, BLOCK_N, BLOCK_C, arithmetic)
            n = first + tl.arange(0, BLOCK_N).to(tl.int64)
            d_avg = z_avg - center_avg
            d_max = z_max - center_max
            sum_avg += tl.where(n < batch, tl.where(reading == 0, d_avg, d_avg * d_avg), 0.0)
            sum_max += tl.where(n < batch, tl.where(reading == 0, d_max, d_max * d_max), 0.0)
            y_avg = d_avg * scale_avg + beta
            y_max = d_max * scale_max + beta
            both = rectify(y_max, y_max, SLOPE) + rectify(y_avg, y_avg, SLOPE)
            tl.store(activated + n * units + m, both, mask=(n < batch) & (reading == 2))
        of_avg = tl.sum(sum_avg, axis=0) / batch
        of_max = tl.sum(sum_max, axis=0) / batch
        if reading == 0:
            center_avg = of_avg
            center_max = of_max
        if reading == 1:
            variance_avg = of_avg
            variance_max = of_max
    tl.store(mean + m, center_max)
    tl.store(mean + (units + m), center_avg)
    tl.store(variance + m, variance_max)
    tl.store(variance + (units + m), variance_avg)


# One program computes BLOCK_C outputs of one image of its activated units.
@triton.jit(do_not_specialize=["blocks"])
def _logits_kernel(
    activated, conv2_weight, logits,
    units, outputs, blocks,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // blocks).to(tl.int64)
    o = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_C], arithmetic)
    for first in range(0, units, BLOCK_R):
        m = first + tl.arange(0, BLOCK_R).to(tl.int64)
        inside = (o < outputs)[:, None] & (m < units)[None, :]
        w2 = tl.load(conv2_weight + o[:, None] * units + m[None, :], mask=inside, other=0.0).to(arithmetic)
        total += tl.sum(w2 * tl.load(activated + n * units + m, mask=m < units, other=0.0)[None, :], axis=1)
    tl.store(logits + n * outputs + o, total.to(logits.dtype.element_ty), mask=o < outputs)


@triton.jit
def _units_again(
    grad, avg, max, row, column, first, batch, inputs, units, outputs,
    center_avg, center_max, deviation_avg, deviation_max, gamma, beta,
    SLOPE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    """Return of a unit of avg and of max the normalised values and the gradients of y; and its activations' sum."""
    z_avg, z_max = _hidden(avg, max, row, first, batch, inputs, BLOCK_N, BLOCK_C, arithmetic)
    g = _grad_activated(grad, column, first, batch, outputs, units, BLOCK_N, BLOCK_C, arithmetic)
    y_avg = (z_avg - center_avg) * (gamma * deviation_avg) + beta
    y_max = (z_max - center_max) * (gamma * deviation_max) + beta
    both = rectify(y_max, y_max, SLOPE) + rectify(y_avg, y_avg, SLOPE)
    x_avg, x_max = (z_avg - center_avg) * deviation_avg, (z_max - center_max) * deviation_max
    return x_avg, x_max, rectify(y_avg, g, SLOPE), rectify(y_max, g, SLOPE), both


# One program differentiates a unit in all images. It writes what is not None: the gradients of gamma and beta; and for
# the other gradients those of the unit before its norm, of max and of avg, and the sums of its activations.
@triton.jit(do_not_specialize=["batch"])
def _units_backward_kernel(
    grad, avg, max, conv1_weight, weight, bias, mean, variance, conv2_weight,
    activated, grad_hidden, grad_weight, grad_bias,
    batch, inputs, units, outputs,
    BATCH_STATISTICS: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64)
    row = conv1_weight + m * inputs
    column = conv2_weight + m
    gamma = _gamma(weight, m, EPS, ABS_WEIGHT, arithmetic)
    beta = tl.load(bias + m).to(arithmetic)
    center_max = tl.load(mean + m).to(arithmetic)
    deviation_max = 1.0 / tl.sqrt(tl.load(variance + m).to(arithmetic) + EPS)
    center_avg = center_max
    deviation_avg = deviation_max
    if BATCH_STATISTICS:
        center_avg = tl.load(mean + (units + m)).to(arithmetic)
        deviation_avg = 1.0 / tl.sqrt(tl.load(variance + (units + m)).to(arithmetic) + EPS)
    x_avg = tl.zeros([BLOCK_N], arithmetic)
    x_max = tl.zeros([BLOCK_N], arithmetic)
    g_avg = tl.zeros([BLOCK_N], arithmetic)
    g_max = tl.zeros([BLOCK_N], arithmetic)
    beta_avg = tl.zeros([BLOCK_N], arithmetic)
    beta_max = tl.zeros([BLOCK_N], arithmetic)
    gamma_avg = tl.zeros([BLOCK_N], arithmetic)
    gamma_max = tl.zeros([BLOCK_N], arithmetic)
    for first in range(0, batch, BLOCK_N):
        x_avg, x_max, g_avg, g_max, both = _units_again(
            grad, avg, max, row, column, first, batch, inputs, units, outputs,
            center_avg, center_max, deviation_avg, deviation_max, gamma, beta, SLOPE, BLOCK_N, BLOCK_C, arithmetic,
        )  # fmt: skip
        n = first + tl.arange(0, BLOCK_N).to(tl.int64)
        inside = n < batch
        beta_avg += tl.where(inside, g_avg, 0.0)
        beta_max += tl.where(inside, g_max, 0.0)
        gamma_avg += tl.where(inside, g_avg * x_avg, 0.0)
        gamma_max += tl.where(inside, g_max * x_max, 0.0)
        if activated is not None:
            tl.store(activated + n * units + m, both, mask=inside)
        if grad_hidden is not None:
            if not BATCH_STATISTICS:
                tl.store(grad_hidden + 2 * n * units + m, g_max * (gamma * deviation_max), mask=inside)
                tl.store(grad_hidden + (2 * n + 1) * units + m, g_avg * (gamma * deviation_avg), mask=inside)
    of_beta_avg = tl.sum(beta_avg, axis=0)
    of_beta_max = tl.sum(beta_max, axis=0)
    of_gamma_avg = tl.sum(gamma_avg, axis=0)
    of_gamma_max = tl.sum(gamma_max, axis=0)
    if grad_hidden is not None:
        if BATCH_STATISTICS:
            for first in range(0, batch, BLOCK_N):
                if batch > BLOCK_N:
                    x_avg, x_max, g_avg, g_max, _ = _units_again(
                        grad, avg, max, row, column, first, batch, inputs, units, outputs,
                        center_avg, center_max, deviation_avg, deviation_max, gamma, beta,
                        SLOPE, BLOCK_N, BLOCK_C, arithmetic,
                    )  # fmt: skip
                n = first + tl.arange(0, BLOCK_N).to(tl.int64)
                d_avg = g_avg - of_beta_avg / batch - x_avg * (of_gamma_avg / batch)
                d_max = g_max - of_beta_max / batch - x_max * (of_gamma_max / batch)
                tl.store(grad_hidden + 2 * n * units + m, d_max * (gamma * deviation_max), mask=n < batch)
                tl.store(grad_hidden + (2 * n + 1) * units + m, d_avg * (gamma * deviation_avg), mask=n < batch)
    if grad_weight is not None:
        of_gamma = of_gamma_max + of_gamma_avg
        if ABS_WEIGHT:
            given = tl.load(weight + m).to(arithmetic)
            of_gamma = tl.where(given > 0.0, of_gamma, tl.where(given < 0.0, -of_gamma, 0.0))
        tl.store(grad_weight + m, of_gamma.to(grad_weight.dtype.element_ty))
    if grad_bias is not None:
        tl.store(grad_bias + m, (of_beta_max + of_beta_avg).to(grad_bias.dtype.element_ty))


# The programs of number i write the gradients, those that are not None, of avg and max of the image i; and of the unit
# i of both weights. Each has BLOCK_C channels, of the inputs and of the outputs.
@triton.jit(do_not_specialize=["batch", "blocks"])
def _channels_backward_kernel(
    grad, avg, max, conv1_weight, activated, grad_hidden, grad_avg, grad_max, grad_conv1, grad_conv2,
    batch, inputs, units, outputs, blocks,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    i = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_R).to(tl.int64)
    if grad_avg is not None or grad_max is not None:
        if i < batch:
            of_avg = tl.zeros([BLOCK_C], arithmetic)
            of_max = tl.zeros([BLOCK_C], arithmetic)
            for first in range(0, units, BLOCK_R):
                m = first + r
                inside = (m < units)[:, None] & (c < inputs)[None, :]
                w1 = tl.load(conv1_weight + m[:, None] * inputs + c[None, :], mask=inside, other=0.0).to(arithmetic)
                g_max = tl.load(grad_hidden + 2 * i * units + m, mask=m < units, other=0.0)
                g_avg = tl.load(grad_hidden + (2 * i + 1) * units + m, mask=m < units, other=0.0)
                of_avg += tl.sum(w1 * g_avg[:, None], axis=0)
                of_max += tl.sum(w1 * g_max[:, None], axis=0)
            if grad_avg is not None:
                tl.store(grad_avg + i * inputs + c, of_avg.to(grad_avg.dtype.element_ty), mask=c < inputs)
            if grad_max is not None:
                tl.store(grad_max + i * inputs + c, of_max.to(grad_max.dtype.element_ty), mask=c < inputs)
    if grad_conv1 is not None:
        if i < units:
            of_conv1 = tl.zeros([BLOCK_C], arithmetic)
            for first in range(0, batch, BLOCK_R):
                n = first + r
                inside = (n < batch)[:, None] & (c < inputs)[None, :]
                at = n[:, None] * inputs + c[None, :]
                x_avg = tl.load(avg + at, mask=inside, other=0.0).to(arithmetic)
                x_max = tl.load(max + at, mask=inside, other=0.0).to(arithmetic)
                g_max = tl.load(grad_hidden + 2 * n * units + i, mask=n < batch, other=0.0)
                g_avg = tl.load(grad_hidden + (2 * n + 1) * units + i, mask=n < batch, other=0.0)
                of_conv1 += tl.sum(x_max * g_max[:, None] + x_avg * g_avg[:, None], axis=0)
            tl.store(grad_conv1 + i * inputs + c, of_conv1.to(grad_conv1.dtype.element_ty), mask=c < inputs)
    if grad_conv2 is not None:
        if i < units:
            of_conv2 = tl.zeros([BLOCK_C], arithmetic)
            for first in range(0, batch, BLOCK_R):
                n = first + r
                inside = (n < batch)[:, None] & (c < outputs)[None, :]
                g = tl.load(grad + n[:, None] * outputs + c[None, :], mask=inside, other=0.0).to(arithmetic)
                of_unit = tl.load(activated + n * units + i, mask=n < batch, other=0.0)
                of_conv2 += tl.sum(g * of_unit[:, None], axis=0)
            tl.store(grad_conv2 + c * units + i, of_conv2.to(grad_conv2.dtype.element_ty), mask=c < outputs)


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


@sized(
    avg="nc11",
    max="nc11",
    conv1_weight="hc11",
    weight="h",
    bias="h",
    conv2_weight="oh11",
    logits="no11",
    mean="bh",
    variance="bh",
)
def by_batch(
    avg: Tensor,
    max: Tensor,
    conv1_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    conv2_weight: Tensor,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    logits: Tensor,
    mean: Tensor,
    variance: Tensor,
) -> None:
    """Write the logits by statistics of the batch, and these."""
    batch, inputs = avg.shape[:2]
    outputs, units = conv2_weight.shape[:2]
    arithmetic = arithmetic_of(avg)
    activated = mean.new_empty((batch, units))
    launch(
        _units_kernel, (units,),
        avg, max, conv1_weight, weight, bias, activated, mean, variance,
        batch, inputs, units,
        EPS=eps, SLOPE=activation_slope, ABS_WEIGHT=abs_weight, **_of_units(batch, True), arithmetic=arithmetic,
    )  # fmt: skip
    blocks = _tiles.cdiv(outputs, CHANNELS["BLOCK_C"])
    launch(
        _logits_kernel, (blocks * batch,),
        activated, conv2_weight, logits,
        units, outputs, blocks,
        **CHANNELS, arithmetic=arithmetic,
    )  # fmt: skip


@sized(grad="no11", avg="nc11", max="nc11", conv1_weight="hc11", weight="h", bias="h", conv2_weight="oh11")
def differentiate(
    grad: Tensor,
    avg: Tensor,
    max: Tensor,
    conv1_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    conv2_weight: Tensor,
    batch_statistics: bool,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    grads: list[Tensor | None],
) -> None:
    """Write those gradients that are not None of avg, max, the first weight, gamma, beta and the second weight."""
    grad_avg, grad_max, grad_conv1, grad_weight, grad_bias, grad_conv2 = grads
    batch, inputs = avg.shape[:2]
    outputs, units = conv2_weight.shape[:2]
    for name, x in (("mean", mean), ("variance", variance)):
        if x.shape != ((2, units) if batch_statistics else (units,)):
            raise ValueError(
                f"{name} must have a value for each of {units} units, twice of a batch, got {tuple(x.shape)}"
            )
    arithmetic = arithmetic_of(avg)
    scratch = torch.float64 if arithmetic == tl.float64 else torch.float32
    activated = None if grad_conv2 is None else grad.new_empty((batch, units), dtype=scratch)
    of_images = grad_avg is not None or grad_max is not None
    grad_hidden = grad.new_empty((batch, 2, units), dtype=scratch) if of_images or grad_conv1 is not None else None
    launch(
        _units_backward_kernel, (units,),
        grad, avg, max, conv1_weight, weight, bias, mean, variance, conv2_weight,
        activated, grad_hidden, grad_weight, grad_bias,
        batch, inputs, units, outputs,
        BATCH_STATISTICS=batch_statistics, EPS=eps, SLOPE=activation_slope, ABS_WEIGHT=abs_weight,
        **_of_units(batch, batch_statistics), arithmetic=arithmetic,
    )  # fmt: skip
    if activated is None and grad_hidden is None:
        return
    of_units = grad_conv1 is not None or grad_conv2 is not None
    channels = _most((inputs, grad_hidden is not None), (outputs, grad_conv2 is not None))
    blocks = _tiles.cdiv(channels, CHANNELS["BLOCK_C"])
    launch(
        _channels_backward_kernel, (blocks * _most((batch, of_images), (units, of_units)),),
        grad, avg, max, conv1_weight, activated, grad_hidden, grad_avg, grad_max, grad_conv1, grad_conv2,
        batch, inputs, units, outputs, blocks,
        **CHANNELS, arithmetic=arithmetic,
    )  # fmt: skip


def _of_units(batch: int, batch_statistics: bool) -> dict[str, int]:
    """Return the tile of a program of one unit: constants of the network leave an image the same in any batch."""
    return UNITS_OF_MANY if batch_statistics and batch > UNITS["BLOCK_N"] else UNITS


def _most(*sizes: tuple[int, bool]) -> int:
    return max(size for size, asked in sizes if asked)
