"""channel_attention: both poolings of a feature map through one small network, to a logit for every output channel."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from afa_kernels import backends, checks, dtypes, layout
from afa_kernels.ops import _batch_norm as batch_norm
from afa_kernels.ops import _registration as registration
from afa_kernels.ops.global_avg_max_pool import global_avg_max_pool
from afa_kernels.ops.upsampled_pool import upsampled_pool
from afa_kernels.reference import channel_attention as reference


@registration.public
def channel_attention(
    x: Tensor,
    conv1_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    conv2_weight: Tensor,
    training: bool | None = None,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation_slope: float = 0.0,
    abs_weight: bool = False,
    upsampling: Tensor | None = None,
) -> Tensor:
    """Pool a feature map twice, and send both through one network of two layers.

    With W1 = `conv1_weight`, W2 = `conv2_weight`, and avg and max those of `global_avg_max_pool`:

        logits = W2 act(BN(W1 max)) + W2 act(BN(W1 avg))

    where act(y) = (y if y > 0 else activation_slope * y). In training, and where no running statistics are given, each
    branch is normalised by its own statistics over the batch, and the running statistics move twice, first by those of
    the maximum; on a GPU that part is two kernels, elsewhere it is made of ATen's. In evaluation mode all that follows
    the pooling is one kernel.

    Args:
        x: (N, C_in, H, W), a feature map with at least one pixel.
        conv1_weight: (M, C_in, 1, 1).
        weight, bias: (M,), of the batch norm.
        running_mean, running_var: (M,), both or neither.
        conv2_weight: (C_out, M, 1, 1).
        training: whether to normalise by the statistics of the batch. It has to be said where there are running
            statistics; without them it is so.
        momentum, eps, activation_slope, abs_weight: as in `bn_relu_project`.
        upsampling: (C_in, 1, 2 f, 2 f), the weight of a transposed convolution that upsamples `x` first, which is
            stored nowhere: the poolings are those of `upsampled_pool`.

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
    checks.like("conv1_weight", conv1_weight, (hidden, x.shape[1], 1, 1), "x", x)
    batch_statistics, momentum, eps, activation_slope = batch_norm.check(
        ("conv1_weight", conv1_weight), hidden, (x.shape[0], hidden, 1, 1),
        weight, bias, running_mean, running_var, training, momentum, eps, activation_slope,
    )  # fmt: skip
    checks.floating("conv2_weight", conv2_weight)
    checks.shape("conv2_weight", conv2_weight, (conv2_weight.shape[0], hidden, 1, 1), "conv1_weight", conv1_weight)
    checks.same_device("conv2_weight", conv2_weight, "x", x)
    avg, max = global_avg_max_pool(x) if upsampling is None else upsampled_pool(x, upsampling)
    backend = backends.choose("channel_attention", x.device.type)
    options = eps, activation_slope, bool(abs_weight)
    if backend == "reference":
        known = (None, None) if batch_statistics else (running_mean, running_var)
        given = avg, max, conv1_weight, weight, bias, *known, conv2_weight, *options
        logits, of_branches = reference.channel_attention(*given)
        means, variances = zip(*of_branches)
    elif batch_statistics:
        logits, means, variances = _training_op(avg, max, conv1_weight, weight, bias, conv2_weight, *options, backend)
    else:
        parameters = conv1_weight, weight, bias, running_mean, running_var, conv2_weight
        return _op(avg, max, *parameters, *options, backend)
    if training and running_mean is not None and running_var is not None:
        batch_norm.update(running_mean, running_var, means, variances, x.shape[0], momentum, backend)
    return logits


def _allocate(avg: Tensor, max: Tensor, *rest: Any) -> Tensor:
    *_, conv2_weight, _, _, _ = rest
    return avg.new_empty((avg.shape[0], conv2_weight.shape[0], 1, 1))


def _prepare(avg: Tensor, max: Tensor, *rest: Any) -> tuple[Any, ...]:
    *parameters, eps, activation_slope, abs_weight = rest
    rows = (p.to(dtypes.arithmetic(avg)).contiguous() for p in parameters)
    return avg.contiguous(), max.contiguous(), *rows, eps, activation_slope, abs_weight


def _allocate_training(avg: Tensor, max: Tensor, conv1_weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance = (avg.new_empty((2, conv1_weight.shape[0]), dtype=dtypes.arithmetic(avg)) for _ in range(2))
    return _allocate(avg, max, *rest), mean, variance


def _allocate_backward(
    grad: Tensor, avg: Tensor, max: Tensor, conv1_weight: Tensor, weight: Tensor, bias: Tensor, *rest: Any
) -> list[Tensor]:
    _, _, conv2_weight, *_, needed = rest
    inputs = avg, max, conv1_weight, weight, bias, conv2_weight
    return [layout.empty_parameter(t) for t, wanted in zip(inputs, needed) if wanted]


_POOLED = "Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias"
_OPTIONS = "float eps, float activation_slope, bool abs_weight"
_OF = ("avg", "max", "conv1_weight", "weight", "bias", "conv2_weight")
_op = registration.define(
    f"channel_attention({_POOLED}, Tensor running_mean, Tensor running_var, Tensor conv2_weight, {_OPTIONS}) -> "
    "Tensor logits",
    _allocate,
    _prepare,
    of_first=False,
)
_training_op = registration.define_by_aten(
    f"channel_attention_training({_POOLED}, Tensor conv2_weight, {_OPTIONS}) -> "
    "(Tensor logits, Tensor mean, Tensor variance)",
    _allocate_training,
    "channel_attention.training_forward",
    parts="channel_attention",
)
_backward_op = registration.define_by_aten(
    f"channel_attention_backward(Tensor grad, {_POOLED}, Tensor mean, Tensor variance, Tensor conv2_weight, "
    f"bool batch_statistics, {_OPTIONS}, bool[] needed) -> Tensor[] grads",
    _allocate_backward,
    "channel_attention.backward",
    parts="channel_attention",
)
registration.differentiate(
    _op,
    _backward_op,
    of=_OF,
    keep=lambda avg, max, conv1, weight, bias, running_mean, running_var, *rest: {
        "mean": running_mean,
        "variance": running_var,
        "batch_statistics": False,
    },
)
registration.differentiate(_training_op, _backward_op, of=_OF, keep=lambda *args: {"batch_statistics": True})
