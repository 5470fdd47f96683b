"""resized_cross_entropy in Triton: the cross-entropy of _cross_entropy.py, of one prediction that nothing weighs."""

from __future__ import annotations

from torch import Tensor

from afa_kernels.triton_kernels import _cross_entropy
from afa_kernels.triton_kernels._launch import sized, split_batch


@sized(logits="ncxy", target="nhw", weight="c", losses="nhw")
@split_batch("weight", "smoothing")
def forward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    smoothing: Tensor | None,
    ignore_index: int,
    losses: Tensor,
    lse: Tensor,
) -> None:
    _cross_entropy.forward([logits], None, target, weight, smoothing, ignore_index, False, False, losses, lse)


@sized(grad="nhw", logits="ncxy", target="nhw", weight="c", lse="nhw")
@split_batch("weight", "smoothing")
def backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    smoothing: Tensor | None,
    lse: Tensor,
    ignore_index: int,
    grad_logits: Tensor,
) -> None:
    classes = target, weight, smoothing, lse, ignore_index
    _cross_entropy.backward(grad, [logits], None, *classes, False, False, [grad_logits], None)
