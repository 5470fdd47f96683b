"""Feature maps at the size of another, in programs for every size too."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from afa_kernels import checks
from afa_kernels.reference._resize import resized


def size_of(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def resized_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Of a tensor `resized`, of torch.fx's Proxy, whose size nobody knows, always an interpolation."""
    if isinstance(x, Tensor):
        with checks.without_tracer_warnings():
            return resized(x, size)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
