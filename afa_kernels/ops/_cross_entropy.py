"""What the cross-entropies share: the check of targets and class weights, and the reduction of the losses.

With the scores r_c of a pixel, its target t, the class weights u_c and the label smoothing s, of C classes:

    loss = (1 - s) u_t (lse - r_t) + sum_c s u_c / C (lse - r_c)        lse = log(sum_c exp(r_c))
"""

from __future__ import annotations

import torch
from torch import Tensor

from afa_kernels import checks, dtypes, plans
from afa_kernels.ops import _registration as registration

REDUCTION = ("mean", "sum", "none")
TARGET_DTYPES = (torch.uint8, torch.int32, torch.int64)


def check_target(target: Tensor) -> tuple[int, int]:
    """Return the height and the width of the target."""
    checks.integral("target", target, TARGET_DTYPES, dim=3)
    if target.shape[1] == 0 or target.shape[2] == 0:
        raise ValueError(f"target must have at least one pixel, got shape {tuple(target.shape)}")
    return target.shape[1], target.shape[2]


def check_options(
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    scores_name: str,
    scores: Tensor,
) -> tuple[int, float]:
    """Raise where an argument does not fit the `scores`, (N, C, h, w). Returns the two numbers as Python's own."""
    channels = scores.shape[1]
    if channels < 1:
        raise ValueError(f"{scores_name.split('[')[0]} must have at least one channel, got shape {tuple(scores.shape)}")
    checks.shape("target", target, (scores.shape[0], *target.shape[1:]), scores_name, scores)
    checks.same_device("target", target, scores_name, scores)
    if weight is not None:
        checks.floating("weight", weight, dim=1)
        checks.like("weight", weight, (channels,), scores_name, scores)
        if weight.requires_grad:
            raise ValueError("weight must not require a gradient, which it does not get")
    checks.one_of("reduction", reduction, REDUCTION)
    smoothing = checks.number("label_smoothing", label_smoothing, 0)
    if smoothing > 1:
        raise ValueError(f"label_smoothing must be at most 1, got {label_smoothing!r}")
    return checks.integer("ignore_index", ignore_index), smoothing


def check_classes(target: Tensor, channels: int, ignore_index: int) -> None:
    """Raise for a target that is no class, where its values can be read.

    Not on a GPU, which would have to wait for the answer, nor of fake tensors or inside torch.compile and torch.func.
    """
    if target.device.type != "cpu" or target.numel() == 0 or not registration.values_are_there(target):
        return
    plans.whole(_check_values, target, channels, ignore_index)


def _check_values(target: Tensor, channels: int, ignore_index: int) -> None:
    least, most = target.aminmax()  # in one pass over the target; where none is ignored, that is all
    if least.item() >= 0 and most.item() < channels:
        return
    labels = target.long()
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= channels))
    if bool(wrong.any()):
        raise ValueError(
            f"target must hold classes from 0 to {channels - 1} or ignore_index {ignore_index}, "
            f"got {labels[wrong][0].item()}"
        )


def rows(weight: Tensor | None, label_smoothing: float, scores: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return what a class weighs in the loss, for a kernel, in the arithmetic type: None for 1 and for 0.

    As the target (1 - s) u_c, (C,), and in any case s u_c / C, (C + 1,), whose last is the sum of the others.
    """
    if weight is not None:
        weight = weight.to(dtypes.arithmetic(scores))
    if label_smoothing == 0:
        return weight, None
    if weight is None:
        weight = scores.new_ones(scores.shape[1], dtype=dtypes.arithmetic(scores))
    in_any_case = weight * (label_smoothing / scores.shape[1])
    return weight * (1 - label_smoothing), torch.cat([in_any_case, in_any_case.sum(0, keepdim=True)])


def contiguous(*rows: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if row is None else row.contiguous() for row in rows)


def reduce(losses: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str) -> Tensor:
    """The losses, their sum, or their sum over that of the weights of the targets."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    counted = target.long() != ignore_index
    if weight is None:
        return losses.sum() / counted.count_nonzero()
    classes = torch.where(counted, target, 0).long().clamp(0, weight.shape[0] - 1)  # the loss of no class is NaN
    weights = weight.to(losses.dtype)[classes]
    return losses.sum() / torch.where(counted, weights, 0).sum()
