"""Microbenchmarks of every operation and backend at small sizes, where the overhead per call shows.

    pytest benchmarks/test_micro.py -k "tiny and not compiled" --benchmark-only

"tiny" is maps of 16 x 16, "quick" the size of a smoke run of `benchmarks.run`. A contestant that computes something
else than the reference fails before it is timed. benchmarks/README.md has how to save, compare and plot.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from afa_kernels import backends
from afa_kernels.testing import listed
from benchmarks.workload import Workload, on_backend, workloads

pytest.importorskip("pytest_benchmark", reason="microbenchmarks need the package pytest-benchmark")


def contests() -> Iterator[Any]:
    """Every workload with each contestant: one that PyTorch users have, or afa_kernels on a backend."""
    for size in ("tiny", "quick"):
        for workload in workloads(size):
            ours = [f"afa_kernels-{name}" for name in backends.available(workload.case.op, "cpu")]
            for contestant in ("eager", "compiled", *workload.others(), *ours):
                yield pytest.param(workload, contestant, id=f"{size} {workload} {contestant}")


@pytest.mark.parametrize(("workload", "contestant"), contests())
def test_micro(benchmark: Any, workload: Workload, contestant: str) -> None:
    arguments = workload.inputs()
    functions = workload.contestants()
    name, _, backend = contestant.partition("-")
    function = on_backend(backend, functions[name]) if backend else functions[name]
    with torch.no_grad():
        outputs = listed(functions["afa_kernels"](*arguments))
    upstream = workload.upstream(outputs)
    assert workload.why_wrong({name: function}, arguments, upstream) is None
    benchmark.group = str(workload)
    benchmark.extra_info = {**workload.described(), "contestant": contestant, "torch": torch.__version__}
    benchmark(functools.partial(workload.step, function, arguments, upstream))
