"""The argmax over the channels of resized logits."""

from __future__ import annotations

import torch
from torch import Tensor

from afa_kernels.reference._resize import resized as resize


def resized_labels(logits: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    arithmetic = torch.promote_types(logits.dtype, torch.float32)
    return resize(logits.to(arithmetic), size).argmax(1).to(dtype)
