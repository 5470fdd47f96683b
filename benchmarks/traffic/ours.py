"""What afa_kernels and eager PyTorch move, into the record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afa_kernels.testing import cotangents
from benchmarks.traffic.contests import Contest, contests
from benchmarks.traffic.meter import Traffic, counted

RECORD = Path(__file__).parents[1] / "results" / "traffic.json"

Row = dict[str, Any]


def passes(contest: Contest, function: Callable[[Sequence[Tensor]], list[Tensor]]) -> dict[str, Traffic]:
    """Return the traffic of one forward and, where there is one, one backward pass."""
    given = [t.requires_grad_(wanted) for t, wanted in zip(contest.given(), contest.wanted(), strict=True)]
    leaves = [t for t in given if t.requires_grad]
    with counted() as forward:
        outputs = function(given)
    if not leaves:
        return {"forward": forward}
    upstream = upstream_of(outputs)
    with counted() as backward:
        torch.autograd.grad(outputs, leaves, upstream)
    return {"forward": forward, "backward": backward}


def upstream_of(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return a fixed dense gradient for each output, in its layout."""
    return [torch.empty_like(o).copy_(g) for o, g in zip(outputs, cotangents(outputs), strict=True)]


def count() -> list[Row]:
    rows = []
    for contest in contests():
        lower = contest.least()
        for name, function in (("afa_kernels", contest.ours), ("eager", contest.eager)):
            for direction, traffic in passes(contest, function).items():
                rows.append(row(contest, name, direction, traffic, lower[direction]))
    return rows


def row(contest: Contest, who: str, direction: str, traffic: Traffic, lower: int) -> Row:
    """Return a row of the record, its bytes in units of the least possible."""
    return {
        "case": str(contest),
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
