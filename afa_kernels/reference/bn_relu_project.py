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
    project = project_weight.to(r.dtype)
    as_sum = r.numel() == 0 or autocasts(r.device.type)  # where a convolution would leave the type of the arithmetic
    logits = (project * r).sum(1, keepdim=True) if as_sum else F.conv2d(r, project)
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
    if z.numel() == 0:  # which no batch norm takes
        y = z * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)
        mean, variance = (torch.zeros_like(gamma) if t is None else t.to(z.dtype) for t in (running_mean, running_var))
    elif running_mean is not None and running_var is not None:
        mean, variance = running_mean.to(z.dtype), running_var.to(z.dtype)
        y = F.batch_norm(z, mean, variance, gamma, beta, False, 0.0, eps)
    else:
        y, mean, inverse = torch.native_batch_norm(z, gamma, beta, None, None, True, 0.0, eps)
        variance = (inverse.square().reciprocal() - eps).clamp(min=0)
    return F.leaky_relu(y, activation_slope) if activation_slope else y.relu(), mean, variance


def autocasts(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
