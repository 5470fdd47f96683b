"""out = sum_k w_k pred_k, all resized bilinearly to the output: the weights, or the opacities they are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from afa_kernels.reference._resize import resized
from afa_kernels.reference.scale_space_weights import last_of, optical_depth, scale_space_weights


def scale_space_render(
    predictions: Sequence[Tensor],
    logits: Tensor,
    size: tuple[int, int],
    phi: str = "abs",
    background: str = "none",
    resize: str = "weights",
    dtype: torch.dtype | None = None,
) -> Tensor:
    promoted = predictions[0].dtype
    for prediction in predictions[1:]:
        promoted = torch.promote_types(promoted, prediction.dtype)
    arithmetic = torch.float64 if promoted == torch.float64 else torch.float32
    if resize == "weights":
        weights = resized(scale_space_weights(logits.to(arithmetic), phi, background)[0], size)
    else:
        opacities = resized(-torch.expm1(-optical_depth(logits.to(arithmetic), phi)), size)
        if background == "last":
            opacities = opacities.masked_fill(last_of(logits), 1)
        weights = _composite(opacities)
    rendered = weights[:, 0:1] * resized(predictions[0].to(arithmetic), size)
    for k in range(1, len(predictions)):
        rendered = rendered + weights[:, k : k + 1] * resized(predictions[k].to(arithmetic), size)
    return rendered.to(dtype or promoted)


def _composite(opacities: Tensor) -> Tensor:
    """w_k = T alpha_k and T *= 1 - alpha_k, from the front to the back."""
    transmittance = torch.ones_like(opacities[:, :1])
    weights = []
    for alpha in opacities.split(1, dim=1):
        weights.append(transmittance * alpha)
        transmittance = transmittance * (1 - alpha)
    return torch.cat(weights, dim=1)
