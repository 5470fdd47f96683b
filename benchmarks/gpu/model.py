"""How long each launch of a Triton kernel would take on a GPU that is not here: a model, not a measurement.

    python -m benchmarks.gpu.model                             the calls of `benchmarks.ops`, into RECORD
    python -m benchmarks.gpu.model --op attentive_fusion       those of one operation

A launch takes what a launch costs, and then the longest of three:

    bytes            every tensor once, over the bandwidth that a copy reaches
    instructions     programs x warps x what a warp executes, over what all schedulers issue
    waiting          programs one after the other on a multiprocessor, each waiting for its loads in turn

What a warp executes is read from the machine code: the instructions of every loop, times the iterations that the loop
of Triton's IR makes with the arguments of this launch, over the unrolling. A program waits once before its loops and
once an iteration of a loop that loads, and issues an instruction of a warp every two cycles at best. Multiprocessors
hold as many programs at a time as registers and shared memory let them.

The figures of the GPUs are those of data sheets, and what copies are known to reach. Caches, bank conflicts, the tail
of the last wave and the clock under load are left out: 30 % is what it may be trusted to.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import math
import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends
from afa_kernels.testing import Case
from afa_kernels.triton_kernels._launch import Launch
from benchmarks import ops
from benchmarks.gpu import machine
from benchmarks.gpu.machine import Code, Counted, Loop, title

RECORD = Path(__file__).parents[1] / "results" / "gpu_model.json"
DTYPES = (torch.float32, torch.float16)  # bfloat16 moves what float16 does


@dataclass(frozen=True)
class Gpu:
    name: str
    target: str
    multiprocessors: int
    bandwidth: float  # bytes a second, of a copy
    latency: float  # seconds, of a load from memory while others load
    clock: float  # cycles a second
    launch: float = 3e-6  # seconds to start and drain a launch

    @property
    def instructions(self) -> float:
        """Of warps, a second: four schedulers a multiprocessor."""
        return 4 * self.multiprocessors * self.clock


GPUS = (
    Gpu("H100", "sm_90", 132, 3.0e12, 0.7e-6, 1.755e9),
    Gpu("H200", "sm_90", 132, 4.2e12, 0.7e-6, 1.98e9),
    Gpu("A100", "sm_80", 108, 1.75e12, 0.6e-6, 1.41e9),
)

# Launches that add up what an earlier one left, a few values for each of its programs.
SECOND_STAGE = (
    "_channel_kernel",
    "_pool._combine_kernel",
    "_statistics._merge_kernel",
    "_parameters_kernel",
    "upsampled_fusion._weight_kernel",
)
# Tensors of which a kernel reads one pixel of each channel.
ONE_PIXEL = {"_statistics._merge_kernel": ("hidden",), "_statistics._statistics_kernel": ("origin_image",)}


def values(launch: Launch) -> dict[str, Any]:
    """Return the arguments by the names that Triton's IR gives them: of a tuple `name.0`, `name.1`, ..."""
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, (tuple, list)):
            for i, part in enumerate(value):
                add(f"{name}.{i}", part)
        else:
            found[name] = value

    for name, value in zip(launch.kernel.arg_names, launch.arguments):
        add(name, value)
    return {**found, **launch.keywords}


def moved(launch: Launch) -> int:
    """Return the bytes of all tensors of the launch, each once; of a band of rows, the band's share of the others."""
    found = values(launch)
    skipped = ONE_PIXEL.get(title(launch), ())
    sizes = {name: v.numel() * v.itemsize for name, v in found.items() if isinstance(v, Tensor) and name not in skipped}
    if "first_row" not in found:
        return sum(sizes.values())
    share = launch.grid[0] / _all_rows(found)
    whole = {"grad", "grad_out", "sums"} if found["first_row"] or share < 1 else set(sizes)
    if "first_out_row" in found and found["out"].shape[2] != (found["size.0"] + 1) // 2:
        whole.add("out")  # it has no rows but the band's
    return round(sum(size * (1 if name in whole else min(share, 1)) for name, size in sizes.items()))


def _all_rows(found: Mapping[str, Any]) -> int:
    """Return the programs that all rows of a launch over rows would take."""
    gathers = "size.0" in found
    height, width = (found[f"{'size' if gathers else 'out_size'}.{i}"] for i in range(2))
    if gathers:  # passed `encoded`, as afa_kernels.triton_kernels._resize says
        height, width = (height + 1) // 2, (width + 1) // 2 * found.get("unit", 1)
    return height * math.ceil(width / found["BLOCK_P"])


@dataclass
class Work:
    """What a warp of one program does: instructions executed, loads waited for in turn, divisions inside a loop."""

    instructions: float
    waits: float
    divisions: int = 0


def work(code: Code, launch: Launch) -> Work:
    return _work(code.whole, code.counted, values(launch), outermost=True)


def _work(loop: Loop, counted: Sequence[Counted], found: Mapping[str, Any], outermost: bool = False) -> Work:
    variants = _variants(loop.inner, len(counted))
    own = loop.instructions - sum(inner.instructions for inner in loop.inner)
    loads = loop.loads - sum(inner.loads for inner in loop.inner)
    total = Work(own, 1 if loads else 0, 0 if outermost else loop.divisions)
    if variants is None:  # the loops are not the IR's: unrolled away, or taken apart
        trips = math.prod(_trips(c, found) for c in counted) if counted else 1
        total.instructions += trips * sum(inner.instructions for inner in loop.inner)
        total.waits += trips if any(inner.loads for inner in loop.inner) else 0
        return total
    for group, count in zip(variants, counted):
        unrolled = group[0].loads // group[-1].loads if len(group) > 1 and group[-1].loads else 1
        body, trips = _work(group[0], count.inner, found), _trips(count, found)
        total.instructions += body.instructions * trips / unrolled
        total.waits += body.waits * math.ceil(trips / unrolled)
        total.divisions += body.divisions
    return total


def _variants(loops: Sequence[Loop], groups: int) -> list[list[Loop]] | None:
    """Group what ptxas has made of one loop: unrolled first, and then the rest, with a part of the loads."""
    found: list[list[Loop]] = []
    for loop in loops:
        before = found[-1][-1] if found else None
        rest = before is not None and loop.loads < before.loads and loop.loads and before.loads % loop.loads == 0
        if rest and len(loops) > groups:
            found[-1].append(loop)
        else:
            found.append([loop])
    return found if len(found) == groups else None


def _trips(counted: Counted, found: Mapping[str, Any]) -> int:
    bound = found[counted.bound] if counted.bound in found else int(counted.bound)
    return max(0, math.ceil((bound - counted.first) / counted.step))


def predicted(launch: Launch, code: Code, gpu: Gpu) -> dict[str, Any]:
    """Return a row of the record for one launch."""
    programs = math.prod(launch.grid)
    return row(title(launch), programs, code.warps, code.registers, code.shared, moved(launch), work(code, launch), gpu)


def row(
    kernel: str, programs: int, warps: int, registers: int, shared: int, moved: int, done: Work, gpu: Gpu
) -> dict[str, Any]:
    """Return what the model says of a launch of `programs` programs of `warps` warps, each of which does `done`."""
    share = machine.occupancy(gpu.target, registers, shared, 32 * warps)
    resident = max(1, round(share * machine.THREADS[gpu.target] / (32 * warps)))
    waves = max(1.0, programs / (gpu.multiprocessors * resident))
    parts = {
        "bytes": moved / gpu.bandwidth,
        "instructions": programs * warps * done.instructions / gpu.instructions,
        "waiting": waves * (done.waits * gpu.latency + 2 * done.instructions / gpu.clock),
    }
    bound = max(parts, key=lambda name: parts[name])
    return {
        "kernel": kernel,
        "programs": programs,
        "registers": registers,
        "occupancy": share,
        "MB": round(moved / 1e6, 3),
        "instructions": round(done.instructions),
        "waits": round(done.waits, 1),
        "divisions in loops": done.divisions,
        "us": round(1e6 * (gpu.launch + parts[bound]), 1),
        "bound by": bound,
        "share": round(parts["bytes"] / (gpu.launch + parts[bound]), 3),
    }


def calls(of: Iterable[str]) -> list[tuple[Case, torch.dtype]]:
    """Return the calls that a GPU would be timed on, of the operations that have Triton kernels."""
    return [
        (case, dtype)
        for op in of
        if not backends.made_of_aten(op)
        for case in ops.of(op).gpu(False)
        if not case.options.get("training") or op == "bn_relu_project"
        for dtype in DTYPES
    ]


def key(launch: Launch) -> str:
    """Return what decides what the launch compiles to, short of compiling it: equal keys are compiled once."""
    ast, options = machine.source(launch, machine.TARGETS["sm_90"])
    ast_key = (ast.fn.__module__, ast.fn.__name__, sorted(ast.signature.items()), sorted(map(str, ast.attrs.items())))
    return repr((ast_key, sorted(map(str, ast.constants.items())), options["num_warps"]))


def rows(of: Sequence[tuple[Case, torch.dtype]]) -> list[dict[str, Any]]:
    """Return a row for every launch of the calls on every GPU, and one for launches that do not differ."""
    jobs: dict[tuple[str, str], Launch] = {}
    made = [(case, dtype, machine.passes(case, dtype)) for case, dtype in of]
    keys: dict[int, str] = {}
    for _, _, by_pass in made:
        for launch in (launch for some in by_pass.values() for launch in some):
            keys[id(launch)] = key(launch)
            for gpu in GPUS:
                jobs.setdefault((keys[id(launch)], gpu.target), launch)
    global _JOBS
    _JOBS = list(jobs.items())
    context = multiprocessing.get_context("fork")
    cores = len(os.sched_getaffinity(0))
    with concurrent.futures.ProcessPoolExecutor(cores, context, torch.set_num_threads, (1,)) as pool:
        codes = dict(zip(jobs, pool.map(_compile, range(len(_JOBS))), strict=True))
    found: dict[str, dict[str, Any]] = {}
    for case, dtype, by_pass in made:
        for name, some in by_pass.items():
            for launch, gpu in itertools.product(some, GPUS):
                said = {
                    "call": f"{case}, {case.layouts[0]}",
                    "dtype": str(dtype).removeprefix("torch."),
                    "pass": name,
                    "gpu": gpu.name,
                    **predicted(launch, codes[keys[id(launch)], gpu.target], gpu),
                }
                found.setdefault(repr(said), {**said, "launches": 0})["launches"] += 1
    return list(found.values())


_JOBS: list[tuple[tuple[str, str], Launch]] = []


def _compile(i: int) -> Code:
    (_, target), launch = _JOBS[i]
    return machine.code(launch, target)


def load() -> list[dict[str, Any]]:
    return json.loads(RECORD.read_text())


def save(found: Sequence[Mapping[str, Any]]) -> None:
    """Replace the rows of the same operations in the record."""
    done = {row["call"].split(":")[0] for row in found}
    kept = [row for row in (load() if RECORD.exists() else []) if row["call"].split(":")[0] not in done]
    lines = [json.dumps(row) for row in sorted([*kept, *found], key=lambda row: row["call"].split(":")[0])]
    RECORD.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", action="append", choices=ops.operations(), help="only this operation")
    options = parser.parse_args()
    for op in options.op or ops.operations():
        if found := rows(calls([op])):
            save(found)
            print(f"{op}: {len(found)} launches", flush=True)


if __name__ == "__main__":
    main()
