"""bn_relu_project: batch norm, ReLU and the projection to one channel, the tail of spatial attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, dtypes, layout
from afa_kernels.ops import _batch_norm as batch_norm
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import bn_relu_project as reference


@registration.public
def bn_relu_project(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    project_weight: Tensor,
    training: bool | None = None,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation_slope: float = 0.0,
    abs_weight: bool = False,
) -> Tensor:
    """Normalise a feature map, rectify it and project it to one channel, storing none of the maps between.

    With gamma = `weight` and beta = `bias`, per channel:

        y = gamma (hidden - mean) / sqrt(variance + eps) + beta
        logits = sum over C of project_weight * (y if y > 0 else activation_slope * y)

    Mean and variance are the batch's in training and where no running statistics are given, else those. In training
    the running statistics move in place, as F.batch_norm moves them.

    Args:
        hidden: (N, C, H, W), the output of a convolution.
        weight, bias: (C,), of the batch norm.
        running_mean, running_var: (C,), both or neither.
        project_weight: (1, C, 1, 1), of the 1x1 convolution.
        training: whether to normalise by the statistics of the batch. It has to be said where there are running
            statistics; without them it is so.
        momentum: the share of the batch in the new running statistics.
        eps: added to the variance.
        activation_slope: 0 is ReLU; 0.01 is the leaky ReLU of InPlaceABN.
        abs_weight: gamma = |weight| + eps, as in InPlaceABN.

    Returns:
        (N, 1, H, W), contiguous, in the type of `hidden`; the other arguments may have other types. Arithmetic is
        float64 if that type is float64, else float32. `hidden`, `weight`, `bias` and `project_weight` have a gradient;
        backward saves nothing but these and two statistics per channel, and reads `hidden` twice (in evaluation mode
        once for `hidden`'s gradient alone).

    Raises:
        TypeError: an argument is no dense floating tensor, or no number.
        ValueError: a shape or a device does not match `hidden`'s, a number is negative, only one of the running
            statistics is given, or a channel has one value to take the statistics of.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, spatial attention.

    >>> import torch, afa_kernels
    >>> hidden, project_weight = torch.randn(2, 16, 32, 64), torch.randn(1, 16, 1, 1)
    >>> weight, bias, mean, var = torch.ones(16), torch.zeros(16), torch.zeros(16), torch.ones(16)
    >>> afa_kernels.bn_relu_project(hidden, weight, bias, mean, var, project_weight, training=True).shape
    torch.Size([2, 1, 32, 64])
    """
    checks.floating("hidden", hidden)
    batch_statistics, momentum, eps, activation_slope = batch_norm.check(
        ("hidden", hidden), hidden.shape[1], hidden.shape,
        weight, bias, running_mean, running_var, training, momentum, eps, activation_slope,
    )  # fmt: skip
    checks.like("project_weight", project_weight, (1, hidden.shape[1], 1, 1), "hidden", hidden)
    known = (None, None) if batch_statistics else (running_mean, running_var)
    given = hidden, weight, bias, *known, project_weight, eps, activation_slope, bool(abs_weight)
    backend = backends.choose("bn_relu_project", hidden.device.type)
    if backend == "reference":
        logits, mean, variance = reference.bn_relu_project(*given)
    else:
        logits, mean, variance = _op(*given, backend)
    if training and running_mean is not None and running_var is not None:
        count = batch_norm.count(hidden)
        batch_norm.update(running_mean, running_var, [mean], [variance], count, momentum, backend)
    return logits


def _allocate(hidden: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, height, width = hidden.shape
    mean, variance = (hidden.new_empty(channels, dtype=dtypes.arithmetic(hidden)) for _ in range(2))
    return hidden.new_empty((batch, 1, height, width)), mean, variance


def _prepare(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    project_weight: Tensor,
    *options: Any,
) -> tuple[Any, ...]:
    rows = (_row(hidden, p) for p in (weight, bias, running_mean, running_var, project_weight))
    return layout.as_map(hidden, layout.memory_format(hidden)), *rows, *options


def _allocate_backward(
    grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, project_weight: Tensor, *rest: Any
) -> list[Tensor]:
    dtype = dtypes.arithmetic(hidden)
    of_hidden, *of_parameters = rest[-1]
    grads = [layout.empty(hidden.shape, hidden)] if of_hidden else []
    parameters = zip((weight, bias, project_weight), of_parameters)
    return grads + [layout.empty_parameter(p, dtype) for p, wanted in parameters if wanted]


def _prepare_backward(
    grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, project_weight: Tensor, *rest: Any
) -> tuple[Any, ...]:
    rows = (_row(hidden, p) for p in (weight, bias, project_weight))
    mean, variance, *options = rest
    maps = layout.as_map(grad, torch.contiguous_format), layout.as_map(hidden, layout.memory_format(hidden))
    return *maps, *rows, mean.contiguous(), variance.contiguous(), *options


def _row(hidden: Tensor, parameter: Tensor | None) -> Tensor | None:
    """A parameter as a row in the type of the arithmetic."""
    return None if parameter is None else parameter.reshape(-1).to(dtypes.arithmetic(hidden)).contiguous()


_OPTIONS = "float eps, float activation_slope, bool abs_weight"
_op = registration.define(
    "bn_relu_project(Tensor hidden, Tensor weight, Tensor bias, Tensor? running_mean, Tensor? running_var, "
    f"Tensor project_weight, {_OPTIONS}) -> (Tensor logits, Tensor mean, Tensor variance)",
    _allocate,
    _prepare,
)
# The gradients of the parameters are in the type of the arithmetic; autograd gives them the parameters' own.
_backward_op = registration.define(
    "bn_relu_project_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor bias, Tensor project_weight, "
    f"Tensor mean, Tensor variance, bool batch_statistics, {_OPTIONS}, bool[] needed) -> Tensor[] grads",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(
    _op,
    _backward_op,
    of=("hidden", "weight", "bias", "project_weight"),
    keep=lambda hidden, weight, bias, mean, var, *rest: {"batch_statistics": mean is None or var is None},
)
