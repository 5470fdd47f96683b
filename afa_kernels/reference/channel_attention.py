"""logits = W2 r(max) + W2 r(avg), with r(v) = ReLU of the batch norm of W1 v."""

from __future__ import annotations

import torch
from torch import Tensor

from afa_kernels.reference.bn_relu_project import bn_relu


def channel_attention(
    avg: Tensor,
    max: Tensor,
    conv1_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    conv2_weight: Tensor,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The logits, and the mean and biased variance of either branch, that of the maximum first."""
    pooled = [v.to(torch.promote_types(v.dtype, torch.float32)) for v in (max, avg)]
    conv1, conv2 = (w.to(pooled[0].dtype).flatten(1) for w in (conv1_weight, conv2_weight))
    norm = weight, bias, running_mean, running_var, eps, activation_slope, abs_weight
    branches = [bn_relu(linear(v.flatten(1), conv1)[..., None, None], *norm) for v in pooled]
    logits = linear(branches[0][0].flatten(1), conv2) + linear(branches[1][0].flatten(1), conv2)
    return logits[..., None, None].to(avg.dtype), [(mean, variance) for _, mean, variance in branches]


def linear(rows: Tensor, weight: Tensor) -> Tensor:
    """F.linear, written as a product and a sum, which autocast leaves in the type they come in."""
    return (rows[:, None] * weight).sum(-1)
