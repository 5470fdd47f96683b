"""Run stages, each in a process of its own that ends in time."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from collections.abc import Sequence

import torch

import benchmarks.gpu
from afa_kernels.testing import operations
from benchmarks.gpu.session import BUDGET, Session
from benchmarks.run import ROOT

STAGES = ("smoke", "values", "kernels", "baselines", "networks", "graphs", "sanitizer")
GRACE = 45.0  # seconds that the item which the end of the budget meets may take


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=benchmarks.gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stages", nargs="+", choices=(*STAGES, "all"), metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--output", help="append to this file; default: benchmarks/results/gpu-NAME.jsonl of a GPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of a stage; default: %(default)s")
    parser.add_argument("--op", nargs="+", choices=operations(), default=operations(), help="default: all")
    parser.add_argument("--in-process", action="store_true", help="one stage, in this process")
    return parser.parse_args(arguments)


def run_stage(session: Session) -> int:
    """Run a stage in this process; return 1 where something failed or was refused."""
    importlib.import_module(f"benchmarks.gpu.{session.stage}").run(session)
    return 1 if session.bad else 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA device; a dry run: --device cpu", file=sys.stderr)
        return 2
    output = options.output
    if output is None and options.device == "cuda":
        name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower())
        output = str(ROOT / "benchmarks" / "results" / f"gpu-{name}.jsonl")
    status = 0
    for stage in STAGES if "all" in options.stages else options.stages:
        session = Session(stage, options.device, output, options.budget, tuple(options.op))
        if options.in_process:
            status |= run_stage(session)
            continue
        command = [sys.executable, "-m", "benchmarks.gpu", stage, "--in-process", "--device", options.device]
        command += ["--budget", str(options.budget), *(["--output", output] if output else [])]
        command += ["--op", *options.op] if options.op != operations() else []
        try:
            returned = subprocess.run(command, timeout=options.budget + GRACE).returncode
        except subprocess.TimeoutExpired:
            session.record(item=stage, outcome="failed", detail=f"ended {GRACE:.0f} s after its budget was spent")
            returned = 1
        if returned not in (0, 1):
            session.record(item=stage, outcome="failed", detail=f"the process ended with status {returned}")
        status |= int(returned != 0)
    if options.in_process:
        return status
    if options.device == "cpu":
        print("Nothing ran on a GPU.")
    elif output:
        print(f"Commit the record: {output}")
    return status


if __name__ == "__main__":
    sys.exit(main())
