"""The cross-entropy of logits resized to their target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels.reference._resize import resized as resize


def resized_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    arithmetic = torch.promote_types(logits.dtype, torch.float32)
    size = target.shape[1], target.shape[2]
    resized = resize(logits.to(arithmetic), size)
    weight = None if weight is None else weight.to(arithmetic)
    return F.cross_entropy(
        resized,
        target.long(),
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
