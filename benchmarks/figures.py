"""Figures of the records, drawn by matplotlib; which records they show, `benchmarks.page` says.

dots     a line of the figure for each workload, and on it a mark for each number
bars     shares of the official composition, with the number behind each bar
curves   cost against size, or against the number of scales
scatter  what was measured against what was predicted
png      a figure as a file's bytes
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a94a3",
    "axes.grid": True,
    "axes.labelcolor": "#26303d",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.size": 9,
    "grid.color": "#e3e7ec",
    "legend.frameon": False,
    "savefig.dpi": 120,
    "xtick.color": "#26303d",
    "ytick.color": "#26303d",
    "ytick.left": False,
}
SLOWER = "#c62828"
OURS, EAGER, COMPILED, FOURTH = "#1566b0", "#6b7583", "#d9760b", "#2e8b57"  # told apart by marks as well
WIDTH, ROW = 9.0, 0.235  # inches

Styles = dict[str, tuple[str, str]]  # of each series its mark and its colour
Rows = dict[tuple[str, str], dict[str, list[float]]]  # by group and line of text, of each series the numbers
Curves = dict[tuple[str, str], list[tuple[float, float, float, float]]]  # by operation and pass: x, p20, p50, p80


def dots(rows: Rows, styles: Styles, label: str, *, log: bool = True, one: str = "", below: str = "") -> Figure:
    """A line for each row, under the name of its group. `one` names the line at 1, `below` what is red below it."""
    groups = list(dict.fromkeys(group for group, _ in rows))
    styles = {series: style for series, style in styles.items() if any(series in found for found in rows.values())}
    figure, axes = _axes(ROW * (len(rows) + len(groups)) + 1.1)
    places: list[tuple[str, bool]] = []
    points: dict[str, list[tuple[float, float]]] = {series: [] for series in styles}
    for group in groups:
        if group:
            places.append((group, True))
        for (_, text), found in ((key, found) for key, found in rows.items() if key[0] == group):
            for i, series in enumerate(styles):
                y = len(places) + 0.5 * ((i + 0.5) / len(styles) - 0.5)
                points[series] += [(x, y) for x in found.get(series, ())]
            places.append((text, False))
    for series, (mark, colour) in styles.items():
        red = [(x, y) for x, y in points[series] if below and x < 1]
        for shown, label_, of in ((colour, series, [p for p in points[series] if p not in red]), (SLOWER, "", red)):
            xs, ys = [x for x, _ in of], [y for _, y in of]
            axes.plot(xs, ys, mark, color=shown, ms=5.5, mec="white", mew=0.5, label=label_ or "_")
    axes.set(xlabel=label, ylim=(len(places) - 0.4, -0.6))
    axes.set_yticks(range(len(places)), [text for text, _ in places])
    axes.tick_params(labeltop=len(places) > 20)
    for tick, (_, heading) in zip(axes.get_yticklabels(), places):
        tick.set_fontweight("bold" if heading else "normal")
    if log:
        _logarithmic(axes, "x", [1, *(x for of in points.values() for x, _ in of)])
    else:
        axes.set_xlim(left=0)
    if one:
        axes.axvline(1, color="#26303d", linewidth=1.2, label=one)
    if below:
        axes.axvspan(axes.get_xlim()[0], 1, color=SLOWER, alpha=0.07, linewidth=0)
        axes.plot([], [], "s", color=SLOWER, label=f"below 1: {below}")
    figure.legend(loc="outside upper left", ncols=5)
    return figure


def bars(panels: dict[str, list[tuple[str, float, str]]], title: str) -> Figure:
    """A panel for each quantity, side by side; a bar is a name, its share and a text, a heading its name alone."""
    names = [name for name, _, _ in next(iter(panels.values()))]
    figure = Figure(figsize=(WIDTH, ROW * len(names) + 1.0), layout="constrained")
    for axes, (quantity, shares) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items()):
        for y, (name, share, text) in enumerate(shares):
            if not math.isnan(share):
                axes.barh(y, share, color=OURS if name.startswith("afa_kernels") else EAGER, height=0.7)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            at = 0.02 if math.isnan(share) else share + 0.02
            axes.text(at, y, text, va="center", fontsize=8, bbox=box if text else None)
        axes.axvline(1, color="#26303d", linewidth=1, zorder=0.5)
        axes.set(title=quantity, xlabel=title, xlim=(0, 1.3), ylim=(len(names) - 0.4, -0.6))
        axes.set_yticks(range(len(names)), names)
        for tick, (_, share, text) in zip(axes.get_yticklabels(), shares):
            tick.set_fontweight("bold" if math.isnan(share) and not text else "normal")
    return figure


def curves(lines: Curves, x: str, y: str) -> Figure:
    """Medians by what is on the x axis, between the 20th and the 80th percentile; a colour for each operation."""
    figure, axes = _axes(4.6)
    ops = list(dict.fromkeys(op for op, _ in lines))
    for (op, pass_), points in sorted(lines.items(), key=lambda line: ops.index(line[0][0])):
        colour, mark = f"C{ops.index(op) % 10}", "os^Dv"[ops.index(op) % 5]
        xs, low, middle, high = zip(*sorted(points))
        style = "-" if pass_ == "forward" else "--"
        axes.plot(xs, middle, mark + style, color=colour, markersize=4, label=f"{op}, {pass_}")
        axes.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
    every = [point for points in lines.values() for point in points]
    _logarithmic(axes, "x", [point[0] for point in every])
    _logarithmic(axes, "y", [value for point in every for value in point[1:]])
    if len(values := {point[0] for point in every}) < 10:
        axes.set_xticks(sorted(values))
    axes.set(xlabel=x, ylabel=y)
    figure.legend(loc="outside lower left", ncols=2, fontsize=8)
    return figure


def scatter(points: Mapping[str, tuple[Sequence[float], Sequence[float]]], styles: Styles, x: str, y: str) -> Figure:
    """Points by series over a band of 30 % around the line where both are equal."""
    figure, axes = _axes(5.4)
    every = [value for xs, ys in points.values() for value in (*xs, *ys)]
    edges = min(every) / 1.5, max(every) * 1.5
    low, high = [edge / 1.3 for edge in edges], [edge * 1.3 for edge in edges]
    axes.fill_between(edges, low, high, color=OURS, alpha=0.1, label="within 30 %")
    axes.plot(edges, edges, color="#26303d", linewidth=1, label="as predicted")
    for series, (xs, ys) in points.items():
        mark, colour = styles[series]
        axes.plot(xs, ys, mark, color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.5, label=series)
    for axis in "xy":
        _logarithmic(axes, axis, edges)
    axes.set(xlabel=x, ylabel=y)
    axes.legend(loc="upper left")
    return figure


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _logarithmic(axes: Axes, axis: str, values: Sequence[float]) -> None:
    """A logarithmic axis over the values that is labelled in plain numbers."""
    low, high = min(values), max(values)
    subs: Any = (1, 2, 5) if high / low < 500 else (1,)
    getattr(axes, f"set_{axis}scale")("log")
    getattr(axes, f"set_{axis}lim")(low / 1.15, high * 1.15)
    of = getattr(axes, f"{axis}axis")
    of.set_major_locator(LogLocator(subs=subs))
    of.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    of.set_minor_formatter(NullFormatter())
