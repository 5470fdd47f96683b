"""The batch norm and ReLU of bn_relu_conv2d in Triton; its convolution is ATen's.

With y = (z - mean) scale + beta the convolution gets the leaky ReLU of y. In training `hidden` is read once for its
statistics and once for that; in backward once for that again, once for the sums over pixels and once for its gradient.
Every sum is taken in parts, in an order that does not depend on the launch.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels.triton_kernels import _statistics, _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._maps import offsets, strides_of
from afa_kernels.triton_kernels._norm import norm, rectify
from afa_kernels.triton_kernels._rows import load_rows, of_rows
from afa_kernels.triton_kernels._statistics import part_and_channels


# One program activates BLOCK_P pixels of BLOCK_C channels of one image.
@triton.jit
def _activate_kernel(
    hidden, weight, bias, mean, variance, activated,
    strides, channels, pixels,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_c = c < channels
    inside = inside_c[:, None] & (p < pixels)[None, :]
    z = tl.load(hidden + offsets(strides[0], n, c, p), mask=inside, other=0.0).to(arithmetic)
    center, _, scale, beta = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
    y = (z - center[:, None]) * scale[:, None] + beta[:, None]
    out = activated + offsets(strides[1], n, c, p)
    tl.store(out, rectify(y, y, SLOPE).to(activated.dtype.element_ty), mask=inside)


# With g the gradient of what is activated and g' = (y > 0 ? g : SLOPE g): one program sums g' and g' (z - mean) over
# `steps` blocks of BLOCK_P pixels of BLOCK_C channels of one image, and writes each to its own row of (N, parts, C).
@triton.jit(do_not_specialize=["parts", "steps"])
def _sums_kernel(
    grad, hidden, weight, bias, mean, variance, rectified_rows, deviation_rows,
    strides, channels, pixels, parts, steps,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    TOGETHER: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    part, c = part_and_channels(channels, BLOCK_C)
    n = tl.program_id(1).to(tl.int64)
    inside_c = c < channels
    center, _, scale, beta = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
    rectified = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    deviations = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    for first in range(0, steps, TOGETHER):
        for i in tl.static_range(TOGETHER):
            p = (part * steps + first + i) * BLOCK_P + tl.arange(0, BLOCK_P)
            inside = inside_c[:, None] & (p < pixels)[None, :]
            g = tl.load(grad + offsets(strides[0], n, c, p), mask=inside, other=0.0).to(arithmetic)
            z = tl.load(hidden + offsets(strides[1], n, c, p), mask=inside, other=0.0).to(arithmetic)
            deviation = z - center[:, None]
            passed = rectify(deviation * scale[:, None] + beta[:, None], g, SLOPE)
            rectified += tl.where(inside, passed, 0.0)
            deviations += tl.where(inside, passed * deviation, 0.0)
    row = (n * parts + part) * channels + c
    tl.store(rectified_rows + row, tl.sum(rectified, axis=1), mask=inside_c)
    tl.store(deviation_rows + row, tl.sum(deviations, axis=1), mask=inside_c)


# One program adds up the rows of BLOCK_C channels, and makes of them the gradients of the parameters, and what the
# statistics add to the gradient of `hidden`: constant + slope (z - mean).
@triton.jit(do_not_specialize=["rows", "count"])
def _parameters_kernel(
    rectified_rows, deviation_rows, weight, bias, mean, variance, grad_weight, grad_bias, constants, slopes,
    rows, count, channels,
    EPS: tl.constexpr, ABS_WEIGHT: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    rectified = tl.zeros([BLOCK_B, BLOCK_C], rectified_rows.dtype.element_ty)
    deviations = rectified
    for first in range(0, rows, BLOCK_B):
        rectified += load_rows(rectified_rows, channels, first, rows, c, inside_c, BLOCK_B)
        deviations += load_rows(deviation_rows, channels, first, rows, c, inside_c, BLOCK_B)
    of_beta = tl.sum(rectified, axis=0)
    _, deviation, scale, _ = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
    of_gamma = tl.sum(deviations, axis=0) * deviation
    if constants is not None:
        tl.store(constants + c, -scale * of_beta / count, mask=inside_c)
        tl.store(slopes + c, -scale * deviation * of_gamma / count, mask=inside_c)
    if grad_weight is not None:
        if ABS_WEIGHT:
            gamma = tl.load(weight + c, mask=inside_c, other=0.0)
            of_gamma = tl.where(gamma > 0.0, of_gamma, tl.where(gamma < 0.0, -of_gamma, 0.0))
        tl.store(grad_weight + c, of_gamma.to(grad_weight.dtype.element_ty), mask=inside_c)
    if grad_bias is not None:
        tl.store(grad_bias + c, of_beta.to(grad_bias.dtype.element_ty), mask=inside_c)


# One program writes the gradient of BLOCK_P pixels of BLOCK_C channels of one image.
@triton.jit
def _gradient_kernel(
    grad, hidden, weight, bias, mean, variance, constants, slopes, grad_hidden,
    strides, channels, pixels,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_c = c < channels
    inside = inside_c[:, None] & (p < pixels)[None, :]
    g = tl.load(grad + offsets(strides[0], n, c, p), mask=inside, other=0.0).to(arithmetic)
    z = tl.load(hidden + offsets(strides[1], n, c, p), mask=inside, other=0.0).to(arithmetic)
    center, _, scale, beta = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
    deviation = z - center[:, None]
    dz = scale[:, None] * rectify(deviation * scale[:, None] + beta[:, None], g, SLOPE)
    if constants is not None:
        slope = tl.load(slopes + c, mask=inside_c, other=0.0)
        dz += tl.load(constants + c, mask=inside_c, other=0.0)[:, None] + slope[:, None] * deviation
    tl.store(grad_hidden + offsets(strides[2], n, c, p), dz.to(grad_hidden.dtype.element_ty), mask=inside)


@sized(hidden="nchw", mean="c", variance="c")
def statistics(hidden: Tensor, mean: Tensor, variance: Tensor) -> None:
    _statistics.statistics(hidden, mean, variance)


@sized(hidden="nchw", weight="c", bias="c", mean="c", variance="c", activated="nchw")
@split_batch("weight", "bias", "mean", "variance")
def activate(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    activated: Tensor,
) -> None:
    tile = _tiles.of_map(hidden.shape[1], _tiles.channels_last(activated), hidden.itemsize)
    launch(
        _activate_kernel, _grid(hidden, tile),
        hidden, weight, bias, mean, variance, activated,
        strides_of((hidden, activated)), hidden.shape[1], hidden.shape[2] * hidden.shape[3],
        EPS=eps, SLOPE=activation_slope, ABS_WEIGHT=abs_weight, **tile, arithmetic=arithmetic_of(hidden),
    )  # fmt: skip


@sized(grad_activated="nchw", hidden="nchw", weight="c", bias="c", mean="c", variance="c")
def differentiate(
    grad_activated: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    needed: list[bool],
    grads: list[Tensor],
) -> None:
    """Write the gradients that are needed of hidden, weight and bias."""
    grad_hidden, grad_weight, grad_bias = spread(grads, needed)
    batch, channels, height, width = hidden.shape
    options = {"EPS": eps, "SLOPE": activation_slope, "ABS_WEIGHT": abs_weight}
    constants, slopes = (torch.empty_like(mean) if batch_statistics else None for _ in range(2))
    if batch_statistics or any(needed[1:]):
        parts, steps = _statistics.parts_and_steps(hidden)
        sums = [mean.new_empty((batch, parts, channels)) for _ in range(2)]
        _sums(grad_activated, hidden, weight, bias, mean, variance, steps, sums, options)
        add = of_rows(sums[0])
        launch(
            _parameters_kernel, (_tiles.cdiv(channels, add["BLOCK_C"]),),
            *sums, weight, bias, mean, variance, grad_weight, grad_bias, constants, slopes,
            batch * parts, batch * height * width, channels,
            EPS=eps, ABS_WEIGHT=abs_weight, **add,
        )  # fmt: skip
    if grad_hidden is not None:
        parameters = weight, bias, mean, variance, constants, slopes
        _gradient(grad_activated, hidden, parameters, grad_hidden, options)


@split_batch("weight", "bias", "mean", "variance")
def _sums(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    steps: int,
    sums: list[Tensor],
    options: dict[str, Any],
) -> None:
    batch, parts, channels = sums[0].shape
    tile = _statistics.tile_of_sums(hidden)
    # Of two maps, it reads as many values before it waits as the statistics of one.
    launch(
        _sums_kernel, (parts * _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        grad, hidden, weight, bias, mean, variance, *sums,
        strides_of((grad, hidden)), channels, hidden.shape[2] * hidden.shape[3], parts, steps,
        **options, TOGETHER=_tiles.TOGETHER // 2, **tile, arithmetic=arithmetic_of(hidden),
    )  # fmt: skip


@split_batch("parameters")
def _gradient(
    grad: Tensor,
    hidden: Tensor,
    parameters: tuple[Tensor | None, ...],
    grad_hidden: Tensor,
    options: dict[str, Any],
) -> None:
    tile = _tiles.of_map(hidden.shape[1], _tiles.channels_last(grad_hidden), hidden.itemsize)
    launch(
        _gradient_kernel, _grid(hidden, tile),
        grad, hidden, *parameters, grad_hidden,
        strides_of((grad, hidden, grad_hidden)), hidden.shape[1], hidden.shape[2] * hidden.shape[3],
        **options, **tile, arithmetic=arithmetic_of(hidden),
    )  # fmt: skip


def _grid(hidden: Tensor, tile: dict[str, int]) -> tuple[int, int, int]:
    batch, channels, height, width = hidden.shape
    return _tiles.cdiv(height * width, tile["BLOCK_P"]), _tiles.cdiv(channels, tile["BLOCK_C"]), batch
