"""The argmax over the channels of resized logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resized_labels(logits: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    arithmetic = torch.promote_types(logits.dtype, torch.float32)
    resized = F.interpolate(logits.to(arithmetic), size=size, mode="bilinear", align_corners=False)
    return resized.argmax(1).to(dtype)
