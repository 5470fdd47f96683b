"""New tensors with a band of NaN on both sides, to see a write that misses its tensor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

BAND = 4096  # elements on each side


class GuardBands(contextlib.ExitStack):
    """While active, torch.empty and Tensor.new_empty give the inside of a larger buffer; `check` looks at the bands."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[Tensor] = []

    def __enter__(self) -> GuardBands:
        for owner, name in ((torch, "empty"), (Tensor, "new_empty")):
            self.enter_context(mock.patch.object(owner, name, self._guarded(getattr(owner, name))))
        return self

    def _guarded(self, allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def guarded(*args: Any, **kwargs: Any) -> Tensor:
            return self.around(allocate(*args, **kwargs))

        return guarded

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
