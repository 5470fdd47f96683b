"""baselines: what `kernels` times, by eager PyTorch and by torch.compile."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch._functorch.config

from afa_kernels.testing import listed
from benchmarks.gpu.calls import timed
from benchmarks.gpu.kernels import images, label, measure
from benchmarks.gpu.session import Session, in_processes
from benchmarks.gpu.timing import Timer
from benchmarks.workload import Workload

COMPILED: dict[str, dict[str, str]] = {"compiled": {}, "compiled max-autotune": {"mode": "max-autotune-no-cudagraphs"}}
# Of the budget, at most; "ahead" is the time in which several processes compile, into Inductor's cache on disk.
SHARES = {"ahead": 0.4, "eager": 0.2, "compiled": 0.3, "compiled max-autotune": 1.0}


def run(session: Session) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch._functorch.config.donated_buffer = False  # a backward pass is timed many times over one forward pass
    workloads, timer = timed(session.ops, session.device), Timer(session.device)
    if session.quick:
        workloads = workloads[:2]

    def items(who: str, some: list[Workload]) -> dict[str, Callable[[], None]]:
        found: dict[str, Callable[[], None]] = {}
        for w in some:
            make = w.eager if who == "eager" else functools.partial(w.compiled, **COMPILED[who])
            found[f"{who} {label(w)}"] = functools.partial(measure, session, timer, w, who, make, backend=who)
        return found

    session.go({"compile ahead": lambda: compile_ahead(session, workloads)})
    session.go(items("eager", workloads), SHARES["eager"])
    for who in COMPILED:  # one shape of each operation and type first: a compilation takes seconds
        session.go(items(who, spread(workloads)), SHARES[who])


def compile_ahead(session: Session, workloads: list[Workload]) -> str | None:
    """Compile with the default settings in several processes: they find what the cache has, in the same order."""
    if session.quick:
        return None
    places = {id(w): i for i, w in enumerate(workloads)}
    order = [places[id(w)] for w in spread(workloads) if images(w) == 1]
    prepare = functools.partial(_prepare, session.ops, session.device)
    return f"{in_processes(prepare, order, SHARES['ahead'] * session.budget)} workloads"


def _prepare(names: tuple[str, ...], device: str, i: int) -> int:
    workload = timed(names, device)[i]
    arguments, function = workload.inputs(), workload.compiled()
    with torch.no_grad():
        upstream = workload.upstream(listed(function(*arguments)))
    workload.step(function, arguments, upstream)
    return 1


def spread(workloads: list[Workload]) -> list[Workload]:
    """Return the workloads, the first of each operation, type and layout before the second."""
    seen: dict[tuple[str, torch.dtype, str], int] = {}
    ranked = []
    for w in workloads:
        key = (w.case.op, w.dtype, w.layout)
        seen[key] = seen.get(key, -1) + 1
        ranked.append((seen[key], w))
    return [w for _, w in sorted(ranked, key=lambda pair: pair[0])]
