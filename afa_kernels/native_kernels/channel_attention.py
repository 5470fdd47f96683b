"""channel_attention by statistics of the batch, and its backward pass, as one kernel each."""

from __future__ import annotations

import torch
from torch import Tensor

from afa_kernels import dtypes
from afa_kernels.native_kernels._gradients import rows_of

FIRST = "channel_attention_by_batch"


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
    parameters = (x.to(dtypes.arithmetic(avg)) for x in (conv1_weight, weight, bias, conv2_weight))
    options = eps, activation_slope, abs_weight
    torch.ops.afa_native.channel_attention_by_batch(avg, max, *parameters, *options, logits, mean, variance)


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
    arithmetic = dtypes.arithmetic(avg)
    parameters = (x.to(arithmetic) for x in (conv1_weight, weight, bias, mean, variance, conv2_weight))
    needed, of_pooled = [g is not None for g in grads], [g for g in grads[:2] if g is not None]
    options = batch_statistics, eps, activation_slope, abs_weight
    with rows_of([g for g in grads[2:] if g is not None], arithmetic) as rows:
        wanted = [*of_pooled, *rows]
        torch.ops.afa_native.channel_attention_differentiate(grad, avg, max, *parameters, *options, needed, wanted)
