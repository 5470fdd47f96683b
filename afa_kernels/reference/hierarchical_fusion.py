"""p = a pred + (1 - a) p from the finest scale to the coarsest, in the order of either codebase."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from afa_kernels.reference._resize import resized


def hierarchical_fusion(
    predictions: Sequence[Tensor],
    attentions: Sequence[Tensor],
    scales: Sequence[float],
    variant: str,
    size: tuple[int, int],
    dtype: torch.dtype | None = None,
) -> Tensor:
    promoted = predictions[0].dtype
    for prediction in predictions[1:]:
        promoted = torch.promote_types(promoted, prediction.dtype)
    arithmetic = torch.float64 if promoted == torch.float64 else torch.float32
    predictions = [p.to(arithmetic) for p in predictions]
    attentions = [a.to(arithmetic) for a in attentions]
    fused = resized(predictions[-1], size) if variant == "afa" else predictions[-1]
    for k in reversed(range(len(predictions) - 1)):
        prediction, attention = predictions[k], attentions[k]
        if variant == "afa":
            attention = resized(attention, size)
            fused = attention * resized(prediction, size) + (1 - attention) * fused
        elif scales[k] >= 1:
            behind = resized(fused, (prediction.shape[2], prediction.shape[3]))
            fused = attention * prediction + (1 - attention) * behind
        else:
            at = fused.shape[2], fused.shape[3]
            fused = resized(attention * prediction, at) + (1 - resized(attention, at)) * fused
    out = resized(fused, size).to(dtype or promoted)
    return out.clone() if len(predictions) == 1 else out  # which may be the prediction itself
