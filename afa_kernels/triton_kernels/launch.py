"""What every launcher needs: the tensor's device as the current one, and 64-bit strides."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def on_device_of(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Triton launches on the current device; make that the tensor's."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
