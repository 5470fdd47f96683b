"""out = sum_k w_k pred_k, all resized bilinearly to the output: the weights, or the opacities they are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from afa_kernels.reference._resize import resized
from afa_kernels.reference.scale_space_weights import last_of, optical_depth, weights_of_scales


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
        low = weights_of_scales(logits.to(arithmetic), phi, background)[0]
        weights: Iterator[Tensor] = (resized(weight, size) for weight in low)  # when it is needed, not before
    else:
        opacities = resized(-torch.expm1(-optical_depth(logits.to(arithmetic), phi)), size)
        if background == "last":
            opacities = opacities.masked_fill(last_of(logits), 1)
        weights = _composited(opacities)
    rendered = next(weights) * resized(predictions[0].to(arithmetic), size)
    for weight, prediction in zip(weights, predictions[1:], strict=True):
        rendered = torch.addcmul(rendered, weight, resized(prediction.to(arithmetic), size))
    return rendered.to(dtype or promoted)


def _composited(opacities: Tensor) -> Iterator[Tensor]:
    """w_k = T alpha_k and T *= 1 - alpha_k, from the front to the back."""
    transmittance = torch.ones_like(opacities[:, :1])
    for alpha in opacities.split(1, dim=1):
        yield transmittance * alpha
        transmittance = transmittance * (1 - alpha)
