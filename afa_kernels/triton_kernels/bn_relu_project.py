"""bn_relu_project in Triton: logits = sum over C of w r, with y = (z - mean) scale + beta and r = leaky ReLU of y.

In training `hidden` is read once for its statistics and once for the projection, and in backward once for the sums over
pixels and once for its gradient. Every sum is taken in parts, in an order that does not depend on the launch.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from afa_kernels import layout
from afa_kernels.triton_kernels import _tiles
from afa_kernels.triton_kernels._launch import arithmetic_of, launch, sized, split_batch, spread
from afa_kernels.triton_kernels._maps import offsets
from afa_kernels.triton_kernels._norm import norm, rectify
from afa_kernels.triton_kernels._rows import load_rows, of_rows
from afa_kernels.triton_kernels._statistics import part_and_channels, parts_and_steps, statistics, tile_of_sums


@triton.jit
def _project(hidden, strides, n, c, p, inside, center, scale, beta, w, SLOPE: tl.constexpr, arithmetic: tl.constexpr):
    """Return w r of a tile, [BLOCK_C, BLOCK_P]."""
    z = tl.load(hidden + offsets(strides, n, c, p), mask=inside, other=0.0).to(arithmetic)
    y = (z - center[:, None]) * scale[:, None] + beta[:, None]
    return tl.where(inside, w[:, None] * rectify(y, y, SLOPE), 0.0)


# One program projects some pixels of one image, over all channels: `steps` blocks of BLOCK_P pixels if a tile has all
# channels (`whole`), else one block.
@triton.jit(do_not_specialize=["steps"])
def _project_kernel(
    hidden, weight, bias, project_weight, mean, variance, logits,
    strides, channels, pixels, steps,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    whole: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    first_p = tl.program_id(0).to(tl.int64) * steps * BLOCK_P
    if whole:
        c = tl.arange(0, BLOCK_C).to(tl.int64)
        inside_c = c < channels
        center, _, scale, beta = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
        w = tl.load(project_weight + c, mask=inside_c, other=0.0)
        for step in range(steps):
            p = first_p + step * BLOCK_P + tl.arange(0, BLOCK_P)
            inside = inside_c[:, None] & (p < pixels)[None, :]
            projected = _project(hidden, strides, n, c, p, inside, center, scale, beta, w, SLOPE, arithmetic)
            total = tl.sum(projected, axis=0)
            tl.store(logits + n * pixels + p, total.to(logits.dtype.element_ty), mask=p < pixels)
    else:
        p = first_p + tl.arange(0, BLOCK_P)
        sums = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
        for first in range(0, channels, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C).to(tl.int64)
            inside_c = c < channels
            inside = inside_c[:, None] & (p < pixels)[None, :]
            center, _, scale, beta = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
            w = tl.load(project_weight + c, mask=inside_c, other=0.0)
            sums += _project(hidden, strides, n, c, p, inside, center, scale, beta, w, SLOPE, arithmetic)
        total = tl.sum(sums, axis=0)
        tl.store(logits + n * pixels + p, total.to(logits.dtype.element_ty), mask=p < pixels)


# With g the gradient of the logits and g' = (y > 0 ? g : SLOPE g): one program sums g r, g' and g' (z - mean) over
# `steps` blocks of BLOCK_P pixels of BLOCK_C channels of one image, and writes each to its own row of (N, parts, C).
@triton.jit(do_not_specialize=["parts", "steps"])
def _sums_kernel(
    grad, hidden, weight, bias, mean, variance, projected_rows, rectified_rows, deviation_rows,
    grad_strides, strides, channels, pixels, parts, steps,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    TOGETHER: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    g_n, _, g_p = grad_strides
    z_n, z_c, z_p = strides
    part, c = part_and_channels(channels, BLOCK_C)
    n = tl.program_id(1).to(tl.int64)
    inside_c = c < channels
    center, _, scale, beta = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
    projected = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    rectified = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    deviations = tl.zeros([BLOCK_C, BLOCK_P], arithmetic)
    for first in range(0, steps, TOGETHER):
        for i in tl.static_range(TOGETHER):
            step = first + i
            p = (part * steps + step) * BLOCK_P + tl.arange(0, BLOCK_P)
            inside = inside_c[:, None] & (p < pixels)[None, :]
            g = tl.load(grad + n * g_n + p * g_p, mask=p < pixels, other=0.0).to(arithmetic)[None, :]
            z = tl.load(hidden + n * z_n + c[:, None] * z_c + p[None, :] * z_p, mask=inside, other=0.0).to(arithmetic)
            deviation = z - center[:, None]
            y = deviation * scale[:, None] + beta[:, None]
            passed = rectify(y, g, SLOPE)
            projected += tl.where(inside, g * rectify(y, y, SLOPE), 0.0)
            rectified += tl.where(inside, passed, 0.0)
            deviations += tl.where(inside, passed * deviation, 0.0)
    row = (n * parts + part) * channels + c
    tl.store(projected_rows + row, tl.sum(projected, axis=1), mask=inside_c)
    tl.store(rectified_rows + row, tl.sum(rectified, axis=1), mask=inside_c)
    tl.store(deviation_rows + row, tl.sum(deviations, axis=1), mask=inside_c)


# One program adds up the rows of BLOCK_C channels, and makes of them the gradients of the parameters, and what the
# statistics add to the gradient of `hidden`: constant + slope (z - mean).
@triton.jit(do_not_specialize=["rows", "count"])
def _parameters_kernel(
    projected_rows, rectified_rows, deviation_rows, weight, bias, project_weight, mean, variance,
    grad_weight, grad_bias, grad_project, constants, slopes,
    rows, count, channels,
    EPS: tl.constexpr, ABS_WEIGHT: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    projected = tl.zeros([BLOCK_B, BLOCK_C], projected_rows.dtype.element_ty)
    rectified, deviations = projected, projected
    for first in range(0, rows, BLOCK_B):
        projected += load_rows(projected_rows, channels, first, rows, c, inside_c, BLOCK_B)
        rectified += load_rows(rectified_rows, channels, first, rows, c, inside_c, BLOCK_B)
        deviations += load_rows(deviation_rows, channels, first, rows, c, inside_c, BLOCK_B)
    projected = tl.sum(projected, axis=0)
    rectified = tl.sum(rectified, axis=0)
    deviations = tl.sum(deviations, axis=0)
    _, deviation, scale, _ = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
    w = tl.load(project_weight + c, mask=inside_c, other=0.0)
    of_beta = w * rectified
    of_gamma = w * deviations * deviation
    if constants is not None:
        tl.store(constants + c, -scale * of_beta / count, mask=inside_c)
        tl.store(slopes + c, -scale * deviation * of_gamma / count, mask=inside_c)
    if grad_weight is not None:
        if ABS_WEIGHT:
            gamma = tl.load(weight + c, mask=inside_c, other=0.0)
            of_gamma = tl.where(gamma > 0.0, of_gamma, tl.where(gamma < 0.0, -of_gamma, 0.0))
        tl.store(grad_weight + c, of_gamma, mask=inside_c)
    if grad_bias is not None:
        tl.store(grad_bias + c, of_beta, mask=inside_c)
    if grad_project is not None:
        tl.store(grad_project + c, projected, mask=inside_c)


# One program writes the gradient of BLOCK_P pixels of BLOCK_C channels of one image.
@triton.jit
def _gradient_kernel(
    grad, hidden, weight, bias, project_weight, mean, variance, constants, slopes, grad_hidden,
    grad_strides, strides, out_strides, channels, pixels,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    g_n, _, g_p = grad_strides
    z_n, z_c, z_p = strides
    dz_n, dz_c, dz_p = out_strides
    block, c = part_and_channels(channels, BLOCK_C)
    n = tl.program_id(1).to(tl.int64)
    p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_c = c < channels
    inside = inside_c[:, None] & (p < pixels)[None, :]
    center, _, scale, beta = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
    of_grad = scale * tl.load(project_weight + c, mask=inside_c, other=0.0)
    g = tl.load(grad + n * g_n + p * g_p, mask=p < pixels, other=0.0).to(arithmetic)[None, :]
    z = tl.load(hidden + n * z_n + c[:, None] * z_c + p[None, :] * z_p, mask=inside, other=0.0).to(arithmetic)
    deviation = z - center[:, None]
    dz = of_grad[:, None] * rectify(deviation * scale[:, None] + beta[:, None], g, SLOPE)
    if constants is not None:
        slope = tl.load(slopes + c, mask=inside_c, other=0.0)
        dz += tl.load(constants + c, mask=inside_c, other=0.0)[:, None] + slope[:, None] * deviation
    out = grad_hidden + n * dz_n + c[:, None] * dz_c + p[None, :] * dz_p
    tl.store(out, dz.to(grad_hidden.dtype.element_ty), mask=inside)


@sized(hidden="nchw", weight="c", bias="c", running_mean="c", running_var="c", project_weight="c", logits="n1hw")
def forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    project_weight: Tensor,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    logits: Tensor,
    mean: Tensor,
    variance: Tensor,
) -> None:
    if running_mean is not None and running_var is not None:
        mean.copy_(running_mean)
        variance.copy_(running_var)
    else:
        statistics(hidden, mean, variance)
    options = {"EPS": eps, "SLOPE": activation_slope, "ABS_WEIGHT": abs_weight}
    _launch_projection(hidden, weight, bias, project_weight, mean, variance, logits, options)


@split_batch("weight", "bias", "project_weight", "mean", "variance")
def _launch_projection(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    project_weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    logits: Tensor,
    options: dict[str, Any],
) -> None:
    batch, channels, height, width = hidden.shape
    pixels = height * width
    tile = _tiles.of_sums(channels, pixels, _tiles.channels_last(hidden), hidden.itemsize, widest=64)
    blocks, whole = _tiles.cdiv(pixels, tile["BLOCK_P"]), channels <= tile["BLOCK_C"]
    steps = _tiles.steps(blocks, blocks, least=4) if whole else 1
    launch(
        _project_kernel, (_tiles.cdiv(blocks, steps), batch),
        hidden, weight, bias, project_weight, mean, variance, logits,
        layout.strides(hidden), channels, pixels, steps,
        **options, whole=whole, **tile, arithmetic=arithmetic_of(hidden),
    )  # fmt: skip


@sized(grad="n1hw", hidden="nchw", weight="c", bias="c", project_weight="c", mean="c", variance="c")
def backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    project_weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    needed: list[bool],
    grads: list[Tensor],
) -> None:
    grad_hidden, *of_parameters = spread(grads, needed)
    batch, channels, height, width = hidden.shape
    options = {"EPS": eps, "SLOPE": activation_slope, "ABS_WEIGHT": abs_weight}
    constants, slopes = (torch.empty_like(mean) if batch_statistics else None for _ in range(2))
    if batch_statistics or any(needed[1:]):
        parts, steps = parts_and_steps(hidden)
        sums = [mean.new_empty((batch, parts, channels)) for _ in range(3)]
        _sums(grad, hidden, weight, bias, mean, variance, steps, sums, options)
        add = of_rows(sums[0])
        launch(
            _parameters_kernel, (_tiles.cdiv(channels, add["BLOCK_C"]),),
            *sums, weight, bias, project_weight, mean, variance,
            *of_parameters, constants, slopes, batch * parts, batch * height * width, channels,
            EPS=eps, ABS_WEIGHT=abs_weight, **add,
        )  # fmt: skip
    if grad_hidden is not None:
        parameters = weight, bias, project_weight, mean, variance, constants, slopes
        _gradient(grad, hidden, parameters, grad_hidden, options)


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
    tile = tile_of_sums(hidden)
    # Beside each block it reads the gradient, and keeps three sums: with four blocks at a time it spills.
    launch(
        _sums_kernel, (parts * _tiles.cdiv(channels, tile["BLOCK_C"]), batch),
        grad, hidden, weight, bias, mean, variance, *sums,
        layout.strides(grad), layout.strides(hidden), channels, hidden.shape[2] * hidden.shape[3], parts, steps,
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
    batch, channels, height, width = hidden.shape
    tile = _tiles.of_map(channels, _tiles.channels_last(hidden), hidden.itemsize)
    blocks = _tiles.cdiv(height * width, tile["BLOCK_P"]) * _tiles.cdiv(channels, tile["BLOCK_C"])
    launch(
        _gradient_kernel, (blocks, batch),
        grad, hidden, *parameters, grad_hidden,
        layout.strides(grad), layout.strides(hidden), layout.strides(grad_hidden), channels, height * width,
        **options, **tile, arithmetic=arithmetic_of(hidden),
    )  # fmt: skip
