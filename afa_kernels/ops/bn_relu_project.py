"""bn_relu_project: batch norm, ReLU and the projection to one channel, the tail of spatial attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _batch_norm as batch_norm
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import bn_relu_project as reference


def bn_relu_project(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    project_weight: Tensor,
    training: bool,
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
        training: whether to normalise by the statistics of the batch.
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
    batch_statistics = batch_norm.check(
        ("hidden", hidden), hidden.shape[1], hidden.shape,
        weight, bias, running_mean, running_var, training, momentum, eps, activation_slope,
    )  # fmt: skip
    checks.floating("project_weight", project_weight)
    checks.shape("project_weight", project_weight, (1, hidden.shape[1], 1, 1), "hidden", hidden)
    checks.same_device("project_weight", project_weight, "hidden", hidden)
    known_mean, known_var = (None, None) if batch_statistics else (running_mean, running_var)
    op = reference.bn_relu_project if backends.choose(hidden.device.type) == "reference" else _op
    logits, mean, variance = op(
        hidden, weight, bias, known_mean, known_var, project_weight, eps, activation_slope, abs_weight
    )
    if training and running_mean is not None and running_var is not None:
        batch_norm.update(running_mean, running_var, mean, variance, batch_norm.count(hidden), momentum)
    return logits


def _forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    project_weight: Tensor,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _fake_forward(
        hidden, weight, bias, running_mean, running_var, project_weight, eps, activation_slope, abs_weight
    )
    logits, mean, variance = outputs
    if running_mean is not None and running_var is not None:
        mean.copy_(running_mean)
        variance.copy_(running_var)
    if hidden.numel() > 0:
        launch = backends.launcher("bn_relu_project_forward", hidden.device.type)
        parameters = _parameters(hidden, weight, bias, project_weight)
        options = running_mean is None, eps, activation_slope, abs_weight
        launch(layout.walkable(hidden, layout.memory_format(hidden)), *parameters, *options, mean, variance, logits)
        return outputs
    if running_mean is None:
        mean.zero_()
        variance.zero_()
    logits.zero_()
    return outputs


def _fake_forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    project_weight: Tensor,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, height, width = hidden.shape
    mean, variance = (hidden.new_empty(channels, dtype=batch_norm.arithmetic(hidden)) for _ in range(2))
    return hidden.new_empty((batch, 1, height, width)), mean, variance


def _backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    project_weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    needed: list[bool],
) -> list[Tensor]:
    statistics = mean, variance, batch_statistics
    options = eps, activation_slope, abs_weight
    grads = _fake_backward(grad, hidden, weight, bias, project_weight, *statistics, *options, needed)
    if hidden.numel() == 0:
        return [t.zero_() for t in grads]
    parameters = _parameters(hidden, weight, bias, project_weight)
    outputs = iter(grads)
    grad_hidden = next(outputs) if needed[0] else None
    of_parameters = [next(outputs) if wanted else None for wanted in needed[1:]]
    # In the type of the arithmetic, in place where that is the parameter's own.
    computed = [
        out if out is None else out.view(-1) if out.dtype == p.dtype else torch.empty_like(p)
        for out, p in zip(of_parameters, parameters)
    ]
    launch = backends.launcher("bn_relu_project_backward", hidden.device.type)
    launch(
        layout.walkable(grad, torch.contiguous_format),
        layout.walkable(hidden, layout.memory_format(hidden)),
        *parameters,
        *statistics,
        *options,
        grad_hidden,
        *computed,
    )
    for out, values in zip(of_parameters, computed):
        if out is not None and values is not None and out.dtype != values.dtype:
            out.copy_(values.view(out.shape))
    return grads


def _fake_backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    project_weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
    needed: list[bool],
) -> list[Tensor]:
    parameters = (weight, bias, project_weight)
    grads = (layout.empty(hidden.shape, hidden), *(p.new_empty(p.shape) for p in parameters))
    return [t for t, wanted in zip(grads, needed) if wanted]


def _parameters(hidden: Tensor, *parameters: Tensor) -> list[Tensor]:
    """The parameters as rows in the type of the arithmetic."""
    return [p.reshape(-1).to(batch_norm.arithmetic(hidden)).contiguous() for p in parameters]


_OPTIONS = "float eps, float activation_slope, bool abs_weight"
_op = registration.define(
    "bn_relu_project(Tensor hidden, Tensor weight, Tensor bias, Tensor? running_mean, Tensor? running_var, "
    f"Tensor project_weight, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    _forward,
    _fake_forward,
)
_backward_op = registration.define(
    "bn_relu_project_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor bias, Tensor project_weight, "
    f"Tensor mean, Tensor variance, bool batch_statistics, {_OPTIONS}, bool[] needed) -> Tensor[]",
    _backward,
    _fake_backward,
)


class BnReluProject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, below: Callable[..., Any], *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        hidden, weight, bias, running_mean, _, project_weight, *ctx.options = inputs
        ctx.batch_statistics = running_mean is None
        logits, mean, variance = below(*inputs)
        ctx.save_for_backward(hidden, weight, bias, project_weight, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)  # for what has no gradient no zeros are made
        return logits, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        _, hidden, weight, bias, _, _, project, *_ = ctx.needs_input_grad
        needed = [hidden, weight, bias, project]
        grads = iter(_backward_op(grad, *ctx.saved_tensors, ctx.batch_statistics, *ctx.options, needed))
        of_hidden, of_weight, of_bias, of_project = (next(grads) if wanted else None for wanted in needed)
        return None, of_hidden, of_weight, of_bias, None, None, of_project, None, None, None


registration.differentiate(_op, BnReluProject)
registration.differentiable_once(_backward_op, "bn_relu_project")
