"""channel_attention: both poolings of a feature map through one small network, to a logit for every output channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks
from afa_kernels.ops import _batch_norm as batch_norm
from afa_kernels.ops import _registration as registration
from afa_kernels.ops.global_avg_max_pool import global_avg_max_pool
from afa_kernels.reference import channel_attention as reference


def channel_attention(
    x: Tensor,
    conv1_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    conv2_weight: Tensor,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation_slope: float = 0.0,
    abs_weight: bool = False,
) -> Tensor:
    """Pool a feature map twice, and send both through one network of two layers.

    With W1 = `conv1_weight`, W2 = `conv2_weight`, and avg and max those of `global_avg_max_pool`:

        logits = W2 act(BN(W1 max)) + W2 act(BN(W1 avg))

    where act(y) = (y if y > 0 else activation_slope * y). In training, and where no running statistics are given, each
    branch is normalised by its own statistics over the batch, and the running statistics move twice, first by those of
    the maximum; that part is plain PyTorch. In evaluation mode all that follows the pooling is one kernel.

    Args:
        x: (N, C_in, H, W), a feature map with at least one pixel.
        conv1_weight: (M, C_in, 1, 1).
        weight, bias: (M,), of the batch norm.
        running_mean, running_var: (M,), both or neither.
        conv2_weight: (C_out, M, 1, 1).
        training: whether to normalise by the statistics of the batch.
        momentum, eps, activation_slope, abs_weight: as in `bn_relu_project`.

    Returns:
        (N, C_out, 1, 1), in the type of `x`; the other arguments may have other types. Arithmetic is float64 if that
        type is float64, else float32. `x` and the parameters have a gradient; of `x` only the two poolings and the
        place of each maximum are saved.

    Raises:
        TypeError: an argument is no dense floating tensor, or no number.
        ValueError: a shape or a device does not match, `x` has no pixel, a number is negative, only one of the running
            statistics is given, or one image alone has to give the statistics.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, channel attention.

    >>> import torch, afa_kernels
    >>> x, conv1_weight, conv2_weight = torch.randn(2, 32, 8, 8), torch.randn(2, 32, 1, 1), torch.randn(16, 2, 1, 1)
    >>> weight, bias, mean, var = torch.ones(2), torch.zeros(2), torch.zeros(2), torch.ones(2)
    >>> afa_kernels.channel_attention(x, conv1_weight, weight, bias, mean, var, conv2_weight, training=False).shape
    torch.Size([2, 16, 1, 1])
    """
    checks.floating("x", x)
    checks.floating("conv1_weight", conv1_weight)
    hidden = conv1_weight.shape[0]
    checks.shape("conv1_weight", conv1_weight, (hidden, x.shape[1], 1, 1), "x", x)
    checks.same_device("conv1_weight", conv1_weight, "x", x)
    batch_statistics = batch_norm.check(
        ("conv1_weight", conv1_weight), hidden, (x.shape[0], hidden, 1, 1),
        weight, bias, running_mean, running_var, training, momentum, eps, activation_slope,
    )  # fmt: skip
    checks.floating("conv2_weight", conv2_weight)
    checks.shape("conv2_weight", conv2_weight, (conv2_weight.shape[0], hidden, 1, 1), "conv1_weight", conv1_weight)
    checks.same_device("conv2_weight", conv2_weight, "x", x)
    avg, max = global_avg_max_pool(x)
    if batch_statistics or backends.choose(x.device.type) == "reference":
        known = (None, None) if batch_statistics else (running_mean, running_var)
        logits, statistics = reference.channel_attention(
            avg, max, conv1_weight, weight, bias, *known, conv2_weight, eps, activation_slope, abs_weight
        )
        if training and running_mean is not None and running_var is not None:
            for mean, variance in statistics:
                batch_norm.update(running_mean, running_var, mean, variance, x.shape[0], momentum)
        return logits
    parameters = conv1_weight, weight, bias, running_mean, running_var, conv2_weight
    return _op(avg, max, *parameters, eps, activation_slope, abs_weight)


def _forward(
    avg: Tensor,
    max: Tensor,
    conv1_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    conv2_weight: Tensor,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
) -> Tensor:
    given = conv1_weight, weight, bias, running_mean, running_var, conv2_weight
    logits = _fake_forward(avg, max, *given, eps, activation_slope, abs_weight)
    if logits.numel() > 0:
        parameters = [t.to(batch_norm.arithmetic(avg)).contiguous() for t in given]
        launch = backends.launcher("channel_attention_forward", avg.device.type)
        launch(avg.contiguous(), max.contiguous(), *parameters, eps, activation_slope, abs_weight, logits)
    return logits


def _fake_forward(
    avg: Tensor,
    max: Tensor,
    conv1_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    conv2_weight: Tensor,
    eps: float,
    activation_slope: float,
    abs_weight: bool,
) -> Tensor:
    return avg.new_empty((avg.shape[0], conv2_weight.shape[0], 1, 1))


_op = registration.define(
    "channel_attention(Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias, Tensor running_mean, "
    "Tensor running_var, Tensor conv2_weight, float eps, float activation_slope, bool abs_weight) -> Tensor",
    _forward,
    _fake_forward,
)


class ChannelAttention(torch.autograd.Function):
    """The hidden units are computed again for backward; on vectors this long that is plain PyTorch's work."""

    @staticmethod
    def forward(ctx: Any, below: Callable[..., Any], *inputs: Any) -> Tensor:
        *given, ctx.eps, ctx.activation_slope, ctx.abs_weight = inputs
        ctx.save_for_backward(*given)
        return below(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        arithmetic = batch_norm.arithmetic(saved[0])
        avg, max, conv1, weight, bias, mean, variance, conv2 = (t.to(arithmetic) for t in saved)
        conv1, conv2, grad = conv1.flatten(1), conv2.flatten(1), grad.to(arithmetic).flatten(1)
        gamma = weight.abs() + ctx.eps if ctx.abs_weight else weight
        deviation = torch.rsqrt(variance + ctx.eps)
        pooled = torch.cat((avg, max)).flatten(1)  # (2N, C): both branches at once, in half the kernels
        normalised = (reference.linear(pooled, conv1) - mean) * deviation
        y = normalised * gamma + bias
        of_avg, of_max = _rectify(y, y, ctx.activation_slope).chunk(2)
        grad_y = _rectify(y, reference.linear(grad, conv2.t()).repeat(2, 1), ctx.activation_slope)
        grad_linear = grad_y * (gamma * deviation)
        grad_gamma = (grad_y * normalised).sum(0)
        if ctx.abs_weight:
            grad_gamma = grad_gamma * weight.sign()
        grads = (
            *reference.linear(grad_linear, conv1.t()).chunk(2),
            reference.linear(grad_linear.t(), pooled.t()),
            grad_gamma,
            grad_y.sum(0),
            None,
            None,
            reference.linear(grad.t(), (of_avg + of_max).t()),
        )
        shaped = [None if g is None else g.view(t.shape).to(t.dtype) for g, t in zip(grads, saved)]
        return None, *shaped, None, None, None


def _rectify(y: Tensor, value: Tensor, slope: float) -> Tensor:
    """`value` where y > 0, else slope * value. ReLU lets NaN through and gives 0 for infinity."""
    return torch.where(y > 0, value, slope * value) if slope else value.masked_fill(y <= 0, 0)


registration.differentiate(_op, ChannelAttention)
