"""The calls of dispatcher ops that a case makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from afa_kernels.testing import Case, both_passes, differentiable, tensors


class Recorder(TorchDispatchMode):
    """The calls of afa's dispatcher ops, as (op, arguments, result); an op in place has copies of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = replaced(args, torch.clone) if func._schema.is_mutable else args
        result = func(*args, **(kwargs or {}))
        if func.namespace == "afa":
            self.calls.append((func, given, result))
        return result


def stems(case: Case) -> tuple[str, ...]:
    """The operations that the case's is made of, each a dispatcher op of its own; almost always itself alone."""
    if case.op != "channel_attention":
        return (case.op,)
    pooling = "global_avg_max_pool"
    return pooling, f"{case.op}_training" if case.options["training"] else case.op


def backward_stems(case: Case) -> list[str]:
    """Of those of `stems` that have a gradient, in the order of backward. Both of channel_attention share theirs."""
    return [s for stem in reversed(stems(case)) if differentiable(s := stem.removesuffix("_training"))]


def recorded(case: Case, dtype: torch.dtype, backend: str) -> list[tuple[Any, tuple[Any, ...], Any]]:
    """What a case calls in both passes: every one of its ops and their backward ops, in order, and no other.

    But what moves running statistics on Triton, which returns nothing.
    """
    arguments = case.inputs(dtype)
    wanted = [differentiable(case.op)] * len(tensors(arguments))
    with Recorder() as recorder:
        both_passes(lambda a: case.outputs(a, backend), arguments, wanted=wanted)
    calls = [call for call in recorder.calls if call[0]._schema.name != "afa::move_running_statistics"]
    names = list(dict.fromkeys(func._schema.name for func, _, _ in calls))
    assert names == [f"afa::{s}" for s in stems(case)] + [f"afa::{s}_backward" for s in backward_stems(case)]
    return calls


def replaced(args: Sequence[Any], new: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    """The arguments of a dispatcher op with `new` of each tensor in its place."""

    def replace(argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return new(argument)
        if isinstance(argument, list):
            return [replace(a) for a in argument]
        return argument

    return tuple(replace(argument) for argument in args)
