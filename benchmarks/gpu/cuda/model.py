"""How long each launch of a CUDA kernel would take on a GPU that is not here: a model, not a measurement.

    python -m benchmarks.gpu.cuda.model                          the calls of `benchmarks.ops`, of what has changed
    python -m benchmarks.gpu.cuda.model --op attentive_fusion    those of one operation, into RECORD too

It is the model of `benchmarks.gpu.model`, for the kernels of csrc/cuda. The launches are those of their launchers
(`launches`). What a warp executes and waits for is what its first thread does on its way through the machine code, with
the parameters of the launch (`thread`): no trip count is told. Of the warps of the block in the middle of the grid, the
mean of the instructions counts, and the most that one waits.

The bytes are those of every tensor that the launch's threads ask for, once, or as many as they ask for, if fewer.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from afa_kernels.testing import Case
from benchmarks import ops
from benchmarks.gpu import model
from benchmarks.gpu.cuda import launches
from benchmarks.gpu.cuda.launches import Code, Launch, compiled
from benchmarks.gpu.cuda.thread import PARAMETERS, Thread, Work
from benchmarks.workload import Workload

RECORD = Path(__file__).parents[2] / "results" / "gpu_model_cuda.json"
GPUS = tuple(gpu for gpu in model.GPUS if gpu.target in PARAMETERS)
TARGETS = tuple(dict.fromkeys(gpu.target for gpu in GPUS))
WARP = 32


def of_warps(launch: Launch, code: Code, target: str) -> list[Work]:
    """What the warps of the block in the middle do, each by its first thread."""
    return [
        Thread(code.program, target, launch.parameters, launch.memory, launch.blocks // 2, first).run()
        for first in range(0, launch.threads, WARP)
    ]


def moved(launch: Launch, warps: Sequence[Work]) -> int:
    """The bytes of the launch."""
    warps_of_all = launch.blocks * len(warps)
    asked = {begin: statistics.mean(work.asked[begin] for work in warps) for begin, _ in launch.memory}
    return sum(min(size, round(WARP * warps_of_all * asked[begin])) for begin, size in launch.memory)


def predicted(launch: Launch, op: str) -> list[dict[str, Any]]:
    """Return what the record has of one launch of the operation, on every GPU."""
    found = []
    for target in TARGETS:
        code = launches.codes(launches.source(launch.kernel, target, op), target)[launch.kernel]
        warps = of_warps(launch, code, target)
        done = model.Work(statistics.mean(w.instructions for w in warps), max(w.waits for w in warps))
        of_launch = launch.kernel, launch.blocks, len(warps), code.registers, code.shared, moved(launch, warps), done
        for gpu in GPUS:
            if gpu.target == target:
                row = model.row(*of_launch, gpu)
                found.append({"gpu": gpu.name, **{key: row[key] for key in row if key != "divisions in loops"}})
    return found


def calls(op: str) -> list[tuple[Case, torch.dtype]]:
    """Return the calls that a GPU would be timed on, and one of an odd size, if the operation has CUDA kernels."""
    if op not in compiled.sources():
        return []
    odd = getattr(ops.of(op), "ODD_CALL", None)
    return [(case, dtype) for case in [*ops.of(op).gpu(False), *([odd] if odd else [])] for dtype in model.DTYPES]


def rows(of: Sequence[tuple[Case, torch.dtype]]) -> list[dict[str, Any]]:
    """Return a row for every launch of the calls on every GPU, and one for launches that do not differ."""
    found: dict[str, dict[str, Any]] = {}
    for case, dtype in of:
        begin = {"call": f"{case}, {case.layouts[0]}", "dtype": str(dtype).removeprefix("torch.")}
        types = Workload(case, training=False, dtype=dtype).types()
        for name, made in launches.passes(case, types).items():
            for row in (row for launch in made for row in predicted(launch, case.op)):
                said = {**begin, "pass": name, **row}
                found.setdefault(repr(said), {**said, "launches": 0})["launches"] += 1
    return list(found.values())


def load() -> dict[str, Any]:
    """Return the record: the version of nvcc and, by operation, the digests of the files it is of, and its rows."""
    return json.loads(RECORD.read_text())


def save(op: str, found: Sequence[dict[str, Any]]) -> None:
    """Replace what the record has of the operation, whose launchers are in its own file, and its kernels in more."""
    kept = load()["operations"] if RECORD.exists() else {}
    files = {op, *(launches.source(row["kernel"], TARGETS[0], op) for row in found)}
    digests = {name: compiled.digest(name) for name in sorted(files)}
    lines = [
        f'{json.dumps(name)}: {{"sources": {json.dumps(entry["sources"])}, "rows": [\n'
        + ",\n".join(map(json.dumps, entry["rows"]))
        + "\n]}"
        for name, entry in sorted({**kept, op: {"sources": digests, "rows": found}}.items())
    ]
    RECORD.write_text(f'{{"nvcc": "{compiled.version()}", "operations": {{\n' + ",\n".join(lines) + "\n}}\n")


def as_recorded(op: str) -> bool:
    """Whether the files that the operation's rows are of are those that are here."""
    digests = load()["operations"].get(op, {"sources": {"": ""}})["sources"]
    return all(name in compiled.sources() and compiled.digest(name) == digest for name, digest in digests.items())


def changed() -> list[str]:
    """Return the operations with CUDA kernels that the record is not of; all of them, if it is of another nvcc."""
    same = RECORD.exists() and load()["nvcc"] == compiled.version()
    return [op for op in ops.operations() if calls(op) and not (same and as_recorded(op))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", action="append", choices=ops.operations(), help="only this operation")
    options = parser.parse_args()
    if (reason := launches.why_not()) is not None:
        raise SystemExit(reason)
    for op in options.op or changed():
        found = rows(calls(op))
        save(op, found)
        print(f"{op}: {len(found)} rows", flush=True)


if __name__ == "__main__":
    main()
