"""What afa_kernels and eager PyTorch move, into the record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import afa_kernels
from afa_kernels.ops import _cross_entropy
from afa_kernels.testing import Case, differentiable, listed, tensors
from benchmarks import ops
from benchmarks.traffic.meter import Traffic, counted
from benchmarks.workload import Workload

RECORD = Path(__file__).parents[1] / "results" / "traffic.json"

Row = dict[str, Any]


def passes(case: Case, function: Callable[..., Any]) -> dict[str, Traffic]:
    """Return the traffic of one forward and, where there is one, one backward pass."""
    workload = Workload(case, differentiable(case.op))
    arguments, function = workload.inputs(), workload.bind(function)
    with counted() as forward:
        outputs = listed(function(*arguments))
    if not differentiable(case.op):
        return {"forward": forward}
    upstream = workload.upstream(outputs)
    with counted() as backward:
        torch.autograd.grad(outputs, tensors(arguments), upstream)
    return {"forward": forward, "backward": backward}


def least(case: Case) -> dict[str, int]:
    """Return the bytes that each pass moves at least."""
    workload = Workload(case, training=False)
    arguments = workload.inputs()
    with afa_kernels.use_backend("reference"), torch.no_grad():
        outputs = listed(workload.ours()(*arguments))
    return workload.least(arguments, outputs)


def ours(case: Case) -> dict[str, Traffic]:
    checks_values = mock.patch.object(_cross_entropy, "check_classes")  # which it does on the CPU alone
    with afa_kernels.use_backend("triton"), checks_values:
        return passes(case, ops.ours(case.op))


def eager(case: Case) -> dict[str, Traffic]:
    return passes(case, ops.of(case.op).eager)


def count() -> list[Row]:
    rows = []
    for case in ops.traffic_cases():
        lower = least(case)
        for name, found in (("afa_kernels", ours(case)), ("eager", eager(case))):
            for direction, traffic in found.items():
                rows.append(row(case, name, direction, traffic, lower[direction]))
    return rows


def row(case: Case, who: str, direction: str, traffic: Traffic, lower: int) -> Row:
    """Return a row of the record, its bytes in units of the least possible."""
    return {
        "case": str(case),
        "who": who,
        "pass": direction,
        "kernels": traffic.kernels,
        "requested": round(traffic.requested / lower, 3),
        "sectors": round(traffic.sectors / lower, 3),
    }


def load() -> list[Row]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else []


def save(rows: Sequence[Row]) -> None:
    """Replace the rows of the same `who` in the record."""
    who = {r["who"] for r in rows}
    lines = (json.dumps(r) for r in [*(r for r in load() if r["who"] not in who), *rows])
    RECORD.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def table(rows: Sequence[Row]) -> str:
    """Kernels and bytes of a pass, and how many times the bytes of afa_kernels the others move."""
    at = {(r["case"], r["pass"], r["who"]): r for r in rows}
    lines = [
        "| operation | pass | kernels: eager, compiled, afa | bytes over the least: eager, compiled, afa | "
        "at most faster than eager | than compiled |",
        "| --- | --- | --- | --- | ---: | ---: |",
    ]
    for case, direction in sorted(
        {(r["case"], r["pass"]) for r in rows}, key=lambda key: (key[0], key[1] != "forward")
    ):
        who = [at.get((case, direction, w)) for w in ("eager", "torch.compile", "afa_kernels")]
        kernels = ", ".join("?" if r is None else str(r["kernels"]) for r in who)
        shown = ", ".join("?" if r is None else f"{r['sectors']:.2f}" for r in who)
        gains = [_gain(other, who[2]) for other in who[:2]]
        lines.append(f"| {case} | {direction} | {kernels} | {shown} | {gains[0]} | {gains[1]} |")
    return "\n".join(lines)


def _gain(other: Row | None, mine: Row | None) -> str:
    if other is None or mine is None:
        return "not counted"
    times = other["sectors"] / mine["sectors"]
    return "nothing" if 0.98 <= times <= 1.02 else f"{times:.2f}"
