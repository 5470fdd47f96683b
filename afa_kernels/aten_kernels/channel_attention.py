"""channel_attention by statistics of the batch, and its backward pass, of ATen's kernels.

Both branches go through every kernel at once, as (2, N, units), the maximum first. Or `kernels` computes all of it: the
launchers of triton_kernels.channel_attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from afa_kernels import dtypes, layout


def training_forward(
    avg: Tensor,
    max: Tensor,
    conv1_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    conv2_weight: Tensor,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    kernels: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits, and the mean and biased variance (2, units) of each branch over the batch."""
    arithmetic = dtypes.arithmetic(avg)
    if kernels is not None and _none_empty(avg, conv1_weight, conv2_weight):
        inputs = (x.contiguous() for x in (avg, max, conv1_weight, weight, bias, conv2_weight))
        logits = avg.new_empty((avg.shape[0], conv2_weight.shape[0], 1, 1))
        mean, variance = (avg.new_empty((2, conv1_weight.shape[0]), dtype=arithmetic) for _ in range(2))
        kernels.by_batch(*inputs, eps, activation_slope, abs_weight, logits, mean, variance)
        return logits, mean, variance
    conv1, conv2 = (w.to(arithmetic).flatten(1) for w in (conv1_weight, conv2_weight))
    hidden = _hidden(avg, max, conv1)
    count = avg.shape[0] or 1  # an empty batch has zeros for statistics, as in F.batch_norm
    mean = hidden.sum(1) / count
    variance = (hidden - mean[:, None]).square().sum(1) / count
    gamma, beta = _affine(weight, bias, eps, abs_weight, arithmetic)
    y = _normalised(hidden, mean, variance, eps) * gamma + beta
    logits = _linear(_rectify(y, y, activation_slope).sum(0), conv2)
    return logits[..., None, None].to(avg.dtype), mean, variance


def backward(
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
    needed: list[bool],
    kernels: Any = None,
) -> list[Tensor]:
    """The gradients that are needed of avg, max, the first weight, gamma, beta and the second weight.

    Mean and variance are (2, units) of the batch, or (units,) and constant.
    """
    inputs = avg, max, conv1_weight, weight, bias, conv2_weight
    if kernels is not None and _none_empty(avg, conv1_weight, conv2_weight):
        given = (x.contiguous() for x in (grad, avg, max, conv1_weight, weight, bias, mean, variance, conv2_weight))
        grads = [layout.empty_parameter(x) if wanted else None for x, wanted in zip(inputs, needed)]
        rows = [None if g is None else g.contiguous() for g in grads]  # itself, but of a weight in an order of its own
        kernels.differentiate(*given, batch_statistics, eps, activation_slope, abs_weight, rows)
        return [g if g is row else g.copy_(row) for g, row in zip(grads, rows) if g is not None and row is not None]
    of_avg, of_max, of_conv1, of_weight, of_bias, of_conv2 = needed
    arithmetic = dtypes.arithmetic(avg)
    conv1, conv2, grad = (t.to(arithmetic).flatten(1) for t in (conv1_weight, conv2_weight, grad))
    gamma, beta = _affine(weight, bias, eps, abs_weight, arithmetic)
    mean, variance = mean.to(arithmetic), variance.to(arithmetic)
    normalised = _normalised(_hidden(avg, max, conv1), mean, variance, eps)
    y = normalised * gamma + beta
    grad_y = _rectify(y, _linear(grad, conv2.t()).expand(y.shape), activation_slope)
    found: list[Tensor | None] = [None] * 6
    if of_avg or of_max or of_conv1:
        grad_normalised = grad_y
        if batch_statistics:
            of_mean, of_deviation = (x.mean(1, keepdim=True) for x in (grad_y, grad_y * normalised))
            grad_normalised = grad_y - of_mean - normalised * of_deviation
        grad_hidden = grad_normalised * (gamma * torch.rsqrt(variance.view(-1, 1, gamma.shape[0]) + eps))
        if of_avg:
            found[0] = _linear(grad_hidden[1], conv1.t())
        if of_max:
            found[1] = _linear(grad_hidden[0], conv1.t())
        if of_conv1:
            found[2] = _linear(grad_hidden.flatten(0, 1).t(), torch.cat((max, avg)).flatten(1).to(arithmetic).t())
    if of_weight:
        grad_gamma = (grad_y * normalised).sum((0, 1))
        found[3] = grad_gamma * weight.sign() if abs_weight else grad_gamma
    if of_bias:
        found[4] = grad_y.sum((0, 1))
    if of_conv2:
        found[5] = _linear(grad.t(), _rectify(y, y, activation_slope).sum(0).t())
    wanted = ((g, x) for g, x, asked in zip(found, inputs, needed) if asked and g is not None)
    return [layout.as_gradient(g, x) for g, x in wanted]


def _none_empty(*tensors: Tensor) -> bool:
    """Whether there is something to launch."""
    return all(x.numel() > 0 for x in tensors)


def _hidden(avg: Tensor, max: Tensor, conv1: Tensor) -> Tensor:
    """(2, N, units), before the norm."""
    pooled = torch.cat((max, avg)).flatten(1).to(conv1.dtype)
    return _linear(pooled, conv1).view(2, -1, conv1.shape[0])


def _affine(
    weight: Tensor, bias: Tensor, eps: float, abs_weight: bool, arithmetic: torch.dtype
) -> tuple[Tensor, Tensor]:
    gamma, beta = weight.to(arithmetic), bias.to(arithmetic)
    return gamma.abs() + eps if abs_weight else gamma, beta


def _normalised(hidden: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    per_branch = -1, 1, hidden.shape[2]
    return (hidden - mean.view(per_branch)) * torch.rsqrt(variance.view(per_branch) + eps)


def _linear(rows: Tensor, weight: Tensor) -> Tensor:
    """F.linear, written as a product and a sum, which autocast leaves in the type they come in."""
    return (rows[:, None] * weight).sum(-1)


def _rectify(y: Tensor, value: Tensor, slope: float) -> Tensor:
    """`value` where y > 0, else slope * value. ReLU lets NaN through and gives 0 for infinity."""
    return torch.where(y > 0, value, slope * value) if slope else value.masked_fill(y <= 0, 0)
