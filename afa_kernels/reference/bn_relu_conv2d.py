"""The convolution of r, with r = leaky ReLU of gamma (z - mean) / sqrt(variance + eps) + beta."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from afa_kernels.reference.bn_relu_project import bn_relu


def bn_relu_conv2d(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The convolved map and the statistics: those given, or without any the mean and biased variance of the batch."""
    r, mean, variance = bn_relu(hidden, weight, bias, running_mean, running_var, eps, activation_slope, abs_weight)
    activated = r.to(hidden.dtype).to(conv_weight.dtype)
    return F.conv2d(activated, conv_weight, conv_bias, stride, padding, dilation, groups), mean, variance
