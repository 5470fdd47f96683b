"""New tensors with a band of NaN on both sides, to see a write that misses its tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

BAND = 4096  # elements on each side


class GuardBands(TorchFunctionMode):
    """While active, torch.empty and Tensor.new_empty give the inside of a larger buffer; `check` looks at the bands."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return self.around(result) if func in (torch.empty, Tensor.new_empty) else result

    def around(self, x: Tensor) -> Tensor:
        """A copy of `x`, with its strides and all of its memory, between two bands."""
        memory = x.as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0)
        band = torch.full((BAND,), torch.nan, dtype=x.dtype)
        buffer = torch.cat([band, memory, band])
        self.buffers.append(buffer)
        return buffer.as_strided(x.shape, x.stride(), BAND + x.storage_offset())

    def check(self) -> None:
        for buffer in self.buffers:
            assert buffer[:BAND].isnan().all(), "written before the start of a tensor"
            assert buffer[-BAND:].isnan().all(), "written past the end of a tensor"
