"""Microbenchmarks of every operation and backend at small sizes, where the overhead per call shows.

    pytest benchmarks/test_micro.py --benchmark-only

A contestant that computes something else than the reference fails before it is timed.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import afa_kernels
from afa_kernels.testing import listed
from benchmarks.workload import Workload, on_backend, workloads

pytest.importorskip("pytest_benchmark", reason="microbenchmarks need the package pytest-benchmark")

BACKENDS = afa_kernels.backends.available("attentive_fusion", "cpu")
CONTESTANTS = ("eager", "compiled", *(f"afa_kernels-{backend}" for backend in BACKENDS))


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("workload", workloads("quick"), ids=str)
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
    benchmark(functools.partial(workload.step, function, arguments, upstream))
