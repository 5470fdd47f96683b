"""The cross-entropy of scale_space_render against a target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels.reference.scale_space_render import scale_space_render


def scale_space_cross_entropy(
    predictions: Sequence[Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    phi: str = "abs",
    background: str = "none",
    resize: str = "weights",
) -> Tensor:
    arithmetic = torch.float64 if any(p.dtype == torch.float64 for p in predictions) else torch.float32
    size = target.shape[1], target.shape[2]
    rendered = scale_space_render(predictions, logits, size, phi, background, resize, arithmetic)
    weight = None if weight is None else weight.to(arithmetic)
    return F.cross_entropy(
        rendered,
        target.long(),
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
