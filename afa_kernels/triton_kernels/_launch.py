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

from afa_kernels import plans


@dataclass(slots=True)
class Launch:
    """One launch as its launcher asked for it: `kernel[grid](*arguments, **keywords)`."""

    kernel: JITFunction[Any]
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def run(self) -> None:
        with on_device_of(self.arguments):
            _run(self.kernel, self.grid, self.arguments, self.keywords)

    def compile(self) -> None:
        """Compile for the device what this launch needs and load it there, and run nothing."""
        with on_device_of(self.arguments):
            compiled = self.kernel.run(*self.arguments, grid=self.grid, warmup=True, **self.keywords)
            if compiled is not None:  # the interpreter compiles nothing
                compiled._init_handles()  # what the first launch does: the module is loaded, its launcher made


_handle: ContextVar[Callable[[Launch], None] | None] = ContextVar("_handle", default=None)
# Of the launches so far how Triton launches the compiled kernel, and the constants that come after the arguments. It
# would find the kernel anew for each call, in twice the time that the launch takes.
_plans: dict[tuple[Any, ...], tuple[Callable[..., None], tuple[Any, ...]]] = {}
MOST_PLANS = 4096


def launch(kernel: JITFunction[Any], grid: tuple[int, ...], *arguments: Any, **keywords: Any) -> None:
    """Launch `kernel` on the device of its first tensor, or let who has hooked launches have it."""
    keywords["enable_fp_fusion"] = True
    handle = _handle.get()
    made = Launch(kernel, grid, arguments, keywords)
    if handle is None:
        made.run()
    else:
        handle(made)


def _run(kernel: JITFunction[Any], grid: tuple[int, ...], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Launch on the current device, by the plan of an earlier launch where nothing but addresses is another."""
    key = (id(kernel), grid, *map(_specialized, arguments), *keywords.items())
    plan = _plans.get(key)
    if plan is not None:
        start, constants = plan
        start(*arguments, *constants)
        return plans.note(start, (*arguments, *constants))
    with plans.unseen():
        compiled = kernel[grid](*arguments, **keywords)
    if compiled is None:  # the interpreter compiles nothing
        return plans.note(functools.partial(kernel[grid], **keywords), arguments)
    if len(_plans) >= MOST_PLANS:
        _plans.clear()
    constants = tuple(keywords[name] for name in kernel.arg_names[len(arguments) :])
    _plans[key] = compiled[(*grid, 1, 1)[:3]], constants
    plans.note(_plans[key][0], (*arguments, *constants))


def _specialized(argument: Any) -> Any:
    """All of an argument that a compiled kernel depends on, and more: of a tensor its device, type and alignment."""
    if isinstance(argument, Tensor):
        return argument.device.index, argument.dtype, argument.data_ptr() % 16 == 0
    if type(argument) is tuple and argument and type(argument[0]) is not int:
        return tuple(map(_specialized, argument))
    return argument


@contextlib.contextmanager
def hooked(handle: Callable[[Launch], None]) -> Iterator[None]:
    """Inside, in this thread or task, `launch` calls `handle` in place of launching; nothing compiles or runs."""
    token = _handle.set(handle)
    try:
        with plans.unused():
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
        fitting: set[tuple[Any, ...]] = set()

        def check(arguments: tuple[Any, ...]) -> None:
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

        @functools.wraps(launcher)
        def run(*arguments: Any) -> None:
            found = tuple(_shapes(arguments[i]) for i, _ in given)
            if found not in fitting:
                check(arguments)
                if len(fitting) >= MOST_PLANS:
                    fitting.clear()
                fitting.add(found)
            launcher(*arguments)

        return run  # type: ignore[return-value]

    return decorate


def _shapes(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.shape
    return None if argument is None else tuple(map(_shapes, argument))


def check_counts(**lists: tuple[Sequence[Any], int]) -> None:
    """Refuse lists that have not so many tensors."""
    for name, (given, count) in lists.items():
        if len(given) != count:
            raise ValueError(f"{name} must have {count} tensors, got {len(given)}")


def on_device_of(arguments: Sequence[Any]) -> contextlib.AbstractContextManager[None]:
    """Make the device of the first tensor the current one: Triton launches there, whose ever the tensors are."""
    x = next(_tensors(arguments))
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(x.device)


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
