"""Timing and tables for the example programs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from afa_kernels.testing import alternate

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


def medians(contenders: Contenders, repeats: int) -> dict[str, float]:
    """Return the median seconds per call of each contender; they take turns."""
    return {name: statistics.median(seconds) for name, seconds in alternate(contenders, repeats=repeats).items()}


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
