"""What the operations that give labels share: the check of their element type."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.uint8, torch.int32, torch.int64)


def check(name: str, scores: Tensor, dtype: torch.dtype) -> None:
    """Raise where labels of `dtype` do not hold every channel of the `scores`, or there is none."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    channels, most = scores.shape[1], torch.iinfo(dtype).max + 1
    if channels < 1 or channels - 1 > most - 1:  # in torch.jit.trace a tensor of 64 bits
        raise ValueError(f"{name} must have 1 to {most} channels for labels of {dtype}, got {channels}")
