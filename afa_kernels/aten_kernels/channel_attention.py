"""The backward pass of channel_attention: on vectors this short PyTorch's own kernels will do."""

from __future__ import annotations

import torch
from torch import Tensor

from afa_kernels import dtypes, layout


def backward(
    grad: Tensor,
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
    needed: list[bool],
) -> list[Tensor]:
    """The gradients that are needed of avg, max, the first weight, gamma, beta and the second weight."""
    inputs = avg, max, conv1_weight, weight, bias, conv2_weight
    arithmetic = dtypes.arithmetic(avg)
    conv1, conv2, grad = (t.to(arithmetic).flatten(1) for t in (conv1_weight, conv2_weight, grad))
    gamma, beta, mean, variance = (t.to(arithmetic) for t in (weight, bias, running_mean, running_var))
    signs = gamma.sign() if abs_weight else None
    if abs_weight:
        gamma = gamma.abs() + eps
    of_avg, of_max, of_conv1, of_weight, of_bias, of_conv2 = needed
    deviation = torch.rsqrt(variance + eps)
    pooled = torch.cat((avg, max)).flatten(1).to(arithmetic)  # (2N, C): both branches at once, in half the kernels
    normalised = (_linear(pooled, conv1) - mean) * deviation
    y = normalised * gamma + beta
    grad_y = _rectify(y, _linear(grad, conv2.t()).repeat(2, 1), activation_slope)
    found: list[Tensor | None] = [None] * 6
    if of_avg or of_max or of_conv1:
        grad_linear = grad_y * (gamma * deviation)
        if of_avg or of_max:
            found[:2] = (half.clone() for half in _linear(grad_linear, conv1.t()).chunk(2))
        if of_conv1:
            found[2] = _linear(grad_linear.t(), pooled.t())
    if of_weight:
        grad_gamma = (grad_y * normalised).sum(0)
        found[3] = grad_gamma if signs is None else grad_gamma * signs
    if of_bias:
        found[4] = grad_y.sum(0)
    if of_conv2:
        avg_branch, max_branch = _rectify(y, y, activation_slope).chunk(2)
        found[5] = _linear(grad.t(), (avg_branch + max_branch).t())
    wanted = ((g, x) for g, x, asked in zip(found, inputs, needed) if asked and g is not None)
    return [layout.as_gradient(g, x) for g, x in wanted]


def _linear(rows: Tensor, weight: Tensor) -> Tensor:
    """F.linear, written as a product and a sum, which autocast leaves in the type they come in."""
    return (rows[:, None] * weight).sum(-1)


def _rectify(y: Tensor, value: Tensor, slope: float) -> Tensor:
    """`value` where y > 0, else slope * value. ReLU lets NaN through and gives 0 for infinity."""
    return torch.where(y > 0, value, slope * value) if slope else value.masked_fill(y <= 0, 0)
