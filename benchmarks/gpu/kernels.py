"""kernels: afa_kernels alone, at the shapes of real networks."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import statistics
from collections.abc import Callable
from typing import Any

import torch

import afa_kernels
from afa_kernels.testing import listed, tensors
from benchmarks.gpu.calls import timed
from benchmarks.gpu.session import Session
from benchmarks.gpu.timing import Timer, microseconds
from benchmarks.workload import Workload

PROCESSES, AHEAD = 14, 0.3  # of the budget, for compilations


def run(session: Session) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    workloads, timer = timed(session.ops, session.device), Timer(session.device)
    chosen = afa_kernels.backend_info().chosen[session.device]
    session.go({"compile ahead": lambda: compile_ahead(session, workloads)})
    session.go(
        {
            label(w): functools.partial(measure, session, timer, w, "afa_kernels", w.ours, backend=chosen)
            for w in workloads
        }
    )


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
    first = [i for i, w in enumerate(workloads) if session.quick or _images(w) == 1]
    prepare = functools.partial(_prepare, session.ops, session.device)
    if session.quick:
        return f"{sum(map(prepare, first[:3]))} launches in this process"
    count, limit = min(PROCESSES, os.cpu_count() or 1), AHEAD * session.budget
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(count, mp_context=context)
    done = 0
    try:
        for launches in pool.map(prepare, first, timeout=limit):
            done += launches
    except concurrent.futures.TimeoutError:
        return f"{done} launches, then the time for it was spent"
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return f"{done} launches in {count} processes"


def _prepare(names: tuple[str, ...], device: str, i: int) -> int:
    workload = timed(names, device)[i]
    arguments = workload.unfilled()
    for t in tensors(arguments):
        t.requires_grad_(workload.training)
    return afa_kernels.warmup(workload.ours(), *arguments)


def _images(workload: Workload) -> int:
    first = workload.case.shapes[0]
    return first[0][0] if isinstance(first, list) else first[0]
