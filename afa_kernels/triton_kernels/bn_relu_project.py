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
from afa_kernels.triton_kernels._norm import norm, rectify

STEPS = 8  # blocks of pixels that one program sums over


@triton.jit
def _part_and_channels(channels, BLOCK_C: tl.constexpr):
    """Return the part of the pixels and the channels of this program; neighbouring programs share a part."""
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    block = tl.program_id(0).to(tl.int64)
    return block // channel_blocks, block % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)


@triton.jit
def _first_of(hidden, c, inside_c, z_c, arithmetic: tl.constexpr):
    """Return the first pixel of the channels c.

    Statistics are taken of the differences from it, which keep the digits that values far from zero would lose.
    """
    return tl.load(hidden + c * z_c, mask=inside_c, other=0.0).to(arithmetic)


# One program takes the mean and the sum of squared deviations of STEPS blocks of BLOCK_P pixels of BLOCK_C channels of
# one image, merging block by block by Chan's formula, and writes them to its own row of (N, parts, C).
@triton.jit
def _statistics_kernel(
    hidden, origin_image, means, squares,
    strides, channels, pixels, parts,
    STEPS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    z_n, z_c, z_p = strides
    part, c = _part_and_channels(channels, BLOCK_C)
    n = tl.program_id(1).to(tl.int64)
    inside_c = c < channels
    origin = _first_of(origin_image, c, inside_c, z_c, arithmetic)[:, None]
    count = tl.zeros([], arithmetic)
    mean = tl.zeros([BLOCK_C], arithmetic)
    square = tl.zeros([BLOCK_C], arithmetic)
    for step in range(STEPS):
        p = (part * STEPS + step) * BLOCK_P + tl.arange(0, BLOCK_P)
        inside = inside_c[:, None] & (p < pixels)[None, :]
        z = tl.load(hidden + n * z_n + c[:, None] * z_c + p[None, :] * z_p, mask=inside, other=0.0).to(arithmetic)
        z = tl.where(inside, z - origin, 0.0)
        new_count = tl.sum((p < pixels).to(arithmetic))
        new_mean = tl.sum(z, axis=1) / tl.maximum(new_count, 1.0)
        deviations = tl.where(inside, z - new_mean[:, None], 0.0)
        fraction = new_count / tl.maximum(count + new_count, 1.0)
        delta = new_mean - mean
        mean += delta * fraction
        square += tl.sum(deviations * deviations, axis=1) + delta * delta * count * fraction
        count += new_count
    row = (n * parts + part) * channels + c
    tl.store(means + row, mean, mask=inside_c)
    tl.store(squares + row, square, mask=inside_c)


# One program merges the rows of BLOCK_C channels: first the mean, then the deviations from it.
@triton.jit
def _merge_kernel(
    hidden, means, squares, mean, variance,
    strides, rows, count, channels, pixels, parts, pixels_of_part,
    BLOCK_C: tl.constexpr, BLOCK_B: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    _, z_c, _ = strides
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    total = tl.zeros([BLOCK_B, BLOCK_C], arithmetic)
    for first in range(0, rows, BLOCK_B):
        row = first + tl.arange(0, BLOCK_B).to(tl.int64)[:, None]
        inside = (row < rows) & (c < channels)
        fraction = tl.minimum(pixels - row % parts * pixels_of_part, pixels_of_part).to(arithmetic) / count
        total += tl.load(means + row * channels + c, mask=inside, other=0.0) * fraction
    center = tl.sum(total, axis=0)[None, :]
    total = tl.zeros([BLOCK_B, BLOCK_C], arithmetic)
    for first in range(0, rows, BLOCK_B):
        row = first + tl.arange(0, BLOCK_B).to(tl.int64)[:, None]
        inside = (row < rows) & (c < channels)
        fraction = tl.minimum(pixels - row % parts * pixels_of_part, pixels_of_part).to(arithmetic) / count
        delta = tl.load(means + row * channels + c, mask=inside, other=0.0) - center
        squared = tl.load(squares + row * channels + c, mask=inside, other=0.0) / count + delta * delta * fraction
        total += tl.where(inside, squared, 0.0)
    tl.store(mean + c, _first_of(hidden, c, c < channels, z_c, arithmetic) + center, mask=c < channels)
    tl.store(variance + c, tl.sum(total, axis=0)[None, :], mask=c < channels)


# One program projects BLOCK_P pixels of one image, over all channels.
@triton.jit
def _project_kernel(
    hidden, weight, bias, project_weight, mean, variance, logits,
    strides, channels, pixels,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    z_n, z_c, z_p = strides
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_p = p < pixels
    total = tl.zeros([BLOCK_P], arithmetic)
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C).to(tl.int64)
        inside_c = c < channels
        center, _, scale, beta = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
        w = tl.load(project_weight + c, mask=inside_c, other=0.0)
        inside = inside_c[:, None] & inside_p[None, :]
        z = tl.load(hidden + n * z_n + c[:, None] * z_c + p[None, :] * z_p, mask=inside, other=0.0).to(arithmetic)
        y = (z - center[:, None]) * scale[:, None] + beta[:, None]
        total += tl.sum(tl.where(inside, w[:, None] * rectify(y, y, SLOPE), 0.0), axis=0)
    tl.store(logits + n * pixels + p, total.to(logits.dtype.element_ty), mask=inside_p)


# With g the gradient of the logits and g' = (y > 0 ? g : SLOPE g): one program sums g r, g' and g' (z - mean) over
# STEPS blocks of BLOCK_P pixels of BLOCK_C channels of one image, and writes each to its own row of (N, parts, C).
@triton.jit
def _sums_kernel(
    grad, hidden, weight, bias, mean, variance, projected_rows, rectified_rows, deviation_rows,
    grad_strides, strides, channels, pixels, parts,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ABS_WEIGHT: tl.constexpr,
    STEPS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, arithmetic: tl.constexpr,
):  # fmt: skip
    g_n, _, g_p = grad_strides
    z_n, z_c, z_p = strides
    part, c = _part_and_channels(channels, BLOCK_C)
    n = tl.program_id(1).to(tl.int64)
    inside_c = c < channels
    center, _, scale, beta = norm(weight, bias, mean, variance, c, inside_c, EPS, ABS_WEIGHT)
    projected = tl.zeros([BLOCK_C], arithmetic)
    rectified = tl.zeros([BLOCK_C], arithmetic)
    deviations = tl.zeros([BLOCK_C], arithmetic)
    for step in range(STEPS):
        p = (part * STEPS + step) * BLOCK_P + tl.arange(0, BLOCK_P)
        inside = inside_c[:, None] & (p < pixels)[None, :]
        g = tl.load(grad + n * g_n + p * g_p, mask=p < pixels, other=0.0).to(arithmetic)[None, :]
        z = tl.load(hidden + n * z_n + c[:, None] * z_c + p[None, :] * z_p, mask=inside, other=0.0).to(arithmetic)
        deviation = z - center[:, None]
        y = deviation * scale[:, None] + beta[:, None]
        passed = rectify(y, g, SLOPE)
        projected += tl.sum(tl.where(inside, g * rectify(y, y, SLOPE), 0.0), axis=1)
        rectified += tl.sum(tl.where(inside, passed, 0.0), axis=1)
        deviations += tl.sum(tl.where(inside, passed * deviation, 0.0), axis=1)
    row = (n * parts + part) * channels + c
    tl.store(projected_rows + row, projected, mask=inside_c)
    tl.store(rectified_rows + row, rectified, mask=inside_c)
    tl.store(deviation_rows + row, deviations, mask=inside_c)


@triton.jit
def _over_rows(sums, c, inside_c, rows, channels, BLOCK_C: tl.constexpr, BLOCK_B: tl.constexpr):
    """Return the sums over all rows of the channels c, in order."""
    total = tl.zeros([BLOCK_B, BLOCK_C], sums.dtype.element_ty)
    for first in range(0, rows, BLOCK_B):
        row = first + tl.arange(0, BLOCK_B).to(tl.int64)[:, None]
        inside = (row < rows) & inside_c[None, :]
        total += tl.load(sums + row * channels + c[None, :], mask=inside, other=0.0)
    return tl.sum(total, axis=0)


# One program adds up the rows of BLOCK_C channels, and makes of them the gradients of the parameters, and what the
# statistics add to the gradient of `hidden`: constant + slope (z - mean).
@triton.jit
def _parameters_kernel(
    projected_rows, rectified_rows, deviation_rows, weight, bias, project_weight, mean, variance,
    grad_weight, grad_bias, grad_project, constants, slopes,
    rows, count, channels,
    EPS: tl.constexpr, ABS_WEIGHT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    projected = _over_rows(projected_rows, c, inside_c, rows, channels, BLOCK_C, BLOCK_B)
    rectified = _over_rows(rectified_rows, c, inside_c, rows, channels, BLOCK_C, BLOCK_B)
    deviations = _over_rows(deviation_rows, c, inside_c, rows, channels, BLOCK_C, BLOCK_B)
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
    block, c = _part_and_channels(channels, BLOCK_C)
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
    batch, channels, height, width = hidden.shape
    pixels = height * width
    if running_mean is not None and running_var is not None:
        mean.copy_(running_mean)
        variance.copy_(running_var)
    else:
        means, squares = (mean.new_empty((batch, _parts(hidden), channels)) for _ in range(2))
        _statistics(hidden, hidden, means, squares)
        launch(
            _merge_kernel, (triton.cdiv(channels, 32),),
            hidden, means, squares, mean, variance, layout.strides(hidden), batch * _parts(hidden), batch * pixels,
            channels, pixels, _parts(hidden), STEPS * _tile(hidden)["BLOCK_P"],
            BLOCK_C=32, BLOCK_B=32, num_warps=8, arithmetic=arithmetic_of(hidden),
        )  # fmt: skip
    options = {"EPS": eps, "SLOPE": activation_slope, "ABS_WEIGHT": abs_weight}
    _project(hidden, weight, bias, project_weight, mean, variance, logits, options)


@split_batch("first_image")
def _statistics(hidden: Tensor, first_image: Tensor, means: Tensor, squares: Tensor) -> None:
    batch, parts, channels = means.shape
    tile = _tile(hidden)
    launch(
        _statistics_kernel, (parts * triton.cdiv(channels, tile["BLOCK_C"]), batch),
        hidden, first_image, means, squares,
        layout.strides(hidden), channels, hidden.shape[2] * hidden.shape[3], parts,
        STEPS=STEPS, **tile, arithmetic=arithmetic_of(hidden),
    )  # fmt: skip


@split_batch("weight", "bias", "project_weight", "mean", "variance")
def _project(
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
    tile = _tile(hidden)
    launch(
        _project_kernel, (triton.cdiv(height * width, tile["BLOCK_P"]), batch),
        hidden, weight, bias, project_weight, mean, variance, logits, layout.strides(hidden), channels, height * width,
        **options, **tile, arithmetic=arithmetic_of(hidden),
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
        parts = _parts(hidden)
        sums = [mean.new_empty((batch, parts, channels)) for _ in range(3)]
        _sums(grad, hidden, weight, bias, mean, variance, sums, options)
        launch(
            _parameters_kernel, (triton.cdiv(channels, 32),),
            *sums, weight, bias, project_weight, mean, variance,
            *of_parameters, constants, slopes, batch * parts, batch * height * width, channels,
            EPS=eps, ABS_WEIGHT=abs_weight, BLOCK_C=32, BLOCK_B=32,
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
    sums: list[Tensor],
    options: dict[str, Any],
) -> None:
    batch, parts, channels = sums[0].shape
    tile = _tile(hidden)
    launch(
        _sums_kernel, (parts * triton.cdiv(channels, tile["BLOCK_C"]), batch),
        grad, hidden, weight, bias, mean, variance, *sums,
        layout.strides(grad), layout.strides(hidden), channels, hidden.shape[2] * hidden.shape[3], parts,
        **options, STEPS=STEPS, **tile, arithmetic=arithmetic_of(hidden),
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
    tile = _tile(hidden)
    blocks = triton.cdiv(height * width, tile["BLOCK_P"]) * triton.cdiv(channels, tile["BLOCK_C"])
    launch(
        _gradient_kernel, (blocks, batch),
        grad, hidden, *parameters, grad_hidden,
        layout.strides(grad), layout.strides(hidden), layout.strides(grad_hidden), channels, height * width,
        **options, **tile, arithmetic=arithmetic_of(hidden),
    )  # fmt: skip


def _parts(hidden: Tensor) -> int:
    """Return the number of parts that the sums over the pixels of an image are taken in."""
    return triton.cdiv(hidden.shape[2] * hidden.shape[3], STEPS * _tile(hidden)["BLOCK_P"])


def _tile(hidden: Tensor) -> dict[str, int]:
    channels_last = _tiles.channels_last(hidden)
    return _tiles.of_map(hidden.shape[1], channels_last, hidden.itemsize)
