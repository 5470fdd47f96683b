"""One file per operation: what a user writes without it, which calls are measured, and the least that must move.

A new operation needs a file here of its own name; `run`, `traffic`, `report`, `gpu` and the tests fail without it. It
has what `Benchmark` lists, and where they apply

    scratch(case, arguments, outputs, training)     bytes that the C++ kernels move besides the least
    ours(...)                                       the operation, where it does not return what `eager` does
    types(dtype)                                    the element type of each tensor, where they are not all the same
    prepare(arguments)                              gives the arguments other values than normal ones
    ODD_CALL = call(...)                            of an odd size in NCHW, beside the first of `gpu`, for a model alone
    MOST = {"backward": 1.5}                        the most bytes of a pass over the least, where more than 1.02
    OTHERS = {"nerfacc's way": nerfacc}             who else computes it, as `eager` does
    COUNTED = (call(...),)                          small calls whose instructions are counted, besides those of TRAFFIC
    BY_NORM = True                                  rounding decides at an edge: results are compared by their norm
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from torch import Tensor

from afa_kernels.testing import Case, operation, operations


class Benchmark(Protocol):
    TRAFFIC: tuple[Case, ...]  # small calls, whose bytes are counted in Triton's interpreter

    def eager(self, *arguments: Any, **options: Any) -> Any:
        """Compute what a user computes without afa_kernels."""

    def workloads(self, size: str) -> list[tuple[Case, bool]]:
        """Return the calls that are timed on the CPU, of one of the SIZES, each with whether it is a training step."""

    def gpu(self, quick: bool) -> list[Case]:
        """Return the calls that are timed on a GPU, the most telling first."""

    def least(self, case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> dict[str, int]:
        """Return the bytes that "forward" and "backward" move at least."""


def of(op: str) -> Benchmark:
    """Return the module `benchmarks.ops.<op>`."""
    if importlib.util.find_spec(f"benchmarks.ops.{op}") is None:
        raise LookupError(f"the operation {op} has no benchmarks/ops/{op}.py: {__doc__.splitlines()[0]}")
    return cast(Benchmark, importlib.import_module(f"benchmarks.ops.{op}"))


def every() -> dict[str, Benchmark]:
    """Return the benchmark of every operation of afa_kernels."""
    return {op: of(op) for op in operations()}


def ours(op: str) -> Callable[..., Any]:
    """Return the operation, called as the baseline is and returning what it does."""
    return getattr(of(op), "ours", operation(op))


def traffic_cases() -> list[Case]:
    return [case for benchmark in every().values() for case in benchmark.TRAFFIC]
