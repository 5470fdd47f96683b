"""The meter: bytes moved and kernels launched, by Triton's interpreter and by PyTorch's operators.

A launch of a Triton kernel, in Triton's interpreter, counts by every address it loads or stores: `requested` counts an
element each time a program asks for it, `sectors` each 32 bytes once a launch and kind of access, as if the cache held
what it reads. An operator of PyTorch's that is not a view counts by the tensors it reads and those it writes, once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

SECTOR = 32


@dataclass
class Traffic:
    """Bytes, and how many kernels moved them."""

    requested: int = 0
    sectors: int = 0
    kernels: int = 0


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """Count what PyTorch's operators and the launches of Triton's interpreter move inside."""
    traffic = Traffic()
    with _counted_launches(traffic), _CountedOperators(traffic):
        yield traffic


@contextlib.contextmanager
def _counted_launches(traffic: Traffic) -> Iterator[None]:
    from triton.runtime import interpreter

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    touched: dict[str, list[np.ndarray]] = {}

    def counting(name: str, kinds: Sequence[str], mask_at: int) -> Any:
        """The builder's method `name`, its accesses noted; the mask comes `mask_at` arguments behind the pointers."""
        access, pointers_at = getattr(builder, name), int(name == "create_atomic_rmw")

        def noted(self: Any, *arguments: Any, **named: Any) -> Any:
            pointers, mask = arguments[pointers_at], arguments[pointers_at + mask_at]
            addresses = np.asarray(pointers.data).reshape(-1).astype(np.uint64)
            if mask is not None:
                addresses = addresses[np.broadcast_to(np.asarray(mask.data), np.shape(pointers.data)).reshape(-1)]
            itemsize = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
            for kind in kinds:
                traffic.requested += addresses.size * itemsize
                touched.setdefault(kind, []).append(np.unique(addresses // np.uint64(SECTOR)))
            return access(self, *arguments, **named)

        return mock.patch.object(builder, name, noted)

    execute = executor.__call__

    def launch(self: Any, *arguments: Any, **keywords: Any) -> Any:
        touched.clear()
        with _disable_current_modes():  # the interpreter's own operators are not the launch's
            result = execute(self, *arguments, **keywords)
        traffic.kernels += 1
        traffic.sectors += SECTOR * sum(np.unique(np.concatenate(lists)).size for lists in touched.values())
        return result

    with (
        counting("create_masked_load", ("load",), 1),
        counting("create_masked_store", ("store",), 2),
        counting("create_atomic_rmw", ("load", "store"), 2),
        mock.patch.object(executor, "__call__", launch),
    ):
        yield


class _CountedOperators(TorchDispatchMode):
    """Every operator that moves data is one kernel; it reads each distinct tensor given and writes its results."""

    ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
    OVERWRITES = ("copy_", "fill_", "zero_")  # what they write they do not read

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "afa":  # what counts is inside
            with self:
                return function.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **(kwargs or {}))
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.removeprefix("aten::")
        read = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        memory = {t.untyped_storage().data_ptr() for t in read.values()}
        view = all(t.untyped_storage().data_ptr() in memory for t in made)
        if name in self.ALLOCATIONS or (view and not function._schema.is_mutable):
            return result
        if name in self.OVERWRITES:
            read.pop(id(args[0]))
        moved = sum(_stored(t) for t in (*read.values(), *made))
        self.traffic.requested += moved
        self.traffic.sectors += moved
        self.traffic.kernels += 1
        return result


def _stored(x: Tensor) -> int:
    """The bytes of the elements that exist: an expanded dimension has one."""
    return min(x.numel() * x.itemsize, x.untyped_storage().nbytes())
