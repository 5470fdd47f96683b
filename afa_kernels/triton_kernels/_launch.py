"""How every launcher launches: on the device of its tensors, and seen by who asks to see."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import triton.language as tl
from torch import Tensor
from torch.utils._pytree import tree_map_only
from triton.runtime.jit import JITFunction


@dataclass(slots=True)
class Launch:
    """One launch as its launcher asked for it: `kernel[grid](*arguments, **keywords)`."""

    kernel: JITFunction[Any]
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def run(self) -> None:
        with on_device_of(self.arguments):
            self.kernel[self.grid](*self.arguments, **self.keywords)

    def compile(self) -> None:
        """Compile for the device what this launch needs and load it there, and run nothing."""
        with on_device_of(self.arguments):
            compiled = self.kernel.run(*self.arguments, grid=self.grid, warmup=True, **self.keywords)
            if compiled is not None:  # the interpreter compiles nothing
                compiled._init_handles()  # what the first launch does: the module is loaded, its launcher made


_handle: ContextVar[Callable[[Launch], None] | None] = ContextVar("_handle", default=None)


def launch(kernel: JITFunction[Any], grid: tuple[int, ...], *arguments: Any, **keywords: Any) -> None:
    """Launch `kernel` on the device of its first tensor, or let who has hooked launches have it."""
    made = Launch(kernel, grid, arguments, {**keywords, "enable_fp_fusion": True})
    (_handle.get() or Launch.run)(made)


@contextlib.contextmanager
def hooked(handle: Callable[[Launch], None]) -> Iterator[None]:
    """Inside, in this thread or task, `launch` calls `handle` in place of launching; nothing compiles or runs."""
    token = _handle.set(handle)
    try:
        yield
    finally:
        _handle.reset(token)


# Images of one launch: every axis of a grid but the first ends at 65535. A multiple of 16 leaves addresses aligned as
# they are, so that a batch that is split needs no other kernels.
MOST_IMAGES = 65520

_Launcher = TypeVar("_Launcher", bound=Callable[..., None])


def split_batch(*shared: str) -> Callable[[_Launcher], _Launcher]:
    """Give a launcher at most MOST_IMAGES images at a time, of all its tensors but those of the names `shared`."""

    def decorate(launcher: _Launcher) -> _Launcher:
        names = tuple(inspect.signature(launcher).parameters)

        @functools.wraps(launcher)
        def run(*arguments: Any) -> None:
            batch = next(_tensors(arguments)).shape[0]
            if batch <= MOST_IMAGES:
                return launcher(*arguments)
            for first in range(0, batch, MOST_IMAGES):
                images = slice(first, first + MOST_IMAGES)
                of_images = tree_map_only(Tensor, lambda x: x[images], arguments)  # noqa: B023
                launcher(*(a if n in shared else s for n, a, s in zip(names, arguments, of_images)))

        return run  # type: ignore[return-value]

    return decorate


def sized(**shapes: str) -> Callable[[_Launcher], _Launcher]:
    """Refuse tensors whose shapes do not fit: a kernel takes every size from one of them, and reads all by it.

    A shape has a letter for each dimension. The same letter is the same size in all shapes, but for x and y, which are
    any sizes; 1 is one. Of a list every tensor has the shape, and None has none.
    """

    def decorate(launcher: _Launcher) -> _Launcher:
        given = [(i, n) for i, n in enumerate(inspect.signature(launcher).parameters) if n in shapes]
        op = launcher.__module__.rpartition(".")[2]

        @functools.wraps(launcher)
        def run(*arguments: Any) -> None:
            sizes = {"1": 1}
            for i, name in given:
                for x in _tensors((arguments[i],)):
                    letters, shape = shapes[name], x.shape
                    fits = len(letters) == len(shape)
                    for letter, size in zip(letters, shape):
                        fits &= letter in "xy" or sizes.setdefault(letter, size) == size
                    if not fits:
                        wanted = ", ".join(str(sizes.get(letter, letter)) for letter in letters)
                        raise ValueError(f"{op}: {name} must have the shape ({wanted}), got {tuple(shape)}")
            launcher(*arguments)

        return run  # type: ignore[return-value]

    return decorate


def check_counts(**lists: tuple[Sequence[Any], int]) -> None:
    """Refuse lists that have not so many tensors."""
    for name, (given, count) in lists.items():
        if len(given) != count:
            raise ValueError(f"{name} must have {count} tensors, got {len(given)}")


def on_device_of(arguments: Sequence[Any]) -> contextlib.AbstractContextManager[None]:
    """Make the device of the first tensor the current one: Triton launches there, whose ever the tensors are."""
    x = next(_tensors(arguments))
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _tensors(arguments: Sequence[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (tuple, list)):
            yield from _tensors(argument)


def arithmetic_of(*tensors: Tensor) -> tl.dtype:
    """Return the type that kernels compute in: float64 if one of the tensors has it, else float32."""
    return tl.float64 if any(x.dtype == torch.float64 for x in tensors) else tl.float32


def spread(grads: Sequence[Tensor], needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Return the gradients that are needed at their places, and None at the others."""
    given = iter(grads)
    return tuple(next(given) if wanted else None for wanted in needed)
