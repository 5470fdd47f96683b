"""bn_relu_conv2d of PyTorch's convolution (cuDNN, oneDNN), whose input backward computes again.

The batch norm is PyTorch's too, or by `kernels`: the launchers of triton_kernels.bn_relu_conv2d, or of native_kernels'.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from afa_kernels import dtypes, layout

aten: Any = torch.ops.aten


class _Norm(NamedTuple):
    """A batch norm by `mean` and `variance`, and the leaky ReLU behind it."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    eps: float
    activation_slope: float
    abs_weight: bool


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
    kernels: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    arithmetic = dtypes.arithmetic(hidden)
    if hidden.numel() == 0:
        kernels = None  # nothing is launched
    of_batch = running_mean is None or running_var is None
    if running_mean is None or running_var is None:
        make = torch.zeros if kernels is None else torch.empty
        mean, variance = (make(hidden.shape[1], dtype=arithmetic, device=hidden.device) for _ in range(2))
    else:
        mean, variance = (t.to(arithmetic, copy=True) for t in (running_mean, running_var))
    norm = _Norm(hidden, weight, bias, mean, variance, eps, activation_slope, abs_weight)
    if kernels is not None and of_batch:
        kernels.statistics(_map(hidden), mean, variance)
    activated = _activated(norm, conv_weight.dtype, kernels, of_batch)
    out = aten.convolution(
        activated.to(conv_weight.dtype), conv_weight, conv_bias, stride, padding, dilation, False, [0, 0], groups
    )
    return out, mean, variance


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
    kernels: Any = None,
) -> list[Tensor]:
    if hidden.numel() == 0:
        inputs = hidden, weight, bias, conv_weight
        grads = [torch.zeros_like(t) for t, wanted in zip(inputs, needed) if wanted]
        return [*grads, conv_weight.new_zeros(conv_weight.shape[0])] if needed[-1] else grads
    of_norm, (of_conv_weight, of_conv_bias) = needed[:3], needed[3:]
    norm = _Norm(hidden, weight, bias, mean, variance, eps, activation_slope, abs_weight)
    activated = _activated(norm, conv_weight.dtype, kernels)
    grad_activated, grad_conv_weight, grad_conv_bias = aten.convolution_backward(
        grad, activated.to(conv_weight.dtype), conv_weight, [conv_weight.shape[0]], stride, padding, dilation,
        False, [0, 0], groups, [any(of_norm), of_conv_weight, of_conv_bias],
    )  # fmt: skip
    grads = []
    if any(of_norm) and kernels is None:
        grads = _norm_backward(norm, grad_activated, activated, batch_statistics, of_norm)
    elif any(of_norm):
        grads = _norm_backward_by(kernels, norm, grad_activated, batch_statistics, of_norm)
    if of_conv_weight:
        grads.append(layout.as_gradient(grad_conv_weight, conv_weight))
    if of_conv_bias:
        grads.append(grad_conv_bias)
    return grads


def _activated(norm: _Norm, dtype: torch.dtype, kernels: Any, of_batch: bool = False) -> Tensor:
    """What the convolution gets, by `kernels` in its `dtype`. ATen makes mean and variance those `of_batch`."""
    hidden, *_, eps, activation_slope, abs_weight = norm
    if kernels is not None:
        activated = layout.empty(hidden.shape, hidden, dtype)
        kernels.activate(_map(hidden), *_parameters(norm), eps, activation_slope, abs_weight, activated)
        return activated
    dense = _dense(hidden)
    if hidden.numel() == 0:  # which ATen's kernel for CUDA refuses
        return torch.empty_like(dense)
    # A running statistic that the batch replaces altogether is that of the batch.
    y = aten.native_batch_norm(dense, *_affine(norm), norm.mean, norm.variance, of_batch, float(of_batch), eps)[0]
    if of_batch:
        count = hidden.shape[0] * hidden.shape[2] * hidden.shape[3]
        norm.variance.mul_((count - 1) / count)
    return aten.leaky_relu_(y, activation_slope) if activation_slope else aten.relu_(y)


def _norm_backward(
    norm: _Norm, grad_activated: Tensor, activated: Tensor, batch_statistics: bool, needed: list[bool]
) -> list[Tensor]:
    """The gradients that are needed of hidden, weight and bias."""
    hidden, weight, bias, mean, variance, eps, activation_slope, abs_weight = norm
    grad_activated = grad_activated.to(hidden.dtype)
    if activation_slope:
        grad_y = aten.leaky_relu_backward(grad_activated, activated, activation_slope, True)
    else:
        grad_y = aten.threshold_backward(grad_activated, activated, 0)
    gamma, _ = _affine(norm)
    grad_hidden, grad_weight, grad_bias = aten.native_batch_norm_backward(
        grad_y, _dense(hidden), gamma, mean, variance, mean, torch.rsqrt(variance + eps), batch_statistics, eps, needed
    )
    of_hidden, of_weight, of_bias = needed
    grads = [_dense(grad_hidden, hidden)] if of_hidden else []
    if of_weight:
        grads.append(layout.as_gradient(grad_weight * weight.sign() if abs_weight else grad_weight, weight))
    if of_bias:
        grads.append(layout.as_gradient(grad_bias, bias))
    return grads


def _norm_backward_by(
    kernels: Any, norm: _Norm, grad_activated: Tensor, batch_statistics: bool, needed: list[bool]
) -> list[Tensor]:
    hidden, weight, bias, *_, eps, activation_slope, abs_weight = norm
    of_hidden, *of_parameters = needed
    grads = [layout.empty(hidden.shape, hidden)] if of_hidden else []
    grads += [layout.empty_parameter(x) for x, wanted in zip((weight, bias), of_parameters) if wanted]
    maps = layout.as_map(grad_activated, layout.memory_format(hidden)), _map(hidden)
    kernels.differentiate(*maps, *_parameters(norm), batch_statistics, eps, activation_slope, abs_weight, needed, grads)
    return grads


def _affine(norm: _Norm) -> tuple[Tensor, Tensor]:
    """gamma and beta in the type of the arithmetic."""
    gamma, beta = (t.to(dtypes.arithmetic(norm.hidden)) for t in (norm.weight, norm.bias))
    return gamma.abs() + norm.eps if norm.abs_weight else gamma, beta


def _parameters(norm: _Norm) -> list[Tensor]:
    """Weight, bias, mean and variance in the type of the arithmetic, their values side by side."""
    arithmetic = dtypes.arithmetic(norm.hidden)
    return [x.to(arithmetic).contiguous() for x in (norm.weight, norm.bias, norm.mean, norm.variance)]


def _dense(x: Tensor, like: Tensor | None = None) -> Tensor:
    """`x` in its memory format, so that what is computed of it has the same; or in that of another."""
    return x.contiguous(memory_format=layout.memory_format(x if like is None else like))


def _map(x: Tensor) -> Tensor:
    return layout.as_map(x, layout.memory_format(x))
