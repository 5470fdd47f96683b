"""logits = sum over C of w r, with r = leaky ReLU of gamma (z - mean) / sqrt(variance + eps) + beta."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bn_relu_project(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    project_weight: Tensor,
    eps: float = 1e-5,
    activation_slope: float = 0.0,
    abs_weight: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits and the statistics: those given, or without any the mean and biased variance of the batch."""
    r, mean, variance = bn_relu(hidden, weight, bias, running_mean, running_var, eps, activation_slope, abs_weight)
    logits = (project_weight.to(r.dtype) * r).sum(1, keepdim=True)  # which autocast leaves alone
    return logits.to(hidden.dtype), mean, variance


def bn_relu(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised and rectified map and the statistics, all in the type of the arithmetic."""
    z, gamma, beta = (t.to(torch.promote_types(hidden.dtype, torch.float32)) for t in (hidden, weight, bias))
    if abs_weight:
        gamma = gamma.abs() + eps
    if z.numel() == 0:  # which torch.batch_norm refuses
        mean, variance = (torch.zeros_like(gamma) if t is None else t for t in (running_mean, running_var))
        return z * _per_channel(gamma) + _per_channel(beta), mean, variance
    if running_mean is None or running_var is None:
        y = torch.batch_norm(z, gamma, beta, None, None, True, 0.0, eps, False)
        variance, mean = torch.var_mean(z.detach(), (0, 2, 3), correction=0)
    else:
        mean, variance = running_mean.to(z.dtype), running_var.to(z.dtype)
        y = torch.batch_norm(z, gamma, beta, mean, variance, False, 0.0, eps, False)
    return F.leaky_relu(y, activation_slope) if activation_slope else y.relu(), mean, variance


def _per_channel(x: Tensor) -> Tensor:
    return x.view(1, -1, 1, 1)
