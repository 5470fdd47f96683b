"""How the time of afa_kernels grows: with threads, with the size of the map, and with the number of scales or inputs.

    python -m benchmarks.scaling --output benchmarks/results/scaling.jsonl    everything
    python -m benchmarks.scaling --axis elements --op attentive_fusion        a part, printed
    python -m benchmarks.scaling --quick                                      a smoke run: small maps, few repetitions

A record is a call at one `value` of an `axis`, with memory that is reused, so that what grows is the kernels' time:

    threads     1 and 2: the headline's calls in NCHW
    elements    2^12 to 2^27 of a map of 32 channels, which holds 4 GiB with its gradients; of `upsampled_fusion` and
                `upsampled_pool` the upsampled map
    scales      1 to 16: scales of 19 classes at 512 x 1024, each at half of that, or inputs of `progressive_fusion`
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from afa_kernels.testing import alternate, differentiable, listed, operations
from benchmarks import ops
from benchmarks.ops._shapes import Pyramid
from benchmarks.run import Record, allocator, circumstances, percentiles, with_allocator
from benchmarks.workload import Workload

THREADS = (1, 2)
OF_MAPS = ("attentive_fusion", "progressive_fusion", "upsampled_fusion", "global_avg_max_pool", "upsampled_pool")
OF_SCALES = (
    "progressive_fusion",
    "hierarchical_fusion",
    "scale_space_weights",
    "scale_space_render",
    "scale_space_labels",
    "scale_space_cross_entropy",
)

Call = tuple[Workload, int, int]  # what is timed, the value on its axis, and the threads


def threads(quick: bool) -> Iterator[Call]:
    for op in operations():
        for case, training in ops.of(op).workloads("tiny" if quick else "headline"):
            if set(case.layouts) == {"contiguous"}:
                for count in THREADS:
                    yield Workload(case, training), count, count


def elements(quick: bool) -> Iterator[Call]:
    for op in OF_MAPS:
        benchmark: Any = ops.of(op)
        for training in (False, True):
            for power in range(12, 15 if quick else 28):
                height, width = 2 ** ((power - 5) // 2), 2 ** ((power - 4) // 2)
                case = benchmark.call((1, 32, height, width), "contiguous")
                yield Workload(case, training), 2**power, max(THREADS)


def scales(quick: bool) -> Iterator[Call]:
    height, width = (16, 32) if quick else (512, 1024)
    half = height // 2, width // 2
    for op in OF_SCALES:
        benchmark: Any = ops.of(op)
        for training in (False, True) if differentiable(op) else (False,):
            for count in (1, 2, 16) if quick else (1, 2, 3, 4, 6, 8, 12, 16):
                if op == "progressive_fusion":
                    case = benchmark.call((1, 32, *half), "contiguous", inputs=count)
                elif op == "scale_space_weights":
                    case = benchmark.call((1, count, *half))
                else:
                    ascending = tuple(1 + 1e-6 * k for k in range(count))  # as some want them, yet of one size
                    case = benchmark.call(Pyramid((height, width), ascending, half), "contiguous")
                yield Workload(case, training), count, max(THREADS)


AXES = {"threads": threads, "elements": elements, "scales": scales}


def measure(workload: Workload, seconds: float) -> Record:
    arguments, ours = workload.inputs(), workload.ours()
    with torch.no_grad():
        upstream = workload.upstream(listed(ours(*arguments)))
    (taken,) = alternate({"": functools.partial(workload.step, ours, arguments, upstream)}, seconds).values()
    return {**workload.described(), **percentiles(taken)}


def records(arguments: argparse.Namespace) -> Iterator[Record]:
    shared = {**circumstances(), "command": shlex.join(["python", "-m", "benchmarks.scaling", *sys.argv[1:]])}
    for axis in arguments.axis:
        for workload, value, threads in AXES[axis](arguments.quick):
            if workload.case.op in arguments.op:
                torch.set_num_threads(threads)
                record = measure(workload, 0.0 if arguments.quick else arguments.seconds)
                print(f"{axis} {value}: {workload}: {record['p50_ms']:.4f} ms", file=sys.stderr, flush=True)
                yield {**record, "axis": axis, "value": value, **shared, "threads": threads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axis", nargs="+", choices=AXES, default=[*AXES], help="default: all")
    parser.add_argument("--op", nargs="+", choices=operations(), default=operations(), help="default: all")
    parser.add_argument("--quick", action="store_true", help="small maps, few repetitions")
    parser.add_argument("--seconds", type=float, default=0.2, help="per call; default: 0.2")
    parser.add_argument("--output", type=Path, help="the file to write; default: print")
    arguments = parser.parse_args()
    if allocator() != "reused":
        command = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:]]
        os.execve(sys.executable, command, with_allocator("reused"))
    lines = map(json.dumps, records(arguments))
    if arguments.output is None:
        for line in lines:
            print(line, flush=True)
    else:
        arguments.output.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
