"""Turn the records of a benchmark run into Markdown.

    python -m benchmarks.report                                 the newest run in benchmarks/results, every shape
    python -m benchmarks.report --write README.md               and its geometric means between the markers of that file
    python -m benchmarks.report --output benchmarks/results/cpu.md

The markers are <!-- benchmark:begin --> and <!-- benchmark:end -->.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
ALLOCATORS = ("default", "THP")  # by the value of THP_MEM_ALLOC_ENABLE
MEBIBYTE = 2**20

Record = dict[str, Any]


def load(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def newest(folder: Path) -> Path:
    """The run that began last, by its own date."""
    runs = {path: records for path in folder.glob("*.jsonl") if "style" not in (records := load(path))[0]}
    if not runs:
        raise SystemExit(f"no benchmark run in {folder}; make one with: python -m benchmarks.run")
    return max(runs, key=lambda path: runs[path][0]["date"])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the columns after "shape" hold numbers."""
    aligned = ["---:" if i > header.index("shape") else "---" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, aligned, *rows))


def by_contestant(records: Iterable[Record]) -> list[dict[str, Record]]:
    """The records of each workload and allocator setting, by contestant; a refused workload has one, "refused"."""
    found: dict[tuple[Any, ...], dict[str, Record]] = {}
    for r in records:
        key = (r["op"], r["pass"], r["layout"], r["shape"], r["thp"])
        found.setdefault(key, {})[r.get("contestant", "refused")] = r
    return list(found.values())


def line(entry: dict[str, Record]) -> list[str]:
    """A row of the table of `operation`."""
    any_record = next(iter(entry.values()))
    begin = [any_record["pass"], any_record["layout"], ALLOCATORS[any_record["thp"]], any_record["shape"]]
    if "refused" in entry:
        return [*begin, "refused: " + any_record["refused"].replace("|", "/"), *7 * [""]]
    contestants = [entry[name] for name in ("eager", "compiled", "afa_kernels")]
    ours = entry["afa_kernels"]
    return [
        *begin,
        *(f"{r['p50_ms']:.2f}" for r in contestants),
        f"{ours['speedup_over_eager']:.2f}",
        f"{ours['speedup_over_compiled']:.2f}",
        " / ".join(f"{r['peak_bytes'] / MEBIBYTE:.1f}" for r in contestants),
        f"{ours['moved_bytes'] / ours['least_bytes']:.2f}",
        f"{ours['least_gigabytes_per_second']:.1f}",
    ]


def operation(entries: list[dict[str, Record]]) -> str:
    header = ["pass", "layout", "allocator", "shape", "eager ms", "compiled ms", "afa_kernels ms"]
    header += ["vs eager", "vs compiled", "peak MiB", "moved / least", "GB/s"]
    return table(header, [line(entry) for entry in entries])


def means(entries: Iterable[dict[str, Record]]) -> str:
    """The geometric means of the ratios over the shapes, for each operation, pass, layout and allocator."""
    groups: dict[tuple[str, str, str], dict[int, list[dict[str, Record]]]] = {}
    for entry in entries:
        if "refused" not in entry:
            r = entry["afa_kernels"]
            groups.setdefault((r["op"], r["pass"], r["layout"]), {}).setdefault(r["thp"], []).append(entry)
    rows = []
    for (op, pass_name, layout), thp, group in ((key, thp, g) for key, of in groups.items() for thp, g in of.items()):
        ratios = [
            [e["afa_kernels"]["speedup_over_eager"] for e in group],
            [e["afa_kernels"]["speedup_over_compiled"] for e in group],
            [e["eager"]["peak_bytes"] / e["afa_kernels"]["peak_bytes"] for e in group],
        ]
        shape = group[0]["eager"]["shape"] if len(group) == 1 else f"{len(group)} shapes"
        row = [f"`{op}`", pass_name, layout, ALLOCATORS[thp], shape]
        rows.append(row + [f"{statistics.geometric_mean(ratio):.2f}" for ratio in ratios])
    header = ["operation", "pass", "layout", "allocator", "shape", "vs eager", "vs compiled", "memory"]
    return table(header, rows)


def origin(records: list[Record]) -> str:
    """Where, when and how the records were made."""
    first = records[0]
    runs = dict.fromkeys((r["command"], (r["commit"] or "no commit")[:12], r["date"][:10]) for r in records)
    made = " and ".join(f"`{command}` at {commit} on {date}" for command, commit, date in runs)
    return (
        f"{first['device']}, {first['threads']} threads, float32; torch {first['torch']}, triton {first['triton']}, "
        f'afa_kernels {first["version"]}: {made}. Medians of alternating calls; "vs" is how many times as fast '
        "afa_kernels is. The allocator is torch's default, or with `THP_MEM_ALLOC_ENABLE=1`."
    )


def summary(records: list[Record]) -> str:
    """What README.md shows."""
    explained = "Geometric means over the shapes; memory is eager's peak in one call divided by that of afa_kernels."
    parts = [f"{origin(records)} {explained}", means(by_contestant(r for r in records if r["op"] != "import"))]
    imports = {r["contestant"]: r for r in records if r["op"] == "import"}
    if imports:
        torch_ms, added_ms = imports["torch"]["p50_ms"], imports["afa_kernels after torch"]["p50_ms"]
        parts.append(f"`import afa_kernels` adds {added_ms:.0f} ms to the {torch_ms:.0f} ms of `import torch`.")
    return "\n\n".join(parts)


def report(records: list[Record]) -> str:
    """Every shape."""
    parts = [
        origin(records),
        "Peak MiB is what one call holds at most in tensors it allocates, its results included: eager / compiled / "
        "afa_kernels. Moved / least is the bytes our kernels move against inputs read once and outputs written once, "
        "and GB/s counts the latter.",
    ]
    entries = by_contestant(r for r in records if r["op"] != "import")
    for op in dict.fromkeys(next(iter(entry.values()))["op"] for entry in entries):
        parts.append(f"## {op}")
        parts.append(operation([entry for entry in entries if next(iter(entry.values()))["op"] == op]))
    return "\n\n".join(parts)


def write(path: Path, text: str) -> None:
    """Replace what stands between the markers of the file."""
    old = path.read_text()
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise SystemExit(f"{path} must contain one {BEGIN} and after it one {END}")
    before, rest = old.split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="?", type=Path, help="default: the newest run in benchmarks/results")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the geometric means between FILE's markers")
    parser.add_argument("--output", type=Path, metavar="FILE", help="put the tables into FILE instead of printing them")
    arguments = parser.parse_args()
    records = load(arguments.records or newest(RESULTS))
    if arguments.write:
        write(arguments.write, summary(records))
    text = f"# Benchmark\n\n{report(records)}\n"
    if arguments.output:
        arguments.output.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
