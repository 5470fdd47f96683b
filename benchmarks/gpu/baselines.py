"""baselines: what `kernels` times, by eager PyTorch and by torch.compile."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch._functorch.config

from benchmarks.gpu.calls import timed
from benchmarks.gpu.kernels import label, measure
from benchmarks.gpu.session import Session
from benchmarks.gpu.timing import Timer
from benchmarks.workload import Workload

COMPILED: dict[str, dict[str, str]] = {"compiled": {}, "compiled max-autotune": {"mode": "max-autotune-no-cudagraphs"}}
SHARES = {"eager": 0.35, "compiled": 0.4, "compiled max-autotune": 1.0}  # of the budget, at most


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

    session.go(items("eager", workloads), SHARES["eager"])
    for who in COMPILED:  # one shape of each operation and type first: a compilation takes seconds
        session.go(items(who, spread(workloads)), SHARES[who])


def spread(workloads: list[Workload]) -> list[Workload]:
    """Return the workloads, the first of each operation, type and layout before the second."""
    seen: dict[tuple[str, torch.dtype, str], int] = {}
    ranked = []
    for w in workloads:
        key = (w.case.op, w.dtype, w.layout)
        seen[key] = seen.get(key, -1) + 1
        ranked.append((seen[key], w))
    return [w for _, w in sorted(ranked, key=lambda pair: pair[0])]
