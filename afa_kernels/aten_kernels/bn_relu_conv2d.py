"""bn_relu_conv2d of PyTorch's convolution and batch norm (cuDNN, oneDNN); backward computes the input again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from afa_kernels import dtypes, layout

aten: Any = torch.ops.aten


def forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    arithmetic = dtypes.arithmetic(hidden)
    gamma, beta = _affine(hidden, weight, bias, eps, abs_weight)
    if running_mean is None or running_var is None:
        # A running statistic that the batch replaces altogether is that of the batch.
        mean, variance = (torch.zeros_like(beta) for _ in range(2))
        count = hidden.shape[0] * hidden.shape[2] * hidden.shape[3]
        y = _normalised(hidden, gamma, beta, mean, variance, eps, True)
        variance *= (count - 1) / count if count else 0
    else:
        mean, variance = (t.to(arithmetic, copy=True) for t in (running_mean, running_var))
        y = _normalised(hidden, gamma, beta, mean, variance, eps)
    activated = _rectified(y, activation_slope).to(conv_weight.dtype)
    return _convolution(activated, conv_weight, conv_bias, stride, padding, dilation, groups), mean, variance


def backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    conv_weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    needed: list[bool],
) -> list[Tensor]:
    if hidden.numel() == 0:
        inputs = hidden, weight, bias, conv_weight
        grads = [torch.zeros_like(t) for t, wanted in zip(inputs, needed) if wanted]
        return [*grads, conv_weight.new_zeros(conv_weight.shape[0])] if needed[-1] else grads
    of_hidden, of_weight, of_bias, of_conv_weight, of_conv_bias = needed
    of_norm = [of_hidden, of_weight, of_bias]
    gamma, beta = _affine(hidden, weight, bias, eps, abs_weight)
    activated = _rectified(_normalised(hidden, gamma, beta, mean, variance, eps), activation_slope)
    grad_activated, grad_conv_weight, grad_conv_bias = aten.convolution_backward(
        grad, activated.to(conv_weight.dtype), conv_weight, [conv_weight.shape[0]], stride, padding, dilation,
        False, [0, 0], groups, [any(of_norm), of_conv_weight, of_conv_bias],
    )  # fmt: skip
    grad_hidden = grad_weight = grad_bias = None
    if any(of_norm):
        grad_activated = grad_activated.to(hidden.dtype)
        if activation_slope:
            grad_y = aten.leaky_relu_backward(grad_activated, activated, activation_slope, True)
        else:
            grad_y = aten.threshold_backward(grad_activated, activated, 0)
        grad_hidden, grad_weight, grad_bias = aten.native_batch_norm_backward(
            grad_y, _dense(hidden), gamma, mean, variance, mean, torch.rsqrt(variance + eps), batch_statistics, eps,
            of_norm,
        )  # fmt: skip
        if abs_weight and of_weight:
            grad_weight = grad_weight * weight.sign()
    if grad_hidden is not None:
        grad_hidden = grad_hidden.contiguous(memory_format=layout.memory_format(hidden))
    found = grad_hidden, grad_weight, grad_bias, grad_conv_weight, grad_conv_bias
    parameters = None, weight, bias, conv_weight, None
    wanted = ((g, x) for g, x, asked in zip(found, parameters, needed) if asked)
    return [g if x is None else layout.as_gradient(g, x) for g, x in wanted]


def _affine(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float, abs_weight: bool) -> tuple[Tensor, Tensor]:
    """gamma and beta in the type of the arithmetic."""
    gamma, beta = (t.to(dtypes.arithmetic(hidden)) for t in (weight, bias))
    return gamma.abs() + eps if abs_weight else gamma, beta


def _normalised(
    hidden: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, eps: float, of_batch: bool = False
) -> Tensor:
    """By `mean` and `variance`; or by the statistics `of_batch`, which these become."""
    dense = _dense(hidden)
    if hidden.numel() == 0:  # which ATen's kernel for CUDA refuses
        return torch.empty_like(dense)
    return aten.native_batch_norm(dense, gamma, beta, mean, variance, of_batch, float(of_batch), eps)[0]


def _rectified(y: Tensor, activation_slope: float) -> Tensor:
    return aten.leaky_relu_(y, activation_slope) if activation_slope else aten.relu_(y)


def _convolution(
    activated: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return aten.convolution(activated, conv_weight, conv_bias, stride, padding, dilation, False, [0, 0], groups)


def _dense(hidden: Tensor) -> Tensor:
    """`hidden` in its memory format, so that what is computed of it has the same."""
    return hidden.contiguous(memory_format=layout.memory_format(hidden))
