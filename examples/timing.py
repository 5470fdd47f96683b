"""Timing, peak memory and tables for the example programs."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# The profiler writes its own progress to stderr below this level.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

Contenders = dict[str, Callable[[], Any]]


def reason_not_to_compile(function: Callable[[], Any]) -> str:
    """Call a `torch.compile`d function once, so that it compiles; return "" or in one line why it cannot."""
    try:
        function()
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reasons = lines[:1] + [line for line in lines[1:] if "error:" in line][:1]
        return ": ".join([type(error).__name__, *reasons])
    return ""


def alternate(contenders: Contenders, repeats: int) -> dict[str, float]:
    """Return the median seconds per call of each contender, after two calls that are not counted.

    The contenders take turns within every round, in random order, so that other load, clock speed and the memory that
    the one before left to the allocator meet all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for function in contenders.values():
        function()
        function()
    shuffler = random.Random(0)
    for _ in range(repeats):
        for name in shuffler.sample(list(contenders), len(contenders)):
            _synchronize()
            start = time.perf_counter()
            contenders[name]()
            _synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_bytes(function: Callable[[], Any], device: torch.device) -> int:
    """Return the most bytes that one call of `function` allocates and holds at a time, its result included."""
    function()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        function()
    events = [event for event in prof.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text, the first column aligned to the left and the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def format_ratio(baseline: float | None, seconds: float) -> str:
    """Return how many times as fast as the baseline this is, or "-" where there is no baseline."""
    return "-" if baseline is None else f"{baseline / seconds:.2f}x"


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
