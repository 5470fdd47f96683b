"""Measure afa_kernels against eager PyTorch and torch.compile: one JSON record per workload and contestant.

    python -m benchmarks.run                                  the headline: a telling shape of every pass
    python -m benchmarks.run --full --output FILE             every shape, in float32 and bfloat16, and whole stages
    python -m benchmarks.run --tiny --output FILE             maps of 16 x 16, where a call is its overhead
    python -m benchmarks.run --op attentive_fusion --quick    a smoke run: small shapes, few repetitions
    python -m benchmarks.run --op attentive_fusion --shape 1x64x256x512 --pass forward --layout NCHW    one row again

Every workload runs in a process for each of the ALLOCATORS, because users meet them all; each first measures what the
memory gives, and the first checks the results. A workload whose results are wrong gets a record that says so and no
number from any of them, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import afa_kernels
from afa_kernels.testing import alternate, listed, operations, peak_bytes, saved_bytes
from benchmarks import limits
from benchmarks.ops._shapes import LAYOUTS
from benchmarks.stages import STAGES, stages
from benchmarks.workload import Workload, workloads

ROOT = Path(__file__).parents[1]
GIB = 2**30
# What fresh memory costs, by environment variables that a process reads when it starts. By default every large output
# gets new pages of 4 KiB, each of which faults when it is first written. THP makes them 2 MiB for everybody. What
# is reused costs nothing, as with jemalloc or tcmalloc or inside a compiled graph: that compares the kernels.
ALLOCATORS = {
    "default": {},
    "THP": {"THP_MEM_ALLOC_ENABLE": "1"},
    "reused": {
        "MALLOC_MMAP_THRESHOLD_": str(8 * GIB),
        "MALLOC_TRIM_THRESHOLD_": str(8 * GIB),
        "MALLOC_TOP_PAD_": str(GIB // 4),
    },
}

SECONDS = {"tiny": 0.3, "quick": 0.0, "headline": 0.3, "full": 0.5}  # of calls, for each contestant of a workload
FILTERS = ("op", "pass", "layout", "shape", "dtype")  # options that choose among the workloads, and fields of records
OWN = ("--in-process", "--checked")  # options that this program gives itself

Record = dict[str, Any]


def percentiles(seconds: Sequence[float]) -> Record:
    """The 20th, 50th and 80th percentile in milliseconds."""
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    p20, p50, p80 = (1e3 * s for s in (fifths[0], statistics.median(seconds), fifths[3]))
    return {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "repeats": len(seconds)}


def peak_resident_bytes(function: Callable[[], Any]) -> int | None:
    """How much the process grows at most during one call, native code's own memory included; None where unknown.

    Linux keeps the mark. Only memory that is handed out afresh counts, so what was freed is given back first.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        function()
        return max(0, _status("VmHWM") - before)
    except (OSError, AttributeError):
        return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def measure(
    workload: Workload,
    seconds: float,
    limit: Callable[[], float],
    autotuned: bool = False,
    checked: bool = False,
) -> Iterator[Record]:
    """Yield a record per contestant, or one record that says why there is no number.

    `limit` tells what memory gives at most, in bytes a second: on a machine that others share it is asked right before
    and right after. The results are compared where they have not been `checked` before.
    """
    arguments = workload.inputs()
    functions = workload.contestants(autotuned)
    with torch.no_grad():
        outputs = listed(functions["afa_kernels"](*arguments))
    upstream = workload.upstream(outputs)
    reason = None if checked else workload.why_wrong(functions, arguments, upstream)
    if reason is not None:
        yield {**workload.described(), "refused": reason}
        return
    steps = {name: functools.partial(workload.step, f, arguments, upstream) for name, f in functions.items()}
    before = limit()
    times = alternate(steps, seconds)
    most = max(before, limit())
    medians = {name: statistics.median(s) for name, s in times.items()}
    least, moved = workload.least_bytes(arguments, outputs), workload.moved_bytes(arguments, outputs)
    for name, step in steps.items():
        record = {
            **workload.described(),
            "contestant": name,
            "backend": afa_kernels.backend_info().chosen["cpu"] if name == "afa_kernels" else name,
            **percentiles(times[name]),
            "speedup_over_eager": medians["eager"] / medians[name],
            "speedup_over_compiled": medians["compiled"] / medians[name],
            "peak_bytes": peak_bytes(step),
            "peak_resident_bytes": peak_resident_bytes(step),
            "output_bytes": sum(t.nbytes for t in outputs),
            "least_bytes": least,
            "least_gigabytes_per_second": least / medians[name] / 1e9,
            "limit_gigabytes_per_second": most / 1e9,
            "limit_share": least / medians[name] / most,
        }
        if name == "afa_kernels" and moved is not None:
            record["moved_bytes"] = moved
        if workload.training:
            record["saved_bytes"] = saved_bytes(functools.partial(functions[name], *arguments))
        yield record


def measure_import(repeats: int) -> Iterator[Record]:
    """What `import torch` takes in a fresh process, and what `import afa_kernels` takes after it.

    The first process does not count; it may write the byte code.
    """
    program = (
        "import time; start = time.perf_counter(); import torch; middle = time.perf_counter(); import afa_kernels; "
        "print(middle - start, time.perf_counter() - middle)"
    )
    runs = []
    for _ in range(repeats + 1):
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        runs.append([float(word) for word in done.stdout.split()])
    for i, contestant in enumerate(("torch", "afa_kernels after torch")):
        yield {"op": "import", "contestant": contestant, **percentiles([run[i] for run in runs[1:]])}


def measure_limits(seconds: float) -> Iterator[Record]:
    """What memory gives, with one thread and with those of this process."""
    for (contestant, threads), (moved, taken) in limits.measure(torch.get_num_threads(), seconds).items():
        yield {
            "op": "limit",
            "contestant": contestant,
            "threads": threads,
            "bytes": moved,
            **percentiles(taken),
            "gigabytes_per_second": moved / statistics.median(taken) / 1e9,
        }


def circumstances() -> Record:
    """Where and when: the same for all records of a process."""
    return {
        "device": processor(),
        "threads": torch.get_num_threads(),
        "allocator": allocator(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "version": afa_kernels.__version__,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.run", *(a for a in sys.argv[1:] if a not in OWN)]),
    }


def allocator() -> str:
    """The setting among ALLOCATORS that this process was started with."""
    return next(name for name in reversed(ALLOCATORS) if ALLOCATORS[name].items() <= os.environ.items())


def with_allocator(name: str) -> dict[str, str]:
    """The environment of a process with that setting and no other."""
    variables = {variable for setting in ALLOCATORS.values() for variable in setting}
    return {**{k: v for k, v in os.environ.items() if k not in variables}, **ALLOCATORS[name]}


def processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit that was measured, with "-dirty" where files but records had changed since; None outside a checkout.

    AFA_KERNELS_COMMIT says it where the tree was copied without its history.
    """
    if "AFA_KERNELS_COMMIT" in os.environ:
        return os.environ["AFA_KERNELS_COMMIT"]
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def run(arguments: argparse.Namespace) -> Iterator[Record]:
    """Every record of this process's allocator setting, with a line of progress on stderr for each workload."""
    shared = circumstances()
    found = [{**shared, **record} for record in measure_limits(min(arguments.seconds, 0.5))]
    yield from found
    of_threads = {r["contestant"]: r["gigabytes_per_second"] for r in found if r["threads"] == shared["threads"]}
    print(f"{shared['allocator']} limit: {of_threads[limits.MOST]:.1f} GB/s", file=sys.stderr, flush=True)
    limit = functools.partial(limits.most, shared["threads"])
    for workload in chosen(arguments):
        measured = measure(workload, arguments.seconds, limit, arguments.size == "full", arguments.checked)
        records = [{**record, **shared} for record in measured]
        print(f"{shared['allocator']} {workload}: {summary(records)}", file=sys.stderr, flush=True)
        yield from records


def chosen(arguments: argparse.Namespace) -> list[Workload]:
    """Whole stages too, but not tiny ones: the statistics of two images leave float32 no digits to compare."""
    found = [*workloads(arguments.size), *(() if arguments.size == "tiny" else stages(arguments.size))]
    return [w for w in found if wanted(w.described(), arguments)]


def wanted(record: Record, arguments: argparse.Namespace) -> bool:
    """Whether every filter that is given has the record's value."""
    given = vars(arguments)
    return all(given[name] is None or record.get(name) in given[name] for name in FILTERS)


def summary(records: Sequence[Record]) -> str:
    if "refused" in records[0]:
        return f"REFUSED: {records[0]['refused']}"
    times = ", ".join(f"{r['contestant']} {r['p50_ms']:.2f} ms" for r in records)
    ours = records[-1]
    return f"{times}: {ours['speedup_over_eager']:.2f}x eager, {ours['speedup_over_compiled']:.2f}x compiled"


def replaced(record: Record, arguments: argparse.Namespace) -> bool:
    """Whether a run with these arguments makes the record anew."""
    if record["op"] == "import":
        return wanted(record, arguments)
    return record["allocator"] in arguments.allocator and (record["op"] == "limit" or wanted(record, arguments))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ops = (*operations(), *STAGES, "import", "limit")
    parser.add_argument("--op", nargs="+", choices=ops, help="default: all")
    parser.add_argument("--pass", nargs="+", choices=("forward", "training step"), help="default: both")
    parser.add_argument("--layout", nargs="+", choices=LAYOUTS.values(), help="default: both")
    parser.add_argument("--shape", nargs="+", help='as in the records, "1x32x512x1024"; default: all')
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), help="default: all")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="small shapes, few repetitions")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="the overhead of a call")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="every shape; it takes hours")
    parser.set_defaults(size="headline")
    parser.add_argument("--output", type=Path, help="a file, of which is kept what this run does not measure")
    parser.add_argument("--allocator", nargs="+", choices=ALLOCATORS, default=[*ALLOCATORS], help="default: all")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--seconds", type=float, help=f"per contestant and workload; default: {SECONDS}")
    parser.add_argument("--checked", action="store_true", help=argparse.SUPPRESS)  # by the process before
    parser.add_argument("--in-process", action="store_true", help="this process's allocator only, records to stdout")
    arguments = parser.parse_args()
    if arguments.seconds is None:
        arguments.seconds = SECONDS[arguments.size]
    if arguments.op == ["import"]:
        arguments.allocator = []
    elif not chosen(arguments) and "limit" not in (arguments.op or ()):
        parser.error("there is no such workload; benchmarks/ops/_shapes.py has the shapes of each size")
    return arguments


def of_process(name: str, checked: bool) -> Iterator[Record]:
    """The records of a process with that allocator setting, as soon as they are made."""
    command = [sys.executable, "-m", "benchmarks.run", *sys.argv[1:], "--in-process"]
    command += ["--checked"] if checked else []
    with subprocess.Popen(command, env=with_allocator(name), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def records_of(arguments: argparse.Namespace) -> Iterator[Record]:
    """Every record; of what the first process refuses the others have none."""
    if wanted({"op": "import"}, arguments):
        records = [{**r, **circumstances()} for r in measure_import(3 if arguments.size == "quick" else 15)]
        print(f"import: afa_kernels adds {records[1]['p50_ms']:.1f} ms to import torch", file=sys.stderr)
        yield from records
    refused = set()
    for i, name in enumerate(arguments.allocator):
        for record in of_process(name, checked=i > 0):
            row = tuple(record.get(field) for field in FILTERS)
            if "refused" in record:
                refused.add(row)
            elif row in refused:
                continue
            yield record


def main() -> int:
    """The exit status: 1 where a workload was refused."""
    arguments = options()
    torch.set_num_threads(arguments.threads)
    if arguments.in_process:
        for record in run(arguments):
            print(json.dumps(record), flush=True)
        return 0
    with contextlib.ExitStack() as stack:
        file = sys.stdout
        if arguments.output is not None:
            old = arguments.output.read_text().splitlines() if arguments.output.exists() else []
            file = stack.enter_context(arguments.output.open("w"))
            file.writelines(f"{line}\n" for line in old if not replaced(json.loads(line), arguments))
        refused = []
        for record in records_of(arguments):
            print(json.dumps(record), file=file, flush=True)
            refused += [record] if "refused" in record else []
    for record in refused:
        print(f"refused: {record['op']} {record['pass']} {record['shape']}: {record['refused']}", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
