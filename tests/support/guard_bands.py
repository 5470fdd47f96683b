"""New tensors with a band of NaN (integers: their largest) on both sides, to see a write that misses its tensor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

BAND = 4096  # elements on each side


class GuardBands(contextlib.ExitStack):
    """While active, torch's `empty` functions give the inside of a larger buffer; `check` looks at the bands."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[Tensor] = []

    def __enter__(self) -> GuardBands:
        functions = [(torch, name) for name in ("empty", "empty_like", "empty_strided")]
        for owner, name in (*functions, (Tensor, "new_empty")):
            self.enter_context(mock.patch.object(owner, name, self._guarded(getattr(owner, name))))
        return self

    def _guarded(self, allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def guarded(*args: Any, **kwargs: Any) -> Tensor:
            return self.around(allocate(*args, **kwargs))

        return guarded

    def around(self, x: Tensor) -> Tensor:
        """A copy of `x`, with its strides and all of its memory, between two bands."""
        memory = x.as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0)
        band = torch.full((BAND,), filling(x.dtype), dtype=x.dtype, device=x.device)
        buffer = torch.cat([band, memory, band])
        self.buffers.append(buffer)
        return buffer.as_strided(x.shape, x.stride(), BAND + x.storage_offset())

    def check(self) -> None:
        for buffer in self.buffers:
            for band, place in ((buffer[:BAND], "before the start"), (buffer[-BAND:], "past the end")):
                intact = band.isnan() if band.is_floating_point() else band == filling(band.dtype)
                assert intact.all(), f"written {place} of a tensor"


def filling(dtype: torch.dtype) -> float | int:
    return torch.nan if dtype.is_floating_point else torch.iinfo(dtype).max
