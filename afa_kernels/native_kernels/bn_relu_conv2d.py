"""The batch norm and ReLU of bn_relu_conv2d, by the compiled libraries; its convolution is ATen's."""

from __future__ import annotations

import torch
from torch import Tensor

from afa_kernels import dtypes, layout
from afa_kernels.native_kernels._gradients import rows_of

FIRST = "bn_relu_activate"


def statistics(hidden: Tensor, mean: Tensor, variance: Tensor) -> None:
    torch.ops.afa_native.bn_relu_statistics(hidden, mean, variance)


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
    made = activated if activated.dtype == hidden.dtype else layout.empty(hidden.shape, activated, hidden.dtype)
    rows, options = (weight, bias, mean, variance), (eps, activation_slope, abs_weight)
    torch.ops.afa_native.bn_relu_activate(hidden, *rows, *options, made)
    if made is not activated:
        activated.copy_(made)


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
    grad = layout.as_map(grad_activated.to(hidden.dtype), layout.memory_format(hidden))
    of_hidden, of_parameters = grads[: int(needed[0])], grads[int(needed[0]) :]
    norm, options = (weight, bias, mean, variance), (batch_statistics, eps, activation_slope, abs_weight)
    with rows_of(of_parameters, dtypes.arithmetic(hidden)) as rows:
        torch.ops.afa_native.bn_relu_differentiate(grad, hidden, *norm, *options, needed, [*of_hidden, *rows])
