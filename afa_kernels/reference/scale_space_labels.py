"""The argmax over the channels of scale_space_render, and its score or its probability."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from afa_kernels.reference.scale_space_render import scale_space_render


def scale_space_labels(
    predictions: Sequence[Tensor],
    logits: Tensor,
    size: tuple[int, int],
    phi: str,
    background: str,
    resize: str,
    value: str | None,
    dtype: torch.dtype,
) -> Tensor | tuple[Tensor, Tensor]:
    promoted = torch.float64 if any(p.dtype == torch.float64 for p in predictions) else torch.float32
    rendered = scale_space_render(predictions, logits, size, phi, background, resize, promoted)
    labels = rendered.argmax(1)
    if value is None:
        return labels.to(dtype)
    scores = rendered if value == "score" else rendered.softmax(1)
    return labels.to(dtype), scores.gather(1, labels[:, None])[:, 0]
