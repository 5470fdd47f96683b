"""Turn the records in benchmarks/results into Markdown.

    python -m benchmarks.report                                       the newest run on the CPU, every shape
    python -m benchmarks.report --output benchmarks/results/cpu.md    the same into a file
    python -m benchmarks.report --write README.md docs/benchmarks.md docs/networks.md docs/verification.md

The last replaces what stands in the files between <!-- NAME:begin --> and <!-- NAME:end -->. A NAME is one of

    headline            ten figures of the newest run
    benchmark           its geometric means
    full                the speed-ups at the shapes of real networks, where memory is reused
    tiny                what a call takes on maps of 16 x 16
    inference-memory    multi-scale inference by the number of scales
    training-memory     a training step of an up-path
    networks            whole networks against the official composition
    traffic             bytes and kernels, counted
    gpu                 what a GPU recorded of the operations, in float16 at the finest and the coarsest level
    gpu-order           Triton beside CUDA C++, by the same record, and which comes first
    gpu-networks        what a GPU recorded of modules and an up-path
    gpu-model           what the model of a GPU predicts of the Triton kernels
    gpu-model-cuda      what it predicts of the CUDA kernels beside these, and what a GPU measured of it
    gpu-model-odd       what it predicts of the CUDA kernels for a map of odd size beside the next larger even one
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import memory, ops, whole_networks
from benchmarks.ops._shapes import LAYOUTS
from benchmarks.run import ALLOCATORS
from benchmarks.traffic import ours as traffic

RESULTS = Path(__file__).parent / "results"
# (operation, pass, layout), of the README
HEADLINES = (
    ("attentive_fusion", "forward", "NCHW"),
    ("attentive_fusion", "training step", "NCHW"),
    ("attentive_fusion", "training step", "channels_last"),
    ("progressive_fusion", "training step", "NCHW"),
    ("bn_relu_project", "training step", "NCHW"),
    ("channel_attention", "training step", "NCHW"),
    ("scale_space_render", "forward", "NCHW"),
    ("scale_space_labels", "forward", "NCHW"),
    ("scale_space_cross_entropy", "training step", "NCHW"),
    ("hierarchical_fusion", "training step", "NCHW"),
)
MEBIBYTE = 2**20

Record = dict[str, Any]
Predictions = dict[tuple[str, ...], tuple[float, float]]  # by operation, pass, type, layout, shape and GPU


def load(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def newest(folder: Path) -> Path:
    """Return the CPU's run that began last, by its own date; one of other shapes, `--full` or `--tiny`, is none."""
    runs = {
        path: found
        for path in folder.glob("*.jsonl")
        if {"allocator", "op", "contestant"} <= (found := load(path))[0].keys() and "style" not in found[0]
        if not {"--full", "--tiny"} & {*found[0]["command"].split()}
    }
    if not runs:
        raise SystemExit(f"no benchmark run in {folder}; make one with: python -m benchmarks.run")
    return max(runs, key=lambda path: runs[path][0]["date"])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the columns after "shape", or after the first, hold numbers."""
    last_of_text = header.index("shape") if "shape" in header else 0
    aligned = ["---:" if i > last_of_text else "---" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, aligned, *rows))


def of_workloads(records: Iterable[Record]) -> list[Record]:
    """The records of operations and stages, without what import takes and what memory gives."""
    return [r for r in records if r["op"] not in ("import", "limit")]


def by_contestant(records: Iterable[Record]) -> list[dict[str, Record]]:
    """The records of each workload and allocator setting, by contestant; a refused workload has one, "refused".

    One at which a run was killed is left out: it lacks what is measured last.
    """
    found: dict[tuple[Any, ...], dict[str, Record]] = {}
    for r in records:
        key = tuple(r[name] for name in ("op", "pass", "layout", "shape", "dtype", "allocator"))
        found.setdefault(key, {})[r.get("contestant", "refused")] = r
    return [entry for entry in found.values() if entry.keys() & {"afa_kernels", "refused"}]


def line(entry: dict[str, Record]) -> list[str]:
    """A row of the table of `operation`."""
    any_record = next(iter(entry.values()))
    begin = [any_record[key] for key in ("pass", "layout", "dtype", "allocator", "shape")]
    if "refused" in entry:
        return [*begin, "refused: " + any_record["refused"].replace("|", "/"), *8 * [""]]
    contestants = [entry[name] for name in ("eager", "compiled", "afa_kernels")]
    ours = entry["afa_kernels"]
    return [
        *begin,
        *(f"{r['p50_ms']:.2f}" for r in contestants),
        f"{ours['speedup_over_eager']:.2f}",
        f"{ours['speedup_over_compiled']:.2f}",
        " / ".join(f"{r['peak_bytes'] / MEBIBYTE:.1f}" for r in contestants),
        f"{ours['moved_bytes'] / ours['least_bytes']:.2f}" if "moved_bytes" in ours else "-",
        f"{ours['least_gigabytes_per_second']:.1f}",
        f"{ours['limit_share']:.2f}" if "limit_share" in ours else "-",
    ]


def operation(entries: list[dict[str, Record]]) -> str:
    header = ["pass", "layout", "dtype", "allocator", "shape", "eager ms", "compiled ms", "afa_kernels ms"]
    header += ["vs eager", "vs compiled", "peak MiB", "moved / least", "GB/s", "share of the limit"]
    return table(header, [line(entry) for entry in entries])


def groups(entries: Iterable[dict[str, Record]]) -> dict[tuple[str, str, str], dict[str, list[dict[str, Record]]]]:
    """Return the workloads by operation, pass and layout, then by allocator; those refused are left out."""
    found: dict[tuple[str, str, str], dict[str, list[dict[str, Record]]]] = {}
    for entry in entries:
        if "refused" not in entry:
            r = entry["afa_kernels"]
            found.setdefault((r["op"], r["pass"], r["layout"]), {}).setdefault(r["allocator"], []).append(entry)
    return found


def ratios(group: list[dict[str, Record]]) -> list[float]:
    """Return the geometric means: the speed-up over eager and over compiled, and eager's peak memory over ours."""
    return [
        statistics.geometric_mean(of_each)
        for of_each in (
            [e["afa_kernels"]["speedup_over_eager"] for e in group],
            [e["afa_kernels"]["speedup_over_compiled"] for e in group],
            [_over(e["eager"]["peak_bytes"], e["afa_kernels"]["peak_bytes"]) for e in group],
        )
    ]


def _over(theirs: int, ours: int) -> float:
    return theirs / ours if ours else math.inf  # where a call in place holds nothing


def means(entries: Iterable[dict[str, Record]]) -> str:
    """The geometric means of the ratios over the shapes, for each operation, pass, layout and allocator."""
    rows = []
    for (op, pass_name, layout), by_allocator in groups(entries).items():
        for allocator, group in by_allocator.items():
            shape = group[0]["eager"]["shape"] if len(group) == 1 else f"{len(group)} shapes"
            row = [f"`{op}`", pass_name, layout, allocator, shape]
            rows.append(row + [f"{ratio:.2f}" if ratio < math.inf else "holds none" for ratio in ratios(group)])
    header = ["operation", "pass", "layout", "allocator", "shape", "vs eager", "vs compiled", "memory"]
    return table(header, rows)


def headline(records: list[Record]) -> str:
    """The figures of HEADLINES, by allocator."""
    found = groups(by_contestant(of_workloads(records)))
    lines = ["| operation | pass | layout | vs eager | vs torch.compile | memory |", "|---|---|---|---:|---:|---:|"]
    for op, pass_name, layout in HEADLINES:
        by_allocator = {name: ratios(group) for name, group in found.get((op, pass_name, layout), {}).items()}
        if not set(ALLOCATORS) <= set(by_allocator):
            raise SystemExit(f"the record has no {pass_name} of {op} in {layout}: python -m benchmarks.run --op {op}")
        eager, compiled = (" / ".join(f"{by_allocator[name][i]:.1f}" for name in ALLOCATORS) for i in (0, 1))
        lines.append(f"| `{op}` | {pass_name} | {layout} | {eager} | {compiled} | {by_allocator['default'][2]:.1f} |")
    first = of_workloads(records)[0]
    return "\n".join(
        (
            f"{first['device']}, {first['threads']} threads, float32, torch {first['torch']}; times as fast with the "
            "default allocator / with 2 MiB pages for everybody / with memory that is reused; memory: eager's peak "
            "over that of afa_kernels.",
            "",
            *lines,
        )
    )


def runs(records: Sequence[Record]) -> str:
    """The commands that made the records, of which commit and when; of many the last."""
    found = dict.fromkeys((r["command"], (r["commit"] or "no commit")[:12], r["date"][:10]) for r in records)
    if len(found) <= 4:
        return " and ".join(f"`{command}` at {commit} on {date}" for command, commit, date in found)
    first, last = min(records, key=lambda r: r["date"]), max(records, key=lambda r: r["date"])
    days = " to ".join(dict.fromkeys((first["date"][:10], last["date"][:10])))
    return f"{len(found)} runs, {days}, the last `{last['command']}` at {(last['commit'] or 'no commit')[:12]}"


def origin(records: list[Record]) -> str:
    """Where, when and how the records were made."""
    first = of_workloads(records)[0]
    dtypes = " and ".join(dict.fromkeys(r["dtype"] for r in of_workloads(records)))
    return (
        f"{first['device']}, {first['threads']} threads, {dtypes}; torch {first['torch']}, triton {first['triton']}, "
        f'afa_kernels {first["version"]}: {runs(records)}. Medians of alternating calls; "vs" is how many times as '
        "fast afa_kernels is. The allocators are those of benchmarks/run.py: torch's default, "
        "`THP_MEM_ALLOC_ENABLE=1`, and memory that is reused."
    )


def summary(records: list[Record]) -> str:
    """The geometric means, what import takes, and which operations have no record yet."""
    explained = "Geometric means over the shapes; memory is eager's peak in one call divided by that of afa_kernels."
    parts = [f"{origin(records)} {explained}", means(by_contestant(of_workloads(records)))]
    imports = {r["contestant"]: r for r in records if r["op"] == "import"}
    if imports:
        torch_ms, added_ms = imports["torch"]["p50_ms"], imports["afa_kernels after torch"]["p50_ms"]
        parts.append(f"`import afa_kernels` adds {added_ms:.0f} ms to the {torch_ms:.0f} ms of `import torch`.")
    missing = [op for op in ops.every() if op not in {r["op"] for r in records}]
    if missing:
        parts.append(f"Not measured yet: {', '.join(f'`{op}`' for op in missing)}.")
    return "\n\n".join(parts)


def full() -> str:
    """The speed-ups at the shapes of real networks, and where torch.compile comes nearest."""
    records = of_workloads(load(RESULTS / "cpu-full.jsonl"))
    calls: dict[tuple[str, ...], list[dict[str, Record]]] = {}
    for entry in by_contestant(records):
        if "refused" not in entry:
            call = tuple(entry["eager"][key] for key in ("op", "pass", "layout", "dtype"))
            calls.setdefault(call, []).append(entry)
    rows = []
    for call, entries in calls.items():
        over = {
            name: [e[name]["p50_ms"] / e["afa_kernels"]["p50_ms"] for e in entries]
            for name in ("eager", "compiled", "compiled, max-autotune")
        }
        nearest = min(range(len(entries)), key=lambda i: over["compiled"][i])
        least = f"{over['compiled'][nearest]:.2f} at {entries[nearest]['eager']['shape']}"
        gains = [f"{statistics.geometric_mean(of_each):.2f}" for of_each in over.values()]
        rows.append([f"`{call[0]}`", *call[1:], f"{len(entries)} shapes", *gains, least])
    header = ["operation", "pass", "layout", "type", "shape", "vs eager", "vs compiled", "vs max-autotune"]
    return f"{origin(records)}\n\n{table([*header, 'least vs compiled'], rows)}"


def tiny() -> str:
    """What a call takes on maps of 16 x 16."""
    records = of_workloads(load(RESULTS / "cpu-tiny.jsonl"))
    rows = [
        [
            *(f"`{ours['op']}`", ours["pass"], ours["layout"], ours["shape"]),
            *(f"{1e3 * entry[name]['p50_ms']:.0f}" for name in ("eager", "compiled", "afa_kernels")),
            *(f"{ours[key]:.2f}" for key in ("speedup_over_eager", "speedup_over_compiled")),
        ]
        for entry in by_contestant(records)
        for ours in [entry["afa_kernels"]]
    ]
    header = ["operation", "pass", "layout", "shape", "eager us", "compiled us", "afa_kernels us"]
    return f"{origin(records)}\n\n{table([*header, 'vs eager', 'vs compiled'], rows)}"


def report(records: list[Record]) -> str:
    """Every shape."""
    parts = [
        origin(records),
        "Peak MiB is what one call holds at most in tensors it allocates, its results included: eager / compiled / "
        "afa_kernels. Moved / least is the bytes our kernels move against inputs read once and outputs written once, "
        "and GB/s counts the latter. The limit is a = b + s * c with streaming stores, right before or after.",
    ]
    entries = by_contestant(of_workloads(records))
    for op in dict.fromkeys(next(iter(entry.values()))["op"] for entry in entries):
        parts.append(f"## {op}")
        parts.append(operation([entry for entry in entries if next(iter(entry.values()))["op"] == op]))
    return "\n\n".join(parts)


def gpu_records() -> list[Record]:
    return [record for path in sorted(RESULTS.glob("gpu-*.jsonl")) for record in load(path)]


FINE_AND_COARSE = ("1x32x512x1024", "1x256x64x128", "1x19x1024x2048", "1x2x512x1024", "1x5x512x1024")
ON_A_GPU = {"kernels triton": "Triton", "kernels cuda": "CUDA C++", "baselines eager": "eager"}
ON_A_GPU |= {"baselines compiled": "compiled", "baselines compiled max-autotune": "max-autotune"}


def gpu(records: list[Record]) -> str:
    """Median microseconds on a GPU by who computes; of several records of the same the last."""
    devices = dict.fromkeys(r["device"] for r in records if "p50_us" in r)
    return "\n\n".join(_of_gpu(device, [r for r in records if r["device"] == device]) for device in devices)


def _of_gpu(device: str, records: list[Record]) -> str:
    rows: dict[tuple[str, ...], dict[str, Record]] = {}
    keys = ("op", "pass", "dtype", "layout", "shape")
    for r in records:
        who = ON_A_GPU.get(f"{r['stage']} {r.get('backend')}")
        if "p50_us" in r and who and r["dtype"] == "float16" and r["shape"].split(",")[0] in FINE_AND_COARSE:
            rows.setdefault(tuple(r[key] for key in keys), {})[who] = r
    everyone = [who for who in ON_A_GPU.values() if any(who in found for found in rows.values())]
    model, lines = predictions(), []
    for key, found in sorted(rows.items(), key=lambda row: row[0][0]):
        mine = found.get("Triton")
        times = [f"{found[who]['p50_us']:.1f}" if who in found else "-" for who in everyone]
        gains = [
            f"{found[who]['p50_us'] / mine['p50_us']:.2f}" if mine and who in found else "-"
            for who in ("eager", "compiled")
        ]
        copy = f"{mine['copy_us']:.1f}" if mine and "copy_us" in mine else "-"
        cpu = f"{mine['cpu_us']:.0f}" if mine else "-"
        op, name, _, layout, shape = key
        lines.append([f"`{op}`", name, layout, shape, *times, *gains, copy, _predicted(model, device, *key), cpu])
    header = ["operation", "pass", "layout", "shape", *(f"{who} us" for who in everyone)]
    header += ["eager / Triton", "compiled / Triton", "a copy us", "model us", "CPU us"]
    last = records[-1]
    refused = sum("refused" in r for r in records)
    said = (
        f"{device}, torch {last['torch']}, triton {last['triton']}, {last['date'][:10]}. Median GPU time in float16, "
        "the L2 cold and without gaps between launches. A copy is of as many bytes as the pass must move; CPU us is "
        f"the time of the call on the CPU. {refused} timings refused for wrong values."
    )
    return f"{said}\n\n{table(header, lines)}"


def cuda_over_triton(records: list[Record]) -> dict[str, dict[str, float]]:
    """The time of CUDA C++ over Triton's, of every operation and pass: geometric means over what both have run.

    Of several records of the same the last.
    """
    runs: dict[tuple[str, ...], dict[str, float]] = {}
    for r in records:
        if r["stage"] == "kernels" and "p50_us" in r:
            call = r["op"], r["pass"], *(r[key] for key in ("device", "dtype", "layout", "shape"))
            runs.setdefault(call, {})[r["backend"]] = r["p50_us"]
    found: dict[str, dict[str, list[float]]] = {}
    for (op, pass_, *_), us in runs.items():
        if {"triton", "cuda"} <= set(us):
            found.setdefault(op, {}).setdefault(pass_, []).append(us["cuda"] / us["triton"])
    return {op: {name: statistics.geometric_mean(r) for name, r in of.items()} for op, of in sorted(found.items())}


def gpu_order(records: list[Record]) -> str:
    """What `backends.ORDER` follows: the backend that takes the shorter time, its passes' mean."""
    lines = []
    for op, of in cuda_over_triton(records).items():
        first = "triton" if statistics.geometric_mean(of.values()) > 1 else "cuda"
        lines.append(
            [f"`{op}`", *(f"{of[name]:.2f}" if name in of else "-" for name in ("forward", "backward")), first]
        )
    return table(["CUDA C++ / Triton", "forward", "backward", "first"], lines) if lines else ""


def gpu_networks(records: list[Record]) -> str:
    """Modules and an up-path on a GPU, against the official composition."""
    rows: dict[tuple[str, ...], dict[str, Record]] = {}
    for r in records:
        if r["stage"] == "networks" and "p50_us" in r:
            rows.setdefault((r["device"], r["op"], r["pass"], r["dtype"], r["layout"], r["shape"]), {})[
                r["backend"]
            ] = r
    whom = ("official composition", "official composition, compiled", "afa_kernels")
    lines = []
    for key, found in rows.items():
        times = [f"{found[who]['p50_us']:.0f}" if who in found else "-" for who in whom]
        mine = found.get("afa_kernels")
        gains = [f"{found[w]['p50_us'] / mine['p50_us']:.2f}" if mine and w in found else "-" for w in whom[:2]]
        memory = [f"{found[who]['peak_bytes'] / 1e6:.0f}" if who in found else "-" for who in whom]
        lines.append([*key, *times, *gains, *memory])
    header = ["GPU", "what", "pass", "type", "layout", "shape", "official us", "compiled us", "afa_kernels us"]
    header += ["official / ours", "compiled / ours", "official MB", "compiled MB", "our MB"]
    return table(header, lines) if lines else ""


def _predicted(model: Predictions, device: str, op: str, pass_: str, dtype: str, *call: str) -> str:
    """The microseconds of a pass on the device, where the model knows it; with bfloat16 as with float16."""
    key = op, pass_, dtype.replace("bfloat16", "float16"), *call
    return next((f"{us:.1f}" for (*of, gpu), (us, _) in model.items() if tuple(of) == key and gpu in device), "-")


def predictions(backend: str = "triton") -> Predictions:
    """What `benchmarks.gpu` models of every pass of a backend: microseconds, and of these those of its bytes."""
    found: Predictions = {}
    for r in _modelled(backend):
        op, call = r["call"].split(": ")
        shape, _, layout = call.rpartition(", ")
        key = op, r["pass"], r["dtype"], LAYOUTS[layout], shape, r["gpu"]
        time, of_bytes = found.get(key, (0.0, 0.0))
        us = r["us"] * r["launches"]
        found[key] = time + us, of_bytes + r["share"] * us
    return found


def _modelled(backend: str) -> list[Record]:
    """The rows of the model's record; none where there is no record."""
    path = RESULTS / {"triton": "gpu_model.json", "cuda": "gpu_model_cuda.json"}[backend]
    record: Any = json.loads(path.read_text()) if path.exists() else []
    if isinstance(record, list):
        return record
    return [row for entry in record["operations"].values() for row in entry["rows"]]


def gpu_model() -> str:
    """The model's passes in float16 at the finest and the coarsest level; empty where there is no record."""
    found, lines = predictions(), []
    passes = [(name, gpu) for name in ("forward", "backward") for gpu in ("H100", "A100")]
    for op, layout, shape in _telling(found):
        said = [found.get((op, name, "float16", layout, shape, gpu)) for name, gpu in passes]
        cells = [f"{one[0]:.0f} ({one[1] / one[0]:.2f})" if one else "-" for one in said]
        lines.append([f"`{op}`", layout, shape, *cells])
    header = ["operation", "layout", "shape", *(f"{name}, {gpu}" for name, gpu in passes)]
    return table(header, lines) if lines else ""


def _telling(found: Iterable[tuple[str, ...]]) -> list[tuple[str, str, str]]:
    """The operations, layouts and shapes that the model's tables show."""
    calls = dict.fromkeys((op, layout, shape) for op, _, dtype, layout, shape, _ in found if dtype == "float16")
    shapes = ("1x32x512x1024", "1x256x64x128", "1x19x1024x2048")
    training = ("8x32x512x1024, training", "8x256x64x128, training")  # by statistics of a batch
    return [call for call in calls if call[2].split(",")[0] in shapes or call[2] in training]


# With ATen's kernels: its convolution, and what CUDA kernels have computed since.
OTHERWISE_MEASURED = ("bn_relu_conv2d", "channel_attention")
Times = dict[tuple[str, ...], float]  # microseconds by operation, pass, type, layout and shape


def gpu_model_cuda() -> str:
    """Both backends' passes on an H100, and how many times its prediction for an H200 the CUDA kernels took there."""
    triton, cuda, took, lines = predictions(), predictions("cuda"), measured_on_h200("cuda"), []
    if not cuda:
        return ""
    on_a100 = modelled_on(cuda, "A100")
    on_h100, on_h200 = [modelled_on(triton, "H100"), modelled_on(cuda, "H100")], modelled_on(cuda, "H200")
    for op, layout, shape in _telling(cuda):
        cells = []
        for name in ("forward", "backward"):
            half, single = ((op, name, dtype, layout, shape) for dtype in ("float16", "float32"))
            cells += [f"{us[half]:.0f} / {us[single]:.0f}" if half in us else "-" for us in on_h100]
            cells.append(f"{took[half] / on_h200[half]:.2f}" if half in took else "-")
            cells.append(f"{on_a100[half]:.0f} / {on_a100[single]:.0f}" if half in on_a100 else "-")
        lines.append([f"`{op}`", layout, shape, *cells])
    header = ["operation", "layout", "shape"]
    for name in ("forward", "backward"):
        header += [f"{name}, Triton", f"{name}, CUDA", f"{name}, measured / model", f"{name}, CUDA on an A100"]
    return f"{_agreement(modelled_on(triton, 'H200'), on_h200)}\n\n{table(header, lines)}"


def _agreement(triton: Times, cuda: Times) -> str:
    """How far what an H200 measured is from what the model says of one."""
    took, beside, mean = measured_on_h200("cuda"), measured_on_h200("triton"), statistics.geometric_mean
    both = [key for key in took if key in beside and key in cuda]
    off = [took[key] / cuda[key] for key in both]
    near = sum(1 / 1.3 <= ratio <= 1.3 for ratio in off)
    measured, modelled = mean(took[key] / beside[key] for key in both), mean(cuda[key] / triton[key] for key in both)
    return (
        f"Of {len(off)} passes in float16 that an H200 has measured, {near} took within 30 % of what the model says of "
        f"one: {min(off):.2f} to {max(off):.2f} times that, {mean(off):.2f} in the geometric mean. In that mean CUDA "
        f"took {measured:.2f} times as long as Triton, by the model {modelled:.2f}."
    )


def gpu_model_odd() -> str:
    """The CUDA kernels at an odd size, without accesses of 16 bytes, beside the even size next to it, on an H100."""
    found, lines = predictions("cuda"), []
    for op, benchmark in ops.every().items():
        if (call := getattr(benchmark, "ODD_CALL", None)) is None:
            continue
        even, odd = benchmark.gpu(False)[0].covers, call.covers
        for dtype in ("float16", "float32"):
            cells = []
            for name in ("forward", "backward"):
                times = [found[op, name, dtype, "NCHW", shape, "H100"] for shape in (even, odd)]
                cells += [f"{us:.0f} ({of_bytes / us:.2f})" for us, of_bytes in times]
                cells.append(f"{times[1][0] / times[0][0]:.2f}")
            lines.append([f"`{op}`", dtype, odd, *cells])
    header = ["operation", "type", "shape"]
    for name in ("forward", "backward"):
        header += [f"{name}, even", f"{name}, odd", "odd / even"]
    return table(header, lines)


def modelled_on(model: Predictions, gpu: str) -> Times:
    return {tuple(of): us for (*of, name), (us, _) in model.items() if name == gpu}


def measured_on_h200(backend: str) -> Times:
    """What passes of a backend took that were measured on an H200, in float16."""
    return {
        (r["op"], r["pass"], r["dtype"], r["layout"], r["shape"]): r["p50_us"]
        for r in gpu_records()
        if r["stage"] == "kernels" and r.get("backend") == backend and "p50_us" in r and "H200" in r["device"]
        if r["dtype"] == "float16" and r["op"] not in OTHERWISE_MEASURED
    }


TABLES: dict[str, Callable[[list[Record]], str]] = {
    "headline": headline,
    "benchmark": summary,
    "full": lambda run: full(),
    "inference-memory": lambda run: memory.inference_table(memory.load("inference")["found"]),
    "training-memory": lambda run: memory.training_table(memory.load("training")),
    "networks": lambda run: whole_networks.table(whole_networks.newest()),
    "traffic": lambda run: traffic.table(traffic.load()),
    "gpu": lambda run: gpu(gpu_records()),
    "gpu-order": lambda run: gpu_order(gpu_records()),
    "gpu-networks": lambda run: gpu_networks(gpu_records()),
    "gpu-model": lambda run: gpu_model(),
    "gpu-model-cuda": lambda run: gpu_model_cuda(),
    "gpu-model-odd": lambda run: gpu_model_odd(),
    "tiny": lambda run: tiny(),
}


def written(text: str, where: str, records: list[Record]) -> str:
    """Return the text with every table renewed."""
    marks = re.findall(r"<!-- ([a-z-]+):(begin|end) -->", text)
    names = [name for name, edge in marks[::2]]
    paired = marks == [(name, edge) for name in names for edge in ("begin", "end")]
    if not names or not paired or len(set(names)) < len(names) or not set(names) <= set(TABLES):
        raise SystemExit(
            f"{where} must have <!-- NAME:begin --> and <!-- NAME:end --> by turns, each NAME once, and a NAME must be "
            f"one of {', '.join(TABLES)}"
        )
    for name in names:
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        table = TABLES[name](records)
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{table}{table and chr(10) * 2}{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="?", type=Path, help="default: the newest run in benchmarks/results")
    parser.add_argument("--write", type=Path, nargs="+", default=[], metavar="FILE", help="renew the tables of files")
    parser.add_argument("--output", type=Path, metavar="FILE", help="put the tables into FILE instead of printing them")
    arguments = parser.parse_args()
    records = load(arguments.records or newest(RESULTS))
    for path in arguments.write:
        path.write_text(written(path.read_text(), str(path), records))
    text = f"# Benchmark\n\n{report(records)}\n"
    if arguments.output:
        arguments.output.write_text(text)
    elif not arguments.write:
        print(text)


if __name__ == "__main__":
    main()
