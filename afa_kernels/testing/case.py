"""A case: one call of an operation, whose arguments are made and whose two passes are run."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import os
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import afa_kernels
from afa_kernels.testing.layouts import LAYOUTS

DEVICE = os.environ.get("AFA_KERNELS_TEST_DEVICE", "cpu")  # where cases put their tensors: "cpu" or "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

Shape = tuple[int, ...]
Dtypes = torch.dtype | tuple[torch.dtype, ...]


@dataclass(frozen=True)
class Case:
    """One call of the operation `op`. `shapes` has an entry per argument: a shape, or a list of them for a list.

    The arguments are the operation's first ones, or those of `names`, as keywords; `options` are the others.
    `layouts` names an entry of LAYOUTS per tensor and is repeated over the tensors; so is an entry of `dtypes` that is
    a tuple. `planted` gives, by the position of the tensor, values that replace its first elements. A `thorough` case
    also goes through what takes seconds a case: opcheck and torch.compile.
    """

    op: str
    covers: str
    shapes: tuple[Shape | list[Shape], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    layouts: tuple[str, ...] = ("contiguous",)
    dtypes: tuple[Dtypes, ...] = DTYPES
    planted: Mapping[int, Sequence[float]] = field(default_factory=dict)
    thorough: bool = False
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.op}: {self.covers}"

    def inputs(self, dtypes: Dtypes, device: str = DEVICE, seed: int = 0) -> tuple[Any, ...]:
        """Return the arguments, in their layouts: standard normal numbers, the same for every element type."""
        generator = torch.Generator().manual_seed(seed)

        def make(i: int, shape: Shape, dtype: torch.dtype) -> Tensor:
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            planted = torch.tensor(self.planted.get(i, ()), dtype=torch.float64)
            values.view(-1)[: len(planted)] = planted
            return values.to(device, dtype)

        return self._arguments(dtypes, make)

    def unfilled(self, dtypes: Dtypes, device: str = "cpu") -> tuple[Any, ...]:
        """Return the same arguments with no particular values, for who looks at launches only."""
        return self._arguments(dtypes, lambda i, shape, dtype: torch.empty(shape, dtype=dtype, device=device))

    def _arguments(self, dtypes: Dtypes, make: Callable[[int, Shape, torch.dtype], Tensor]) -> tuple[Any, ...]:
        position = itertools.count()

        def laid_out(shape: Shape) -> Tensor:
            i = next(position)
            dtype = dtypes if isinstance(dtypes, torch.dtype) else dtypes[i % len(dtypes)]
            return LAYOUTS[self.layouts[i % len(self.layouts)]](make(i, shape, dtype))

        return tuple(
            [laid_out(s) for s in shape] if isinstance(shape, list) else laid_out(shape) for shape in self.shapes
        )

    def bind(self, function: Callable[..., Any], device: str = DEVICE) -> Callable[..., Any]:
        """Return `function` of the arguments alone, each in its place or by its name, with the options on `device`."""
        options = {key: o.to(device) if isinstance(o, Tensor) else o for key, o in self.options.items()}
        if not self.names:
            return functools.partial(function, **options)

        def bound(*arguments: Any) -> Any:
            return function(**dict(zip(self.names, arguments, strict=True)), **options)

        return bound

    def functional(self, device: str = DEVICE) -> Callable[..., list[Tensor]]:
        """Return a function of the arguments alone that gives the operation's outputs and writes to no argument.

        The outputs of an operation that works in place are copies of the arguments it writes to, as it leaves them.
        """
        function = self.bind(operation(self.op), device)
        changed = written(self.op)
        if not changed:
            return lambda *arguments: listed(function(*arguments))
        names = self.names or tuple(inspect.signature(operation(self.op)).parameters)[: len(self.shapes)]
        in_place = tuple(name in changed for name in names)

        def call(*arguments: Any) -> list[Tensor]:
            given = [_copy(a) if changes else a for a, changes in zip(arguments, in_place, strict=True)]
            function(*given)
            return [a for a, changes in zip(given, in_place) if changes]

        return call

    def outputs(self, arguments: Sequence[Any], backend: str) -> list[Tensor]:
        """Return what `functional` gives on `backend`."""
        with afa_kernels.use_backend(backend):
            return self.functional(tensors(arguments)[0].device.type)(*arguments)


def operations() -> list[str]:
    """Return the name of every operation of afa_kernels, public or not: the files of `ops` with no underscore first."""
    found = pkgutil.iter_modules(importlib.import_module("afa_kernels.ops").__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def operation(name: str) -> Callable[..., Any]:
    """Return the operation of that name, whether it is public or not."""
    return getattr(importlib.import_module(f"afa_kernels.ops.{name}"), name)


def differentiable(name: str) -> bool:
    """Return whether the operation has a gradient, which is whether it has a backward op."""
    operation(name)  # which registers its ops
    return hasattr(torch.ops.afa, f"{name}_backward")


def written(name: str) -> list[str]:
    """Return the arguments that the operation writes to, by its schema."""
    operation(name)
    schema = getattr(torch.ops.afa, name).default._schema
    return [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]


def _copy(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)


def listed(outputs: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """Return one output or several as a list."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among the arguments and in their lists, in order."""
    return [t for argument in arguments for t in listed(argument)]


def with_tensors(arguments: Sequence[Any], replacements: Iterable[Tensor]) -> tuple[Any, ...]:
    """Return the arguments with their tensors, in order, replaced."""
    new = iter(replacements)
    return tuple(next(new) if isinstance(a, Tensor) else [next(new) for _ in a] for a in arguments)


def cotangents(outputs: Iterable[Tensor], seed: int = 1) -> list[Tensor]:
    """Return a gradient for each output: standard normal numbers, the same for every element type."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o) for o in outputs]


def both_passes(
    function: Callable[[Sequence[Any]], list[Tensor]],
    arguments: Sequence[Any],
    outputs_grad: Callable[[list[Tensor]], list[Tensor]] | Sequence[Tensor] = cotangents,
    wanted: Sequence[bool] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs, and the gradient of each tensor of `arguments`, or of those `wanted`.

    `outputs_grad` are the gradients of the outputs, or a function that makes them.
    """
    given = tensors(arguments)
    asked = [True] * len(given) if wanted is None else wanted
    leaves = [t.detach().requires_grad_(a) for t, a in zip(given, asked, strict=True)]
    outputs = function(with_tensors(arguments, leaves))
    found: Sequence[Tensor] = ()
    if any(asked):
        grads = outputs_grad(outputs) if callable(outputs_grad) else outputs_grad
        found = torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf.requires_grad], grads)
    return [output.detach() for output in outputs], list(found)


def gradients(*arguments: Any, **keywords: Any) -> list[Tensor]:
    """Return the second of what `both_passes` returns."""
    return both_passes(*arguments, **keywords)[1]
