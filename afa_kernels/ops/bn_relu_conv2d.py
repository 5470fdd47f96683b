"""bn_relu_conv2d: batch norm, ReLU and a convolution whose input is computed again for backward instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _batch_norm as batch_norm
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import bn_relu_conv2d as reference

aten = torch.ops.aten


def bn_relu_conv2d(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation_slope: float = 0.0,
    abs_weight: bool = False,
) -> Tensor:
    """Normalise a feature map, rectify it and convolve it, keeping `hidden` alone for backward.

    With y and the activation of `bn_relu_project`:

        out = conv2d(y if y > 0 else activation_slope * y, conv_weight, conv_bias, stride, padding, dilation, groups)

    The convolution, forward and backward, is PyTorch's (cuDNN, oneDNN), and so is the batch norm. Its input is
    computed a second time in backward: one map the size of `hidden` less is kept, for one read and one write of it.

    Args:
        hidden: (N, C, H, W), the output of a convolution.
        weight, bias: (C,), of the batch norm.
        running_mean, running_var: (C,), both or neither.
        conv_weight: (D, C / groups, kh, kw).
        conv_bias: (D,), or None.
        stride, padding, dilation: of the convolution, for height and width; or one number for both.
        groups: of the convolution.
        training, momentum, eps, activation_slope, abs_weight: as in `bn_relu_project`.

    Returns:
        (N, D, H', W') as F.conv2d has it, in the type of `hidden` (under autocast in autocast's). `hidden`, `weight`,
        `bias`, `conv_weight` and `conv_bias` have a gradient.

    Raises:
        TypeError: an argument is no dense floating tensor, or no number.
        ValueError: a shape or a device does not match, a number is out of range, only one of the running statistics
            is given, or a channel has one value to take the statistics of.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, spatial attention.

    >>> import torch, afa_kernels
    >>> hidden, conv_weight = torch.randn(2, 16, 32, 64), torch.randn(8, 16, 3, 3)
    >>> weight, bias, mean, var = torch.ones(16), torch.zeros(16), torch.zeros(16), torch.ones(16)
    >>> afa_kernels.bn_relu_conv2d(hidden, weight, bias, mean, var, conv_weight, padding=1).shape
    torch.Size([2, 8, 32, 64])
    """
    checks.floating("hidden", hidden)
    batch_statistics = batch_norm.check(
        ("hidden", hidden), hidden.shape[1], hidden.shape,
        weight, bias, running_mean, running_var, training, momentum, eps, activation_slope,
    )  # fmt: skip
    stride, padding, dilation = (
        checks.pair(name, value, least)
        for name, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
    )
    _check_convolution(hidden, conv_weight, conv_bias, padding, dilation, groups)
    dtype = _convolution_type(hidden)
    conv_weight = conv_weight.to(dtype)
    conv_bias = None if conv_bias is None else conv_bias.to(dtype)
    known_mean, known_var = (None, None) if batch_statistics else (running_mean, running_var)
    op = reference.bn_relu_conv2d if backends.choose(hidden.device.type) == "reference" else _op
    convolution = conv_weight, conv_bias, stride, padding, dilation, groups
    out, mean, variance = op(
        hidden, weight, bias, known_mean, known_var, *convolution, eps, activation_slope, abs_weight
    )
    if training and running_mean is not None and running_var is not None:
        batch_norm.update(running_mean, running_var, mean, variance, batch_norm.count(hidden), momentum)
    return out


def _check_convolution(
    hidden: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    checks.floating("conv_weight", conv_weight)
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(f"groups must be an integer, got {groups!r}")
    outputs, _, *kernel = conv_weight.shape
    if groups < 1 or hidden.shape[1] % groups or outputs % groups:
        raise ValueError(
            f"groups must divide the {hidden.shape[1]} channels of hidden and the {outputs} outputs of conv_weight, "
            f"got {groups}"
        )
    checks.shape("conv_weight", conv_weight, (outputs, hidden.shape[1] // groups, *kernel), "hidden", hidden)
    checks.same_device("conv_weight", conv_weight, "hidden", hidden)
    if conv_bias is not None:
        checks.floating("conv_bias", conv_bias, dim=1)
        checks.shape("conv_bias", conv_bias, (outputs,), "conv_weight", conv_weight)
        checks.same_device("conv_bias", conv_bias, "hidden", hidden)
    for i, axis in enumerate(("height", "width")):
        padded, reach = hidden.shape[2 + i] + 2 * padding[i], dilation[i] * (kernel[i] - 1) + 1
        if padded < reach:
            raise ValueError(
                f"conv_weight must not reach beyond the padded {axis} of hidden, {padded}, got a kernel of {reach}"
            )


def _convolution_type(hidden: Tensor) -> torch.dtype:
    """The type F.conv2d computes in, given `hidden`."""
    device_type = hidden.device.type
    if device_type != "meta" and torch.is_autocast_enabled(device_type) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device_type)
    return hidden.dtype


def _forward(
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
    arithmetic = batch_norm.arithmetic(hidden)
    gamma, beta = _affine(hidden, weight, bias, eps, abs_weight)
    if running_mean is None or running_var is None:
        # A running statistic that the batch replaces altogether is that of the batch.
        mean, variance = (torch.zeros_like(beta) for _ in range(2))
        count = batch_norm.count(hidden)
        y = aten.native_batch_norm(_walkable(hidden), gamma, beta, mean, variance, count > 0, 1.0, eps)[0]
        variance *= (count - 1) / count if count else 0
    else:
        mean, variance = (t.to(arithmetic, copy=True) for t in (running_mean, running_var))
        y = _normalised(hidden, gamma, beta, mean, variance, eps)
    activated = _rectified(y, activation_slope).to(conv_weight.dtype)
    return _convolution(activated, conv_weight, conv_bias, stride, padding, dilation, groups), mean, variance


def _fake_forward(
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
    activated = layout.empty(hidden.shape, hidden).to(conv_weight.dtype)
    out = _convolution(activated, conv_weight, conv_bias, stride, padding, dilation, groups)
    mean, variance = (hidden.new_empty(hidden.shape[1], dtype=batch_norm.arithmetic(hidden)) for _ in range(2))
    return out, mean, variance


def _backward(
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
    expected = _fake_backward(
        grad, hidden, weight, bias, conv_weight, mean, variance, batch_statistics, stride, padding, dilation, groups,
        eps, activation_slope, abs_weight, needed,
    )  # fmt: skip
    if hidden.numel() == 0:
        return [t.zero_() for t in expected]
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
            grad_y, _walkable(hidden), gamma, mean, variance, mean, torch.rsqrt(variance + eps), batch_statistics, eps,
            of_norm,
        )  # fmt: skip
        if abs_weight and of_weight:
            grad_weight = grad_weight * weight.sign()
    computed = (grad_hidden, grad_weight, grad_bias, grad_conv_weight, grad_conv_bias)
    results = (t for t, wanted in zip(computed, needed) if wanted)
    return [_like(result, like) for result, like in zip(results, expected)]


def _fake_backward(
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
    grads = (
        layout.empty(hidden.shape, hidden),
        weight.new_empty(weight.shape),
        bias.new_empty(bias.shape),
        layout.empty(conv_weight.shape, conv_weight),
        conv_weight.new_empty(conv_weight.shape[0]),
    )
    return [t for t, wanted in zip(grads, needed) if wanted]


def _affine(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float, abs_weight: bool) -> tuple[Tensor, Tensor]:
    """gamma and beta in the type of the arithmetic."""
    gamma, beta = (t.to(batch_norm.arithmetic(hidden)) for t in (weight, bias))
    return gamma.abs() + eps if abs_weight else gamma, beta


def _normalised(hidden: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    return aten.native_batch_norm(_walkable(hidden), gamma, beta, mean, variance, False, 0.0, eps)[0]


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


def _walkable(hidden: Tensor) -> Tensor:
    """`hidden` in its memory format, so that what is computed of it has the same."""
    return hidden.contiguous(memory_format=layout.memory_format(hidden))


def _like(result: Tensor, like: Tensor) -> Tensor:
    """`result` in the type and with the strides of `like`."""
    if result.dtype == like.dtype and result.stride() == like.stride():
        return result
    return like.copy_(result)


_OPTIONS = "int[] stride, int[] padding, int[] dilation, int groups, float eps, float activation_slope, bool abs_weight"
_op = registration.define(
    "bn_relu_conv2d(Tensor hidden, Tensor weight, Tensor bias, Tensor? running_mean, Tensor? running_var, "
    f"Tensor conv_weight, Tensor? conv_bias, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    _forward,
    _fake_forward,
)
_backward_op = registration.define(
    "bn_relu_conv2d_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor bias, Tensor conv_weight, "
    f"Tensor mean, Tensor variance, bool batch_statistics, {_OPTIONS}, bool[] needed) -> Tensor[]",
    _backward,
    _fake_backward,
)


class BnReluConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, below: Callable[..., Any], *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        hidden, weight, bias, running_mean, _, conv_weight, _, *ctx.options = inputs
        ctx.batch_statistics = running_mean is None
        out, mean, variance = below(*inputs)
        ctx.save_for_backward(hidden, weight, bias, conv_weight, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)  # for what has no gradient no zeros are made
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        _, hidden, weight, bias, _, _, conv_weight, conv_bias, *_ = ctx.needs_input_grad
        needed = [hidden, weight, bias, conv_weight, conv_bias]
        grads = iter(_backward_op(grad, *ctx.saved_tensors, ctx.batch_statistics, *ctx.options, needed))
        of_hidden, of_weight, of_bias, *of_convolution = (next(grads) if wanted else None for wanted in needed)
        return None, of_hidden, of_weight, of_bias, None, None, *of_convolution, *7 * [None]


registration.differentiate(_op, BnReluConv2d)
registration.differentiable_once(_backward_op, "bn_relu_conv2d")
