"""Feature maps at the size of another, in programs for every size too."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from afa_kernels.reference._resize import same_size


def size_of(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def resized_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`x` itself where it has that size, else bilinearly, align_corners=False, no antialias."""
    if isinstance(x, Tensor) and same_size(size_of(x), size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
