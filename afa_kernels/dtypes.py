"""Element types: the one of the arithmetic, the one of a result."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def arithmetic(x: Tensor) -> torch.dtype:
    """The type a kernel computes in: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def promoted(tensors: Sequence[Tensor]) -> torch.dtype:
    """The type that holds the values of all `tensors`."""
    dtype = tensors[0].dtype
    for t in tensors[1:]:
        if t.dtype != dtype:  # asking PyTorch takes a microsecond
            dtype = torch.promote_types(dtype, t.dtype)
    return dtype


def result_type(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """`dtype`, or under autocast at least float32."""
    return torch.promote_types(dtype, torch.float32) if autocast(device_type) else dtype


def autocast(device_type: str) -> bool:
    return device_type != "meta" and torch.is_autocast_enabled(device_type)  # autocast knows no meta device
