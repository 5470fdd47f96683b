"""The backend "reference" against what one writes in PyTorch: no slower and no larger, where no library was built.

python -m benchmarks.reference      into benchmarks/results/reference.jsonl, and a table
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from pathlib import Path

import torch

import afa_kernels
from afa_kernels.testing import alternate, listed, operations, peak_bytes, saved_bytes
from benchmarks.run import ROOT, Record, circumstances
from benchmarks.workload import Workload, workloads


def measure(workload: Workload, seconds: float) -> Record:
    """What the reference takes as a multiple of eager: time (median of the pairs' ratios), peak and saved bytes."""
    arguments = workload.inputs()
    functions = {"eager": workload.eager(), "reference": workload.ours()}
    with afa_kernels.use_backend("reference"):
        with torch.no_grad():
            upstream = workload.upstream(listed(functions["reference"](*arguments)))
        steps = {name: functools.partial(workload.step, f, arguments, upstream) for name, f in functions.items()}
        times = alternate(steps, seconds)
        peaks = {name: peak_bytes(step) for name, step in steps.items()}
        record: Record = {
            **workload.described(),
            "time": statistics.median(ours / theirs for ours, theirs in zip(times["reference"], times["eager"])),
            "repeats": len(times["eager"]),
            "peak_bytes": peaks,
            "peak": peaks["reference"] / peaks["eager"],
        }
        if workload.training:
            record["saved_bytes"] = {n: saved_bytes(functools.partial(f, *arguments)) for n, f in functions.items()}
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "reference.jsonl")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--op", choices=operations(), nargs="*", default=operations())
    asked = parser.parse_args()
    where = {**circumstances(), "command": "python -m benchmarks.reference"}
    lines = []
    for workload in workloads("quick"):
        if workload.case.op in asked.op:
            record = measure(workload, asked.seconds)
            lines.append(json.dumps({**record, **where}))
            print(f"{workload!s:70} time {record['time']:5.2f}  peak {record['peak']:5.2f}", flush=True)
    asked.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
