"""kernels: afa_kernels alone, at the shapes of real networks, on each backend that has kernels."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch

import afa_kernels
from afa_kernels.testing import listed, tensors
from benchmarks.gpu.calls import timed, with_kernels
from benchmarks.gpu.session import Session, in_processes
from benchmarks.gpu.timing import Timer, microseconds
from benchmarks.workload import Workload

AHEAD, FIRST = 0.3, 0.65  # of the budget: for compilations, for the backend that is the automatic choice


def run(session: Session) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    workloads, timer = timed(session.ops, session.device), Timer(session.device)
    session.go({"compile ahead": lambda: compile_ahead(session, workloads)})

    def items(rank: int) -> dict[str, Callable[[], None]]:
        found: dict[str, Callable[[], None]] = {}
        for w in workloads:
            for backend in with_kernels(w.case.op, session.device)[rank : rank + 1]:
                found[f"{label(w)} {backend}"] = functools.partial(ours, session, timer, w, backend)
        return found

    session.go(items(0), FIRST)
    session.go(items(1))


def ours(session: Session, timer: Timer, workload: Workload, backend: str) -> None:
    with afa_kernels.use_backend(backend):
        measure(session, timer, workload, "afa_kernels", workload.ours, backend)


def label(workload: Workload) -> str:
    return f"{workload} {str(workload.dtype).removeprefix('torch.')}"


def measure(
    session: Session, timer: Timer, workload: Workload, who: str, make: Callable[[], Callable[..., Any]], backend: str
) -> None:
    """Record the passes of a workload; or why there is no number, where its results are wrong."""
    function, arguments = make(), workload.inputs()
    with torch.no_grad():
        outputs = listed(function(*arguments))
    upstream = workload.upstream(outputs)
    described = {**workload.described(), "backend": backend, "pass": "forward"}
    reason = workload.why_wrong({who: function}, arguments, upstream)
    if reason is not None:
        session.record(**{**described, "pass": "both"}, refused=reason)
        return
    least = workload.least(arguments, outputs)

    def forward() -> Any:
        with torch.no_grad():
            return function(*arguments)

    passes: dict[str, Callable[[], Any]] = {"forward": forward}
    if workload.training:
        leaves = tensors(arguments)
        graph = listed(function(*arguments))
        passes["backward"] = lambda: torch.autograd.grad(graph, leaves, upstream, retain_graph=True)
    for name, step in passes.items():
        seconds = timer.gpu(step)
        moved = least[name]
        found = {
            **microseconds(seconds),
            "cpu_us": round(1e6 * timer.cpu(step), 3),
            "bytes": moved,
            "share": round(moved / statistics.median(seconds) / timer.bandwidth(), 4),
            "copy_us": microseconds(timer.copy(moved))["p50_us"],  # of as many bytes
        }
        session.record(**{**described, "pass": name}, **found)


def compile_ahead(session: Session, workloads: list[Workload]) -> str:
    """Compile in several processes what the first workloads launch, into Triton's cache on disk."""
    first = [i for i, w in enumerate(workloads) if session.quick or images(w) == 1]
    prepare = functools.partial(_prepare, session.ops, session.device)
    if session.quick:
        return f"{sum(map(prepare, first[:3]))} launches in this process"
    return f"{in_processes(prepare, first, AHEAD * session.budget)} launches"


def _prepare(names: tuple[str, ...], device: str, i: int) -> int:
    workload = timed(names, device)[i]
    arguments = workload.unfilled()
    for t in tensors(arguments):
        t.requires_grad_(workload.training)
    return afa_kernels.warmup(workload.ours(), *arguments)


def images(workload: Workload) -> int:
    first = workload.case.shapes[0]
    return first[0][0] if isinstance(first, list) else first[0]
