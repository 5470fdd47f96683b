"""What the operations with a batch norm share: its checks, and the update of the running statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from afa_kernels import backends, checks
from afa_kernels.ops import _registration as registration


def check(
    like: tuple[str, Tensor],
    channels: int,
    size: tuple[int, ...],
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool | None,
    momentum: float,
    eps: float,
    activation_slope: float,
) -> tuple[bool, float, float, float]:
    """Raise where an argument is wrong. Returns whether the statistics are those of the batch, and the three numbers.

    `like` is the argument that determines `channels`, and `size` the shape of what is normalised.
    """
    per_channel = {"weight": weight, "bias": bias}
    if running_mean is not None:
        per_channel["running_mean"] = running_mean
    if running_var is not None:
        per_channel["running_var"] = running_var
    for name, value in per_channel.items():
        checks.like(name, value, (channels,), *like)
    if (running_mean is None) != (running_var is None):
        given, missing = ("running_mean", "running_var") if running_var is None else ("running_var", "running_mean")
        raise ValueError(f"{missing} must be a Tensor like {given}, or both None, got None")
    if training is None and running_mean is not None:
        raise TypeError("training must be True or False where there are running statistics, got None")
    momentum = checks.number("momentum", momentum, 0.0)
    eps = checks.number("eps", eps, 0.0)
    activation_slope = checks.number("activation_slope", activation_slope, 0.0)
    batch_statistics = bool(training) or running_mean is None
    if batch_statistics and math.prod((size[0], *size[2:])) == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {torch.Size(size)}; use "
            "SyncBatchNorm, another norm_layer, or eval mode"
        )
    return batch_statistics, momentum, eps, activation_slope


def update(
    running_mean: Tensor,
    running_var: Tensor,
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    count: int,
    momentum: float,
    backend: str | None,
) -> None:
    """Move the running statistics as F.batch_norm does: towards the mean and the unbiased variance of each batch.

    In a program of torch.compile's by operators that it knows, which it fuses with others.
    """
    if count == 0:
        return
    device = running_mean.device.type
    with torch.no_grad():
        if registration.values_are_there(running_mean) and backends.on_triton(_MOVE, device, backend):
            return _move_op(running_mean, running_var, [*means], [*variances], count, momentum, backend)
        for mean, variance in zip(means, variances):
            unbiased = variance * (count / (count - 1))
            for running, value in ((running_mean, mean), (running_var, unbiased)):
                running.lerp_(value.to(running.dtype), momentum)


def count(hidden: Tensor) -> int:
    """The number of values of a channel."""
    return math.prod((hidden.shape[0], *hidden.shape[2:]))


_MOVE = "move_running_statistics"
_move_op = registration.define(
    f"{_MOVE}(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor[] means, Tensor[] variances, int count, "
    "float momentum) -> ()",
    lambda *given: None,
    lambda *given: given,
)
