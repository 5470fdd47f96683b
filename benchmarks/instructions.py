"""Instructions of the C++ kernels on fixed small calls, counted by callgrind: the same on every machine and every run.

    python -m benchmarks.instructions            counts, and compares with results/instructions.json
    python -m benchmarks.instructions --record   writes that file

Callgrind shows a processor with AVX2, so that it is the kernels for that which are counted, with one thread; of the
process only what the library itself executes. The counts are of one compiler: the record names it, and the digest of
the sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from afa_kernels import backends
from afa_kernels.testing import Case, differentiable, listed, tensors
from benchmarks import ops
from benchmarks.workload import Workload

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "results" / "instructions.json"
ALLOWED = 1.03  # times the recorded count


def digest() -> str:
    """Of every source that the library is built from."""
    found = hashlib.sha256()
    for path in sorted([*(ROOT / "csrc").glob("*.*"), *(ROOT / "csrc").glob("[ac][rp]*/*.*"), ROOT / "setup.py"]):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def compiler() -> str:
    """The first line in which the C++ compiler says what it is; "" where there is none."""
    command = os.environ.get("CXX", "c++")
    if shutil.which(command) is None:
        return ""
    return subprocess.run([command, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]


def load() -> dict[str, Any]:
    return json.loads(RECORD.read_text())


def cases() -> list[Case]:
    return [*ops.traffic_cases(), *(case for b in ops.every().values() for case in getattr(b, "COUNTED", ()))]


def run() -> Iterator[str]:
    """Call every kernel, collected by callgrind in a dump of its own; the names of the dumps, in order."""
    torch.set_num_threads(1)
    for case in cases():
        if "cpu" not in backends.available(case.op, "cpu"):
            continue
        if backends.made_of_aten(case.op) and backends.parts(case.op, "cpu", "cpu") is None:
            continue
        workload = Workload(case, differentiable(case.op))
        arguments, function = workload.inputs(), workload.bind(ops.ours(case.op))
        for is_counted in (False, True):
            if is_counted:
                torch._C._valgrind_toggle()
            outputs = listed(function(*arguments))
            if is_counted:
                torch._C._valgrind_toggle_and_dump_stats()
                yield f"{case} | forward"
            if not differentiable(case.op):
                continue
            upstream = workload.upstream(outputs)
            if is_counted:
                torch._C._valgrind_toggle()
            torch.autograd.grad(outputs, tensors(arguments), upstream)
            if is_counted:
                torch._C._valgrind_toggle_and_dump_stats()
                yield f"{case} | backward"


def count() -> dict[str, int]:
    """Instructions of every kernel."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/dump", "--collect-atstart=no"]
        command += [
            "--compress-strings=no",
            "--compress-pos=no",
            sys.executable,
            "-m",
            "benchmarks.instructions",
            "--run",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        names = done.stdout.splitlines()
        return {name: of_library(Path(f"{folder}/dump.{i}").read_text()) for i, name in enumerate(names, 1)}


def of_library(dump: str) -> int:
    """The instructions that the library executed itself, in the format of callgrind's dumps."""
    total, is_ours, is_call = 0, False, False
    for line in dump.splitlines():
        if line.startswith("ob="):
            is_ours = "_native.abi3" in line
        elif line.startswith("calls="):
            is_call = True  # the next line is what was called
        elif re.match(r"\d+ \d+$", line):
            total += int(line.split()[1]) if is_ours and not is_call else 0
            is_call = False
    return total


def slower(found: dict[str, int], recorded: dict[str, int]) -> list[str]:
    """What needs more instructions than is allowed, as a line each; what is recorded and gone, too."""
    lines = [
        f"{name}: {found.get(name)} instructions, recorded {old}"
        for name, old in recorded.items()
        if name not in found or found[name] > ALLOWED * old
    ]
    return lines + [f"{name}: not recorded" for name in found if name not in recorded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        for name in run():
            print(name, flush=True)
        return
    found = count()
    if options.record:
        RECORD.write_text(json.dumps({"compiler": compiler(), "sources": digest(), "counts": found}, indent=1) + "\n")
    for name, instructions in found.items():
        print(f"{instructions:>12}  {name}")
    if not options.record and (lines := slower(found, load()["counts"])):
        raise SystemExit("\n".join(lines))


if __name__ == "__main__":
    main()
