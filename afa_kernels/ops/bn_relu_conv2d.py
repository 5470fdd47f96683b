"""bn_relu_conv2d: batch norm, ReLU and a convolution whose input is computed again for backward instead of kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, dtypes, layout
from afa_kernels.ops import _batch_norm as batch_norm
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import bn_relu_conv2d as reference


@registration.public
def bn_relu_conv2d(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    conv_weight: Tensor,
    training: bool | None = None,
    conv_bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation_slope: float = 0.0,
    abs_weight: bool = False,
) -> Tensor:
    """Normalise a feature map, rectify it and convolve it, keeping `hidden` alone for backward.

    With y and the activation of `bn_relu_project`:

        out = conv2d(y if y > 0 else activation_slope * y, conv_weight, conv_bias, stride, padding, dilation, groups)

    The convolution, forward and backward, is PyTorch's (cuDNN, oneDNN); the batch norm and the activation are the
    backend's, and PyTorch's where there is none. The convolution's input is computed a second time in backward: one map
    the size of `hidden` less is kept, for one read and one write of it.

    Args:
        hidden: (N, C, H, W), the output of a convolution.
        weight, bias: (C,), of the batch norm.
        running_mean, running_var: (C,), both or neither.
        conv_weight: (D, C / groups, kh, kw).
        training: whether to normalise by the statistics of the batch. It has to be said where there are running
            statistics; without them it is so.
        conv_bias: (D,), or None.
        stride, padding, dilation: of the convolution, for height and width; or one number for both.
        groups: of the convolution.
        momentum, eps, activation_slope, abs_weight: as in `bn_relu_project`.

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
    >>> afa_kernels.bn_relu_conv2d(hidden, weight, bias, mean, var, conv_weight, training=True, padding=1).shape
    torch.Size([2, 8, 32, 64])
    """
    checks.floating("hidden", hidden)
    batch_statistics, momentum, eps, activation_slope = batch_norm.check(
        ("hidden", hidden), hidden.shape[1], hidden.shape,
        weight, bias, running_mean, running_var, training, momentum, eps, activation_slope,
    )  # fmt: skip
    stride, padding, dilation = (
        checks.pair(name, value, least)
        for name, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
    )
    groups = checks.integer("groups", groups)
    _check_convolution(hidden, conv_weight, conv_bias, padding, dilation, groups)
    dtype = _convolution_type(hidden)
    conv_weight = conv_weight.to(dtype)
    conv_bias = None if conv_bias is None else conv_bias.to(dtype)
    known = (None, None) if batch_statistics else (running_mean, running_var)
    options = stride, padding, dilation, groups, eps, activation_slope, bool(abs_weight)
    given = hidden, weight, bias, *known, conv_weight, conv_bias, *options
    backend = backends.choose("bn_relu_conv2d", hidden.device.type)
    if backend == "reference":
        out, mean, variance = reference.bn_relu_conv2d(*given)
    else:
        out, mean, variance = _op(*given, backend)
    if training and running_mean is not None and running_var is not None:
        count = batch_norm.count(hidden)
        batch_norm.update(running_mean, running_var, [mean], [variance], count, momentum, backend)
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
    outputs, _, *kernel = conv_weight.shape
    if groups < 1 or hidden.shape[1] % groups or outputs % groups:
        raise ValueError(
            f"groups must divide the {hidden.shape[1]} channels of hidden and the {outputs} outputs of conv_weight, "
            f"got {groups}"
        )
    checks.like("conv_weight", conv_weight, (outputs, hidden.shape[1] // groups, *kernel), "hidden", hidden)
    if conv_bias is not None:
        checks.like("conv_bias", conv_bias, (outputs,), "conv_weight", conv_weight)
    for i, axis in enumerate(("height", "width")):
        padded, reach = hidden.shape[2 + i] + 2 * padding[i], dilation[i] * (kernel[i] - 1) + 1
        if padded < reach:
            raise ValueError(
                f"conv_weight must not reach beyond the padded {axis} of hidden, {padded}, got a kernel of {reach}"
            )


def _convolution_type(hidden: Tensor) -> torch.dtype:
    """The type F.conv2d computes in, given `hidden`."""
    device_type = hidden.device.type
    if dtypes.autocast(device_type) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device_type)
    return hidden.dtype


def _allocate(
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
    *norm: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    activated = layout.empty(hidden.shape, hidden, conv_weight.dtype)
    convolution = stride, padding, dilation, False, [0, 0], groups
    out = torch.ops.aten.convolution(activated, conv_weight, conv_bias, *convolution)
    mean, variance = (hidden.new_empty(hidden.shape[1], dtype=dtypes.arithmetic(hidden)) for _ in range(2))
    return out, mean, variance


def _allocate_backward(
    grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, conv_weight: Tensor, *rest: Any
) -> list[Tensor]:
    grads = (
        lambda: layout.empty(hidden.shape, hidden),
        lambda: layout.empty_parameter(weight),
        lambda: layout.empty_parameter(bias),
        lambda: layout.empty_parameter(conv_weight),
        lambda: conv_weight.new_empty(conv_weight.shape[0]),
    )
    return [empty() for empty, wanted in zip(grads, rest[-1]) if wanted]


_OPTIONS = "int[] stride, int[] padding, int[] dilation, int groups, float eps, float activation_slope, bool abs_weight"
_op = registration.define_by_aten(
    "bn_relu_conv2d(Tensor hidden, Tensor weight, Tensor bias, Tensor? running_mean, Tensor? running_var, "
    f"Tensor conv_weight, Tensor? conv_bias, {_OPTIONS}) -> (Tensor out, Tensor mean, Tensor variance)",
    _allocate,
    "bn_relu_conv2d.forward",
    reference.bn_relu_conv2d,
    parts="bn_relu_conv2d",
)
_backward_op = registration.define_by_aten(
    "bn_relu_conv2d_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor bias, Tensor conv_weight, "
    f"Tensor mean, Tensor variance, bool batch_statistics, {_OPTIONS}, bool[] needed) -> Tensor[] grads",
    _allocate_backward,
    "bn_relu_conv2d.backward",
    parts="bn_relu_conv2d",
)
registration.differentiate(
    _op,
    _backward_op,
    of=("hidden", "weight", "bias", "conv_weight", "conv_bias"),
    keep=lambda hidden, weight, bias, mean, var, *rest: {"batch_statistics": mean is None or var is None},
)
