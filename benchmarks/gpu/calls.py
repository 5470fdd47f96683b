"""Small calls of an operation, forward and backward, against the reference; and the calls that are timed.

python -m benchmarks.gpu.calls DEVICE OP...      prints a line of JSON per operation and backend
"""

from __future__ import annotations

import itertools
import json
import sys

import torch

import afa_kernels
from afa_kernels import backends
from afa_kernels.testing import differentiable, listed
from benchmarks import ops
from benchmarks.workload import Workload

DTYPES = (torch.float16, torch.float32, torch.bfloat16)


def small(op: str, device: str) -> list[Workload]:
    """Return calls of sizes that 16 divides and of odd ones, in every element type."""
    benchmark = ops.of(op)
    cases = [*benchmark.TRAFFIC, *benchmark.gpu(quick=True)]
    return [Workload(case, differentiable(op), dtype, device) for dtype in DTYPES for case in cases]


def timed(names: tuple[str, ...], device: str) -> list[Workload]:
    """Return the calls that are timed, the most telling first: four shapes of each operation, then four more."""
    quick = device == "cpu"
    found = []
    for op in names:
        position: dict[str, itertools.count[int]] = {}
        for case in ops.of(op).gpu(quick):
            rank = next(position.setdefault(case.layouts[0], itertools.count())) // 4
            for i, dtype in enumerate(DTYPES):
                order = rank, i, case.layouts[0] != "channels_last"
                found.append((order, Workload(case, differentiable(op), dtype, device)))
    return [workload for _, workload in sorted(found, key=lambda pair: pair[0])]


def check(workload: Workload) -> None:
    """Raise an AssertionError where a result or a gradient of the operation is wrong."""
    arguments, ours = workload.inputs(), workload.ours()
    with torch.no_grad():
        shapes = listed(workload.ours()(*workload.inputs()))
    reason = workload.why_wrong({"afa_kernels": ours}, arguments, workload.upstream(shapes))
    assert reason is None, f"{workload}, {workload.dtype}: {reason}"


def check_all(op: str, device: str, backend: str) -> str:
    workloads = small(op, device)
    with afa_kernels.use_backend(backend):
        for workload in workloads:
            check(workload)
    return f"{len(workloads)} calls"


def with_kernels(op: str, device: str) -> list[str]:
    """Return the backends that have kernels of the operation here; the first is the automatic choice."""
    found = [name for name in backends.available(op, device) if name != "reference"] or ["reference"]
    if not backends.made_of_aten(op):
        return found
    return [name for name in found if backends.parts(op, device, name) is not None] or found[:1]


def main() -> None:
    device, *names = sys.argv[1:]
    for op in names:
        for backend in with_kernels(op, device):
            try:
                said = {"outcome": "passed", "detail": check_all(op, device, backend)}
            except Exception as error:
                said = {"outcome": "failed", "detail": f"{type(error).__name__}: {error}"[-2000:]}
            print(json.dumps({"item": op, "backend": backend, **said}), flush=True)


if __name__ == "__main__":
    main()
