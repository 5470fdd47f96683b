"""What every launcher needs: the tensor's device as the current one. And a way to see launches without making them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

_run = JITFunction.run


def on_device_of(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Triton launches on the current device; make that the tensor's."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def spread(grads: Sequence[Tensor], needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Return the gradients that are needed at their places, and None at the others."""
    given = iter(grads)
    return tuple(next(given) if wanted else None for wanted in needed)


@dataclass(frozen=True)
class Launch:
    """One launch as its launcher made it: `kernel[grid](*arguments, **keywords)`."""

    kernel: JITFunction
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def compile(self) -> None:
        """Compile for the current device what this launch needs, and run nothing."""
        _run(self.kernel, *self.arguments, grid=self.grid, warmup=True, **self.keywords)


@contextlib.contextmanager
def instead_of_launching(handle: Callable[[Launch], None]) -> Iterator[None]:
    """Inside, every launch of a Triton kernel goes to `handle`; nothing is compiled and nothing runs."""

    def run(kernel: JITFunction, *arguments: Any, grid: tuple[int, ...], warmup: bool, **keywords: Any) -> None:
        handle(Launch(kernel, grid, arguments, keywords))

    with mock.patch.object(JITFunction, "run", run):
        yield
