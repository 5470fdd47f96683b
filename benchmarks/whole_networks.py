"""Whole networks against the official composition and torch.compile of it, in one run, taking turns.

    python -m benchmarks.whole_networks                         every workload; appends to results/networks.jsonl
    python -m benchmarks.whole_networks --only evaluation       those whose name contains it
    python -m benchmarks.whole_networks --memory                memory alone, which other load does not change
    python -m benchmarks.whole_networks --table                 the record as docs/networks.md has it, measuring nothing

The contestants have the same weights: `official` is `benchmarks.official`, in NCHW; `official, channels_last` the same
with its weights and images in channels_last; `compiled` torch.compile of the first. Before anything is measured, their
scores or losses must agree. Peak bytes are the allocator's, saved bytes those of unique storages that autograd's hooks
see, parameters included; times are medians.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from afa_kernels import models
from afa_kernels.testing import alternate, peak_bytes, saved_bytes
from benchmarks.official import Official
from benchmarks.run import ROOT, circumstances

RESULTS = ROOT / "benchmarks" / "results" / "networks.jsonl"
SCALES = (0.5, 1.0, 1.5, 1.75, 2.0)
WORKLOADS: dict[str, tuple[str, dict[str, Any], tuple[int, int, int], bool]] = {
    # name, options, (batch, height, width), whether a training step
    "AFA-DLA-34, evaluation, 512x1024": ("afa_dla34", {}, (1, 512, 1024), False),
    "AFA-DLA-34, evaluation, 1024x2048": ("afa_dla34", {}, (1, 1024, 2048), False),
    "AFA-DLA-34 + SSR, 5 scales, evaluation, 512x1024": ("afa_dla34_ssr", {"scales": SCALES}, (1, 512, 1024), False),
    "AFA-DLA-34, training step, 512x1024, batch 2": ("afa_dla34", {}, (2, 512, 1024), True),
}


def contestants(name: str, options: dict[str, Any], training: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    exact = models.create(name, num_classes=19, **options).train(training)
    found: dict[str, Any] = {"afa_kernels": exact}
    if training:
        for title, more in (("fused losses", {}), ("fused losses, channels_last", {"channels_last": True})):
            net = models.create(name, num_classes=19, fused_losses=True, **more, **options).train()
            net.load_state_dict(exact.state_dict())
            found[f"afa_kernels, {title}"] = net
    found["official"] = Official(exact).train(training)
    found["official, channels_last"] = Official(exact).train(training).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return found


def measure(title: str, memory_alone: bool, compiled: bool, repeats: int) -> list[dict[str, Any]]:
    name, options, (batch, height, width), training = WORKLOADS[title]
    images, targets = torch.randn(batch, 3, height, width), torch.randint(19, (batch, height, width))
    nets = contestants(name, options, training)
    calls: dict[str, Callable[[], Any]] = {}
    forwards: dict[str, Callable[[], Any]] = {}
    if compiled and not memory_alone:
        nets["official, compiled"] = nets["official"] if training else torch.compile(nets["official"], dynamic=False)
    for contestant, net in nets.items():
        given = images.contiguous(
            memory_format=torch.channels_last if "channels_last" in contestant else torch.contiguous_format
        )
        if training:
            losses = torch.compile(net.losses, dynamic=False) if "compiled" in contestant else net.losses
            forwards[contestant] = functools.partial(losses, given, targets)
        else:
            forwards[contestant] = functools.partial(net, given)
        calls[contestant] = step(net, forwards[contestant]) if training else forwards[contestant]
    agree(title, forwards, training)
    rows = []
    with torch.set_grad_enabled(training):
        for contestant, call in calls.items():
            row = {"network": title, "contestant": contestant, "parameters": parameters(nets["afa_kernels"])}
            row["peak_bytes"] = peak_bytes(call)
            if training:
                row["saved_bytes"] = saved_bytes(forwards[contestant])
            elif contestant in ("afa_kernels", "official"):
                with FlopCounterMode(display=False) as counter:
                    call()
                row["flops"] = counter.get_total_flops()
            rows.append(row)
            print(row, flush=True)
        if not memory_alone:
            for contestant, seconds in alternate(calls, repeats=repeats).items():
                row = next(row for row in rows if row["contestant"] == contestant)
                row["seconds"] = statistics.median(seconds)
                print(contestant, row["seconds"], flush=True)
    return rows


def step(net: Any, forward: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
    def run() -> None:
        net.zero_grad()
        sum(forward().values(), torch.zeros(())).backward()

    return run


def agree(title: str, forwards: dict[str, Callable[[], Any]], training: bool) -> None:
    """Scores to a thousandth of the largest, and sums of losses, before any number is made."""
    with torch.no_grad():
        first, *others = (sum(f().values()) if training else f() for f in forwards.values())
        for contestant, other in zip(list(forwards)[1:], others):
            error = float((other - first).abs().max() / first.abs().max())
            if not error < 1e-3:
                raise SystemExit(f"{title}: {contestant} differs by {error:.1e}: nothing is measured")


def parameters(net: Any) -> int:
    return sum(p.numel() for p in net.parameters())


def table(rows: list[dict[str, Any]]) -> str:
    """The record as Markdown; in brackets, as a share of the official composition's."""
    lines = ["| | peak | saved for backward | time |", "| --- | ---: | ---: | ---: |"]
    titles = dict.fromkeys(row["network"] for row in rows)
    for title in sorted(titles, key=list(WORKLOADS).index):
        entries = {row["contestant"]: row for row in rows if row["network"] == title}
        official = entries["official"]
        counted = f", {official['flops'] / 1e9:.0f} GFLOPs" if "flops" in official else ""
        lines.append(f"| **{title}**: {official['parameters'] / 1e6:.1f} M parameters{counted} | | | |")
        for contestant, row in entries.items():
            cells = [contestant]
            for key, unit, digits in (("peak_bytes", "MiB", 0), ("saved_bytes", "MiB", 0), ("seconds", "s", 2)):
                value = row[key] / (2**20 if unit == "MiB" else 1) if key in row else None
                cells.append("" if value is None else f"{value:.{digits}f} {unit} ({row[key] / official[key]:.2f})")
            lines.append("| " + " | ".join(cells) + " |")
    made = dict.fromkeys((r["command"], (r["commit"] or "no commit")[:12], r["date"][:10]) for r in rows)
    by = " and ".join(f"`{command}` at {commit} on {date}" for command, commit, date in made)
    where = rows[0]
    return "\n".join(lines) + (
        f"\n\n{where['device']}, {where['threads']} threads, float32, torch {where['torch']}: {by}. Medians of "
        "alternating calls; in brackets, as a share of the official composition's."
    )


def newest(path: Any = RESULTS) -> list[dict[str, Any]]:
    """The last record of each network and contestant."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return list({(row["network"], row["contestant"]): row for row in rows}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(newest()))
        return
    torch.set_num_threads(options.threads)
    command = " ".join(["python", "-m", "benchmarks.whole_networks", *sys.argv[1:]])
    for title in WORKLOADS:
        if options.only in title:
            rows = measure(title, options.memory, not options.no_compile, options.repeats)
            with RESULTS.open("a") as file:
                file.writelines(json.dumps({**row, **circumstances(), "command": command}) + "\n" for row in rows)


if __name__ == "__main__":
    main()
