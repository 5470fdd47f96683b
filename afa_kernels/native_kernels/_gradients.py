"""Gradients of parameters, which the compiled kernels make as rows in the type of the arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def rows_of(grads: Sequence[Tensor], arithmetic: torch.dtype) -> Iterator[list[Tensor]]:
    """Gradients to be written in place of these: themselves if they are such rows, else others that are copied back."""
    rows = [g if g.dtype == arithmetic and g.is_contiguous() else g.new_empty(g.shape, dtype=arithmetic) for g in grads]
    yield rows
    for g, row in zip(grads, rows):
        if row is not g:
            g.copy_(row)
