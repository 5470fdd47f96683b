"""The tables of docs/training.md, of the records that the training scripts wrote: python -m examples.tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

Record = dict[str, Any]


def read(name: str) -> Record:
    return json.loads((HERE / name).read_text())


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *(len(header) - 1) * ["---:"]], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(rows: Sequence[Record], key: str) -> str:
    """The mean over the seeds and their standard deviation."""
    values = [row[key] for row in rows]
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} \N{PLUS-MINUS SIGN} {statistics.stdev(values):.2f}"


def grouped(rows: Sequence[Record], key: str) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def boundary_scales() -> str:
    record = read("boundary_detection/record.json")
    exact = {row["fusion"]: row for row in record["exact"]}
    header = ["scales fused by", "ODS, fast", "OIS, fast", "F of an image above mean's", "standard error"]
    rows = []
    for name, of in grouped(record["fast"], "fusion").items():
        above = [spread(of, "f_above_mean"), f"{statistics.mean(row['standard_error'] for row in of):.2f}"]
        rows.append([name, spread(of, "ods"), spread(of, "ois"), *(["-", "-"] if name == "mean" else above)])
        if exact:
            rows[-1] += [f"{exact[name][key]:.2f}" if name in exact else "-" for key in ("ods", "ois")]
    return markdown(header + (["ODS, exact", "OIS, exact"] if exact else []), rows)


def nuclei_scales() -> str:
    rows = read("segmentation/record.json")["rows"]
    keys = ("miou", "background", "nucleus", "boundary", "nuclei_f")
    return markdown(
        ["scales fused by", "mean IoU", "background", "nucleus", "boundary", "F of nuclei"],
        [[row["scales"], *(f"{row[key]:.2f}" for key in keys)] for row in rows],
    )


def camvid_scales() -> str:
    rows = read("segmentation/camvid.json")["rows"]
    keys = [key for key in rows[0] if key != "scales"]
    names = ["mean IoU" if key == "miou" else key for key in keys]
    return markdown(
        ["scales fused by", *names], [[row["scales"], *(f"{row[key]:.1f}" for key in keys)] for row in rows]
    )


def levels(rows: Sequence[Record]) -> str:
    """Of the rows of a record that examples.segmentation.train --compare wrote."""
    table = [
        [
            name,
            *(spread(of, key) for key in ("miou", "boundary", "nuclei_f")),
            str(of[0]["parameters"]),
            f"{statistics.mean(row['train_cpu_s'] for row in of):.0f}",
        ]
        for name, of in grouped(rows, "levels").items()
    ]
    return markdown(["levels fused by", "mean IoU", "IoU of boundary", "F of nuclei", "parameters", "CPU-s"], table)


def nuclei_levels() -> str:
    return levels(read("segmentation/fusions.json")["rows"])


TABLES: tuple[Callable[[], str], ...] = (boundary_scales, nuclei_scales, camvid_scales, nuclei_levels)

if __name__ == "__main__":
    for table in TABLES:
        print(f"\n{table.__name__}\n\n{table()}")
