"""logits = W2 (r(max) + r(avg)), with r(v) = ReLU of the batch norm of W1 v."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels.reference.bn_relu_project import autocasts, bn_relu


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
    """The logits; the mean and biased variance of either branch, that of the maximum first, or those given."""
    arithmetic = torch.promote_types(avg.dtype, torch.float32)
    conv1, conv2 = (w.to(arithmetic).flatten(1) for w in (conv1_weight, conv2_weight))
    norm = weight, bias, running_mean, running_var, eps, activation_slope, abs_weight
    rows = [v.to(arithmetic).flatten(1) for v in (max, avg)]
    if running_mean is not None:  # by which both are normalised, and so at once
        rows = [torch.cat(rows)]
    branches = [bn_relu(linear(v, conv1)[..., None, None], *norm) for v in rows]
    both = torch.cat([r for r, _, _ in branches]).view(2, avg.shape[0], conv1.shape[0])
    logits = linear(both.sum(0), conv2)
    return logits[..., None, None].to(avg.dtype), [(mean, variance) for _, mean, variance in branches]


def linear(rows: Tensor, weight: Tensor) -> Tensor:
    """F.linear; as a product and a sum under autocast, which leaves these in the type they come in, and on a GPU."""
    as_sum = rows.device.type != "cpu" or autocasts("cpu")
    return (rows[:, None] * weight).sum(-1) if as_sum else F.linear(rows, weight)
