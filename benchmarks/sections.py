"""What the page of `benchmarks.page` shows: figures and tables of the records in benchmarks/results.

A section is a list of parts: Markdown, pictures, and tables that are folded away. What has no record says which command
makes one.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from benchmarks import figures, memory, report, whole_networks
from benchmarks.figures import COMPILED, EAGER, FOURTH, OURS, Curves, Rows
from benchmarks.report import Record, table
from benchmarks.traffic import ours as traffic

OVER = {"over eager": ("o", OURS), "over torch.compile": ("D", COMPILED)}
EVERYBODY = {"afa_kernels": ("o", OURS), "torch.compile": ("D", COMPILED), "eager": ("s", EAGER)}
ALLOCATORS = {"default": ("o", OURS), "THP": ("D", COMPILED), "reused": ("^", FOURTH)}
MEASURE = "python -m benchmarks.run --output benchmarks/results/cpu.jsonl"
SLOWER = "afa_kernels is slower"
BACKENDS = {"Triton": ("o", OURS), "CUDA C++": ("D", COMPILED)}
COMPARED = ("eager", "compiled", "afa_kernels")
Entry = dict[str, Record]  # the records of a workload and an allocator, by contestant


@dataclass
class Picture:
    name: str
    figure: Figure
    caption: str  # what it shows; Markdown
    record: str  # where, when and how its record was made; Markdown


@dataclass
class Folded:
    title: str
    text: str  # Markdown


Part = str | Picture | Folded  # a string is Markdown


def found(name: str) -> Any:
    """What a file of benchmarks/results holds; nothing where there is no such file."""
    path = report.RESULTS / name
    if not path.exists():
        return []
    return report.load(path) if path.suffix == ".jsonl" else json.loads(path.read_text())


def missing(command: str) -> str:
    return f"*Not measured yet:* `{command}` makes the record."


def record_of(name: str, records: Iterable[Record] = ()) -> str:
    """Where, when and how the records of a file were made, as far as they say so."""
    made = [r for r in records if "command" in r]
    if not made:
        return f"Record: `benchmarks/results/{name}`"
    machines = dict.fromkeys(_machine(r) for r in made)
    return f"Record: `benchmarks/results/{name}`. {'; '.join(machines)}. {report.runs(made)}."


def _machine(r: Record) -> str:
    threads = f"{r['threads']} threads, " if r.get("threads", 1) != 1 else "1 thread, " if "threads" in r else ""
    return f"{r['device']}, {threads}torch {r['torch']}, triton {r.get('triton')}"


# ---- on the CPU ----


def run() -> tuple[str, list[Record]]:
    """The newest run on the CPU and its file's name."""
    try:
        path = report.newest(report.RESULTS)
    except SystemExit:
        return "", []
    return path.name, report.load(path)


def measured() -> tuple[str, list[Entry]]:
    """Where, when and how the run was made, and its workloads that have numbers."""
    name, records = run()
    records = [r for r in records if "pass" in r]
    whole = [entry for entry in report.by_contestant(records) if set(COMPARED) <= set(entry)]
    return record_of(name, records), whole


def rows(entries: Iterable[Entry], numbers: Callable[[Entry], dict[str, float]], *, shapes: bool = False) -> Rows:
    """By operation, and by pass and layout, and by the shape if wanted."""
    made: Rows = {}
    for entry in entries:
        r = entry["afa_kernels"]
        line = ", ".join([r["pass"], r["layout"], *([r["dtype"]] if r["dtype"] != "float32" else [])])
        into = made.setdefault((r["op"], line + (f", {r['shape']}" if shapes else "")), {})
        for series, number in numbers(entry).items():
            into.setdefault(series, []).append(number)
    return made


def in_order(rows: Rows) -> Rows:
    return dict(sorted(rows.items(), key=lambda row: (row[0][0], row[0][1] != "forward")))


def gains(entry: Entry) -> dict[str, float]:
    mine = entry["afa_kernels"]
    return dict(zip(OVER, (mine["speedup_over_eager"], mine["speedup_over_compiled"])))


def allocators() -> list[Part]:
    origin, entries = measured()
    if not entries:
        return [missing(MEASURE)]
    pictures = []
    for over, (name, baseline) in zip(OVER, (("eager", "eager PyTorch"), ("compiled", "torch.compile"))):
        means: Rows = {}
        for (op, *call), by in report.groups(entries).items():
            ratios = {allocator: report.ratios(group)[list(OVER).index(over)] for allocator, group in by.items()}
            means[op, ", ".join(call)] = {allocator: [ratio] for allocator, ratio in ratios.items()}
        drawn = figures.dots(means, ALLOCATORS, f"times as fast as {baseline}", one="as fast", below=SLOWER)
        caption = f"How many times as fast as {baseline} afa_kernels is: geometric means over the shapes, by allocator."
        pictures.append(Picture(f"allocators-{name}", drawn, caption, origin))
    return [
        "With torch's default allocator a fresh output costs a page fault for each 4 KiB. *THP* gives everybody pages "
        "of 2 MiB, *reused* memory that is there already: with these the kernels alone are compared.",
        *pictures,
        Folded("The table", report.summary([r for r in run()[1] if r["op"] != "limit"])),
    ]


def shapes() -> list[Part]:
    (name, records), (_, entries) = run(), measured()
    if not entries:
        return [missing(MEASURE)]
    parts: list[Part] = [
        "Each line is a workload, with torch's default allocator. A *training step* is the forward pass and the "
        "gradients of all inputs. Left of 1 afa_kernels is slower; such marks are red."
    ]
    every = report.by_contestant(r for r in records if "pass" in r)
    for op in dict.fromkeys(next(iter(entry.values()))["op"] for entry in every):
        parts.append(f"### `{op}`")
        mine = [entry for entry in entries if entry["afa_kernels"]["op"] == op]
        shown = [entry for entry in mine if entry["afa_kernels"]["allocator"] == "default"] or mine
        if shown:
            lines = {("", line): numbers for (_, line), numbers in rows(shown, gains, shapes=True).items()}
            drawn = figures.dots(lines, OVER, "times as fast", one="as fast", below=SLOWER)
            said = record_of(name, [r for r in records if r["op"] == op])
            parts.append(Picture(f"speed-up-{op}", drawn, f"Speed-up of `{op}` by shape.", said))
        of_op = [entry for entry in every if next(iter(entry.values()))["op"] == op]
        parts.append(Folded("Every shape and allocator", report.operation(of_op)))
    return parts


def real_shapes() -> list[Part]:
    records = [r for r in found("cpu-full.jsonl") if "pass" in r]
    entries = [entry for entry in report.by_contestant(records) if set(COMPARED) <= set(entry)]
    if not entries:
        return [missing("make bench-full")]
    drawn = figures.dots(in_order(rows(entries, gains)), OVER, "times as fast", one="as fast", below=SLOWER)
    caption = "Each mark is a shape of a network on the images of a data set, where memory is reused."
    return [
        Picture("real-shapes", drawn, caption, record_of("cpu-full.jsonl", records)),
        Folded("Means over the shapes", report.full()),
        *(
            Folded(f"Every shape of {op}", report.operation([e for e in entries if e["afa_kernels"]["op"] == op]))
            for op in dict.fromkeys(e["afa_kernels"]["op"] for e in entries)
        ),
    ]


def slower() -> list[Part]:
    origin, entries = measured()
    others: list[Part] = [
        "### Whole networks, time and peak memory",
        _table_of_slower(_slower_networks()),
        "### Operations on a GPU, by Triton in float16",
        _table_of_slower(_slower_on_a_gpu()),
    ]
    if not entries:
        return [missing(MEASURE), *others]
    allocator = {name: [e for e in entries if e["afa_kernels"]["allocator"] == name] for name in ALLOCATORS}
    sorted_gains: Rows = {}
    for name, group in allocator.items():
        for baseline in OVER if group else ():
            values = [gains(entry)[baseline] for entry in group]
            below = sum(value < 1 for value in values)
            sorted_gains[baseline, f"{name}: {below} of {len(values)} below 1"] = {baseline: values}
    drawn = figures.dots(sorted_gains, OVER, "times as fast", one="as fast", below=SLOWER)
    lines = [
        [
            f"`{mine['op']}`, {mine['pass']}, {mine['layout']}, {mine['dtype']}, {mine['shape']}, {mine['allocator']}",
            *(name, f"{mine['p50_ms']:.2f} ms", f"{r['p50_ms']:.2f} ms", f"{r['p50_ms'] / mine['p50_ms']:.3f}"),
        ]
        for entry in entries
        for mine in [entry["afa_kernels"]]
        for name, r in entry.items()
        if r["p50_ms"] < mine["p50_ms"]
    ]
    caption = "Every workload on the CPU, one mark each, by allocator."
    return [
        Picture("slower", drawn, caption, origin),
        "### Operations on the CPU",
        _table_of_slower(lines),
        *others,
    ]


def limit() -> list[Part]:
    origin, entries = measured()
    entries = [entry for entry in entries if all("limit_share" in entry[who] for who in COMPARED)]
    if not entries:
        return [missing(MEASURE)]

    def shares(entry: Entry) -> dict[str, float]:
        return {who: entry[who.replace("torch.compile", "compiled")]["limit_share"] for who in EVERYBODY}

    shown = [entry for entry in entries if entry["afa_kernels"]["allocator"] == "reused"] or entries
    drawn = figures.dots(
        rows(shown, shares, shapes=True), EVERYBODY, "share of what memory gives", log=False, one="all"
    )
    limits = [r for r in run()[1] if r["op"] == "limit"]
    lines = [[r["contestant"], r["allocator"], str(r["threads"]), f"{r['gigabytes_per_second']:.1f}"] for r in limits]
    caption = f"Share of what memory gives, by shape; the allocator is *{shown[0]['afa_kernels']['allocator']}*."
    return [
        "The bytes that a pass must move, inputs read once and outputs written once, over what the memory of this "
        "machine gives in the same time. Beyond 1 lies what stays in the caches.",
        Picture("limit", drawn, caption, origin),
        table(["memory gives", "allocator", "threads", "GB/s"], lines) if lines else "",
    ]


MEMORY = (  # a figure's name, what of the record it shows, its caption
    ("memory-peak", "peak_bytes", "The most that one call holds in tensors it allocates, its results included."),
    ("memory-saved", "saved_bytes", "What the forward pass saves for backward, the inputs included."),
)


def _times_ours(key: str, entry: Entry) -> dict[str, float]:
    return {
        over: entry[name][key] / entry["afa_kernels"][key]
        for over, name in zip(OVER, ("eager", "compiled"))
        if entry[name].get(key) is not None
    }


def memory_use() -> list[Part]:
    origin, entries = measured()
    parts: list[Part] = []
    if entries:
        shown = [entry for entry in entries if entry["afa_kernels"]["allocator"] == "default"] or entries
        parts.append("### Operations")
        for name, key, caption in MEMORY:
            kept = [entry for entry in shown if entry["afa_kernels"].get(key)]
            by_row = rows(kept, functools.partial(_times_ours, key))
            if by_row:
                drawn = figures.dots(
                    by_row, OVER, "times the bytes of afa_kernels", one="as many", below="ours are more"
                )
                parts.append(Picture(name, drawn, f"{caption} A mark for each shape.", origin))
    else:
        parts.append(missing(MEASURE))
    parts.append("### Multi-scale inference")
    if inference := found("inference_memory.json"):
        drawn = memory.inference_figure(inference["found"], tuple(inference["size"]))
        caption = "The most memory held by the number of scales, in rendered maps, the network's predictions included."
        parts.append(Picture("memory-inference", drawn, caption, record_of("inference_memory.json", [inference])))
        parts.append(memory.inference_table(inference["found"]))
    else:
        parts.append(missing("python -m benchmarks.memory inference --record"))
    parts.append("### Training an up-path")
    training = found("training_memory.json")
    if training and {"memory", "losses"} <= set(training):
        nets = training["networks"]
        official = nets["official composition"]
        panels = {
            title: [(name, net[key] / official[key], text(net[key])) for name, net in nets.items()]
            for title, key, text in (
                ("saved for backward", "saved bytes", _megabytes),
                ("peak", "peak bytes", _megabytes),
                ("time of a step", "seconds", _seconds),
            )
        }
        drawn = figures.bars(panels, "share of the official composition's")
        said = record_of("training_memory.json", [training["memory"]])
        caption = "A training step of an up-path, as a share of the official composition's."
        parts += [Picture("memory-training", drawn, caption, said), memory.training_table(training)]
        said = record_of("training_memory.json", [training["losses"]])
        drawn = memory.losses_figure(training)
        parts.append(Picture("losses", drawn, "The losses of the three from the same weights on the same data.", said))
    else:
        parts.append(missing("python -m benchmarks.memory training --record"))
    return parts


AXES = {  # of benchmarks/results/scaling.jsonl: the title, and what is on the x axis
    "elements": ("By the size of the map", "elements of a map"),
    "scales": ("By the number K of scales or inputs", "K"),
}


def scaling() -> list[Part]:
    records = [r for r in found("scaling.jsonl") if "p50_ms" in r]
    if not records:
        return [missing("python -m benchmarks.scaling --output benchmarks/results/scaling.jsonl")]
    parts: list[Part] = []
    for axis, (title, label) in AXES.items():
        along = [r for r in records if r["axis"] == axis]
        lines: Curves = {}
        for r in along:
            lines.setdefault((r["op"], r["pass"]), []).append((r["value"], r["p20_ms"], r["p50_ms"], r["p80_ms"]))
        if lines:
            drawn = figures.curves(lines, label, "milliseconds")
            caption = "The median time of a call, between the 20th and the 80th percentile."
            parts += [f"### {title}", Picture(f"scaling-{axis}", drawn, caption, record_of("scaling.jsonl", along))]
    along = [r for r in records if r["axis"] == "threads"]
    took: dict[tuple[str, str], dict[int, float]] = {}
    for r in along:
        took.setdefault((r["op"], f"{r['pass']}, {r['shape']}"), {})[r["value"]] = r["p50_ms"]
    faster: Rows = {
        key: {f"{count} threads": [ms[1] / ms[count]] for count in ms if count > 1}
        for key, ms in took.items()
        if 1 in ms
    }
    if faster:
        styles = dict(zip(dict.fromkeys(series for by in faster.values() for series in by), EVERYBODY.values()))
        drawn = figures.dots(faster, styles, "times as fast as one thread", log=False, one="as fast", below="slower")
        caption = "How many times as fast a call is with two threads as with one."
        parts += ["### By threads", Picture("scaling-threads", drawn, caption, record_of("scaling.jsonl", along))]
    return parts


def bytes_moved() -> list[Part]:
    counts = found("traffic.json")
    if not counts:
        return [missing("TRITON_INTERPRET=1 python -m benchmarks.traffic")]
    lines: Rows = {}
    for r in sorted(counts, key=lambda r: (r["case"], r["pass"] != "forward")):
        op, _, case = r["case"].partition(": ")
        lines.setdefault((op, f"{case}, {r['pass']}"), {}).setdefault(r["who"], []).append(r["sectors"])
    drawn = figures.dots(lines, EVERYBODY, "bytes moved over the least possible", one="the least")
    said = record_of("traffic.json") + ", by `TRITON_INTERPRET=1 python -m benchmarks.traffic`: counted, not timed."
    return [
        "The least is every input read once and every output written once; bytes are counted in sectors of 32.",
        Picture("bytes", drawn, "What a pass moves on a GPU, in units of the least.", said),
        Folded("The table", traffic.table(counts)),
    ]


def networks() -> list[Part]:
    records = _networks()
    if not records:
        return [missing("python -m benchmarks.whole_networks")]
    panels: dict[str, list[tuple[str, float, str]]] = {}
    for quantity, key, text in (("time", "seconds", _seconds), ("peak memory", "peak_bytes", _mebibytes)):
        bars = panels.setdefault(quantity, [])
        for title in dict.fromkeys(r["network"] for r in records):
            bars.append((title, math.nan, ""))
            nets = {r["contestant"]: r for r in records if r["network"] == title}
            for name, net in nets.items():
                known = key in net and key in nets["official"]
                share = net[key] / nets["official"][key] if known else math.nan
                bars.append((name, share, text(net[key]) if known else "no record"))
    drawn = figures.bars(panels, "share of the official composition's")
    caption = "Whole networks, as a share of the official composition's; ours is blue."
    return [Picture("networks", drawn, caption, record_of("networks.jsonl", records)), whole_networks.table(records)]


# ---- on a GPU ----


def gpu_model() -> list[Part]:
    lines: Rows = {}
    for backend, who in (("triton", "Triton"), ("cuda", "CUDA C++")):
        for (op, pass_, dtype, _, _, gpu), (us, of_bytes) in report.predictions(backend).items():
            if dtype == "float16" and gpu == "H100":
                lines.setdefault((op, pass_), {}).setdefault(who, []).append(of_bytes / us)
    if not lines:
        return [missing("python -m benchmarks.gpu.model")]
    drawn = figures.dots(in_order(lines), BACKENDS, "share of the bandwidth of a copy", log=False, one="bandwidth")
    said = record_of("gpu_model.json") + " and `gpu_model_cuda.json`, by `python -m benchmarks.gpu.model` and "
    said += "`python -m benchmarks.gpu.cuda.model`, which need no GPU."
    caption = (
        "What the model says of an H100 in float16: the share of a pass's time that its bytes take at full bandwidth."
    )
    return [
        "A model, no measurement: of each launch the longest of its bytes, its instructions and its waiting. Its times "
        "are microseconds, and in brackets the share of bandwidth.",
        Picture("gpu-model", drawn, caption + " A mark for each shape and layout.", said),
        Folded("Triton, by GPU", report.gpu_model()),
    ]


def gpu_record() -> list[Part]:
    records = [r for r in report.gpu_records() if r["stage"] in ("kernels", "baselines", "networks")]
    timed = [r for r in records if "p50_us" in r]
    if not timed:
        return [missing("python -m benchmarks.gpu all")]
    said = record_of(", ".join(path.name for path in sorted(report.RESULTS.glob("gpu-*.jsonl"))), records)
    parts: list[Part] = []
    lines: Rows = {}
    for (_, op, pass_, *_), us in _on_a_gpu(timed).items():
        for over, whom in zip(OVER, ("eager", "compiled")):
            if {"Triton", whom} <= set(us):
                lines.setdefault((op, pass_), {}).setdefault(over, []).append(us[whom] / us["Triton"])
    if lines:
        drawn = figures.dots(in_order(lines), OVER, "times as fast", one="as fast", below=SLOWER)
        caption = (
            "How many times as fast the Triton kernels are on the GPU, in float16; a mark for each shape and layout."
        )
        parts += ["### Speed-up", Picture("gpu-speed-up", drawn, caption, said)]
    parts += [Folded("Microseconds at the finest and the coarsest level", report.gpu(report.gpu_records()))]
    points = {}
    for backend, who in (("triton", "Triton"), ("cuda", "CUDA C++")):
        took = report.measured_on_h200(backend)
        model = report.modelled_on(report.predictions(backend), "H200")
        both = [key for key in took if key in model]
        if both:
            points[who] = [model[key] for key in both], [took[key] for key in both]
    if points:
        drawn = figures.scatter(points, BACKENDS, "predicted, microseconds", "measured, microseconds")
        near = {who: (sum(1 / 1.3 <= y / x <= 1.3 for x, y in zip(*xy)), len(xy[0])) for who, xy in points.items()}
        counts = " and ".join(f"{inside} of {count} passes of {who}" for who, (inside, count) in near.items())
        caption = f"What an H200 took in float16 against what the model says of one: {counts} lie within 30 %."
        parts += ["### Measured against the model", Picture("gpu-agreement", drawn, caption, said)]
        if len(points) == 2:
            parts.append(Folded("By operation, with the model of CUDA C++", report.gpu_model_cuda()))
    if order := report.gpu_order(records):
        parts += ["### Triton beside CUDA C++", order]
    if modules := report.gpu_networks(records):
        parts += ["### Modules and an up-path", modules]
    return parts


def _on_a_gpu(timed: Iterable[Record]) -> dict[tuple[str, ...], dict[str, float]]:
    """The microseconds of each call in float16, by who computes; of several the last."""
    us: dict[tuple[str, ...], dict[str, float]] = {}
    for r in timed:
        who = report.ON_A_GPU.get(f"{r['stage']} {r.get('backend')}")
        if who and r["dtype"] == "float16":
            us.setdefault(tuple(r[k] for k in ("device", "op", "pass", "layout", "shape")), {})[who] = r["p50_us"]
    return us


def _table_of_slower(lines: list[list[str]]) -> str:
    header = ["workload", "than", "ours", "theirs", "times as fast, or as small"]
    return (
        table(header, sorted(lines, key=lambda line: (float(line[-1]), line))) if lines else "None of what is recorded."
    )


def _slower_on_a_gpu() -> list[list[str]]:
    """Where eager or torch.compile takes less time than Triton."""
    calls = _on_a_gpu(r for r in report.gpu_records() if "p50_us" in r).items()
    return [
        [
            f"`{op}`, {pass_}, {layout}, {shape}, {device}",
            *(whom, f"{us['Triton']:.1f} us", f"{us[whom]:.1f} us", f"{us[whom] / us['Triton']:.3f}"),
        ]
        for (device, op, pass_, layout, shape), us in calls
        for whom in us.keys() - {"Triton", "CUDA C++"}
        if "Triton" in us and us[whom] < us["Triton"]
    ]


def _slower_networks() -> list[list[str]]:
    """Where the official composition or torch.compile of it takes less time or memory."""
    records, lines = _networks(), []
    for r in (r for r in records if r["contestant"].startswith("afa_kernels")):
        for other in (o for o in records if o["network"] == r["network"] and o["contestant"].startswith("official")):
            for key, text in (("seconds", _seconds), ("peak_bytes", _mebibytes)):
                if key in r and key in other and other[key] < r[key]:
                    what = [f"{r['network']}: {r['contestant']}", other["contestant"], text(r[key]), text(other[key])]
                    lines.append([*what, f"{other[key] / r[key]:.3f}"])
    return lines


def _networks() -> list[Record]:
    path = report.RESULTS / "networks.jsonl"
    return whole_networks.newest(path) if path.exists() else []


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.0f} MB"


def _mebibytes(value: float) -> str:
    return f"{value / report.MEBIBYTE:.0f} MiB"


SECTIONS: dict[str, tuple[str, Callable[[], list[Part]]]] = {
    "allocators": ("Speed-up, allocators side by side", allocators),
    "shapes": ("Speed-up by shape", shapes),
    "real-shapes": ("Speed-up at the shapes of real networks", real_shapes),
    "slower": ("Where afa_kernels is slower", slower),
    "limit": ("Fraction of the machine's limit", limit),
    "memory": ("Memory", memory_use),
    "scaling": ("Cost against size, scales and threads", scaling),
    "bytes": ("Bytes", bytes_moved),
    "networks": ("Whole networks", networks),
    "gpu-model": ("The model of a GPU", gpu_model),
    "gpu": ("The record of a GPU", gpu_record),
}
