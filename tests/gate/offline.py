"""Compile every launch of the large cases for GPUs that are not here, and read what the compiler made of it.

    PYTHONPATH=tests python tests/gate/offline.py

compiles what has changed since resources.json was written, and rewrites it.

What is compiled is what would be launched: the launchers run on CPU tensors, and each launch they make is taken in
place of being made. Nothing runs, so nothing here is a time.

resources.json has a digest of what went into each compilation, Triton's own IR of the kernel and the compiler's
options; where these are the same under the same Triton, so is what comes out, but for a register or two on AMD's GPUs.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import functools
import hashlib
import json
import multiprocessing
import os
import pkgutil
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from cases import LARGE_CASES
from torch.utils._pytree import tree_map_only
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import MockTensor

from afa_kernels import triton_kernels
from afa_kernels.triton_kernels._launch import Launch
from benchmarks.gpu.machine import (
    AMD,
    NVIDIA,
    TARGETS,
    TOOLS,
    launches,
    occupancy,
    source,
    title,
    usage_and_code,
)

__all__ = ["AMD", "NVIDIA", "TARGETS", "TOOLS", "launches", "source", "title"]

RECORD = Path(__file__).with_name("resources.json")
# KiB of shared memory that one block may take.
SHARED_PER_BLOCK = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}

# By which two compilations of one kernel may differ: 107 were seen once, and 106 on another machine eleven times.
AMD_REGISTERS = 2


def front_end(launch: Launch, target: GPUTarget) -> str:
    """Triton's IR of the launch, before any pass, as it would be wherever the kernel stood and whatever it called.

    It has no line numbers, and neither the kernel's name nor those of what it calls. It depends on the target's vendor
    only.
    """
    ast, options = source(launch, target)
    backend, context = make_backend(target), ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    options = backend.parse_options(options)
    implementation = backend.get_codegen_implementation(options)
    text = ast.make_ir(target, options, implementation, backend.get_module_map(), context).str_nodebug()
    return without_names(text)


def without_names(ir_text: str) -> str:
    """The kernel and the functions of afa_kernels numbered as they come, in place of their names and places."""
    numbers: dict[str, str] = {}
    ours = r'@(?:"afa_kernels\.[^"]+"|afa_kernels\.[\w.]+|_\w+_kernel\b)'  # in quotes for a constant like 1e-05
    return re.sub(ours, lambda name: numbers.setdefault(name[0], f"@{len(numbers)}"), ir_text)


def digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def compiled(launch: Launch, name: str) -> dict[str, Any]:
    """The resources of the compiled launch on the target `name`."""
    ast, options = source(launch, TARGETS[name])
    kernel = triton.compile(ast, target=TARGETS[name], options=options)
    threads = kernel.metadata.num_warps * TARGETS[name].warp_size
    return nvidia(kernel, name, threads) if name in NVIDIA else amd(kernel)


def nvidia(kernel: Any, name: str, threads: int) -> dict[str, Any]:
    usage, machine_code = usage_and_code(kernel)
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    accesses = collections.Counter(re.findall(r"\b(LDG|STG|LDL|STL)\b([.\w]*)", machine_code))

    def widest(access: str) -> int:
        """Of the accesses to global memory, in bits; 0 where there is none."""
        kinds = [kind for name, kind in accesses if name == access]
        return max((int((re.search(r"\.(64|128|256)\b", kind) or [0, 32])[1]) for kind in kinds), default=0)

    registers, shared = found["REG"], kernel.metadata.shared
    return {
        "registers": registers,
        "shared": shared,
        "spilled": found["STACK"] + found["LOCAL"],
        "local accesses": sum(n for (access, _), n in accesses.items() if access in ("LDL", "STL")),
        "widest load": widest("LDG"),
        "widest store": widest("STG"),
        "occupancy": occupancy(name, registers, shared, threads),
    }


def amd(kernel: Any) -> dict[str, Any]:
    """From the metadata of the assembly, where LLVM says itself what it spilled."""
    text = kernel.asm["amdgcn"]

    def number(key: str) -> int:
        return int(re.search(rf"\.{key}:\s*(\d+)", text)[1])  # type: ignore[index]

    loads = [int(n or 1) * 32 for n in re.findall(r"\b(?:global|buffer)_load_dword(?:x(\d))?\b", text)]
    stores = [int(n or 1) * 32 for n in re.findall(r"\b(?:global|buffer)_store_dword(?:x(\d))?\b", text)]
    return {
        "registers": number("vgpr_count"),
        "shared": kernel.metadata.shared,
        "spilled": number("vgpr_spill_count") + number("private_segment_fixed_size"),
        "local accesses": len(re.findall(r"\bscratch_(?:load|store)", text)),
        "widest load": max(loads, default=0),
        "widest store": max(stores, default=0),
    }


def kernels() -> set[str]:
    """The titles of all kernels there are: what a launcher of afa_kernels.triton_kernels may launch."""
    found = set()
    for module in pkgutil.iter_modules(triton_kernels.__path__):
        source = Path(module.module_finder.path, f"{module.name}.py").read_text()  # type: ignore[union-attr]
        found |= {f"{module.name}.{kernel}" for kernel in re.findall(r"\blaunch\(\s*(_\w+),", source)}
    return found


@dataclass(frozen=True)
class Compilation:
    """A launch of a large case to be compiled for a target."""

    name: str
    dtypes: frozenset[str]
    launch: Launch
    target: str
    digest: str


class Pointer(MockTensor):
    """Of a tensor what the compiler looks at: the type, and how the address is aligned."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__(x.dtype)
        self.address = x.data_ptr() % 16

    def data_ptr(self) -> int:
        return self.address


def without_memory(launch: Launch) -> Launch:
    return replace(launch, arguments=tree_map_only(torch.Tensor, Pointer, launch.arguments))


CALLS = [(case, dtypes) for case in LARGE_CASES for dtypes in case.dtypes]


def _front_ends(i: int) -> list[tuple[str, str]]:
    """Of the launches of CALLS[i] the digests of what the front end makes for NVIDIA's GPUs and for AMD's."""
    first = [next(iter(targets.values())) for targets in (NVIDIA, AMD)]
    return [tuple(digest(front_end(launch, target)) for target in first) for launch in launches(*CALLS[i])]  # type: ignore[misc]


def workers() -> concurrent.futures.ProcessPoolExecutor:
    """As many as this process has cores, forked, so that they know what it knows; but OpenMP's threads do not."""
    context = multiprocessing.get_context("fork")
    return concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0)), context, torch.set_num_threads, (1,))


@functools.cache
def plan() -> tuple[Compilation, ...]:
    """Every launch of the large cases for every target; those that compile to the same once."""
    with workers() as pool:
        made_of = list(pool.map(_front_ends, range(len(CALLS))))
    found: dict[tuple[str, str], Compilation] = {}
    for (case, given), digests in zip(CALLS, made_of, strict=True):
        dtypes = frozenset(str(d).removeprefix("torch.") for d in (given if isinstance(given, tuple) else (given,)))
        counts: collections.Counter[str] = collections.Counter()
        for launch, by_vendor in zip(launches(case, given), digests, strict=True):
            counts[title(launch)] += 1
            name = f"{case} | {'+'.join(sorted(dtypes))} | {title(launch)} {counts[title(launch)]}"
            for target in TARGETS:
                _, options = source(launch, TARGETS[target])
                options = {**options, "extern_libs": None}  # Triton's own, by their paths on this machine
                key = target, digest(by_vendor[target in AMD], sorted(options.items(), key=str))
                found.setdefault(key, Compilation(name, dtypes, without_memory(launch), *key))
    return tuple(found.values())


def _compile(i: int) -> dict[str, Any]:
    return {"digest": plan()[i].digest, **compiled(plan()[i].launch, plan()[i].target)}


Rows = dict[str, dict[str, dict[str, Any]]]


def resources(chosen: Callable[[Compilation], bool]) -> Rows:
    """By launch, by target: what `compiled` reads, of the `chosen`."""
    jobs = [i for i, compilation in enumerate(plan()) if chosen(compilation)]
    found: Rows = collections.defaultdict(dict)
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, TRITON_CACHE_DIR=cache),
        workers() as pool,
    ):
        for i, result in zip(jobs, pool.map(_compile, jobs), strict=True):
            found[plan()[i].name][plan()[i].target] = result
    return dict(found)


@functools.cache
def recorded() -> Rows:
    """What the committed record has of this version of Triton."""
    record = json.loads(RECORD.read_text())
    return record["launches"] if record["triton"] == triton.__version__ else {}


@functools.cache
def _by_digest() -> dict[tuple[str, str], dict[str, Any]]:
    return {(target, row["digest"]): row for by_target in recorded().values() for target, row in by_target.items()}


def as_recorded(compilation: Compilation) -> bool:
    """Whether the record has the same compilation, by this name or another."""
    return (compilation.target, compilation.digest) in _by_digest()


def as_compiled_again(recorded: dict[str, Any] | None, found: dict[str, Any], target: str) -> bool:
    """Whether what was `found` is what was `recorded`, but for AMD_REGISTERS that LLVM takes more or fewer."""
    if recorded is None or target not in AMD:
        return recorded == found
    more = found["registers"] - recorded["registers"]
    return {**recorded, "registers": 0} == {**found, "registers": 0} and abs(more) <= AMD_REGISTERS


def with_recorded(here: Rows) -> Rows:
    """Of every launch on every target: what was compiled `here`, else the record of the same compilation."""
    rows: Rows = collections.defaultdict(dict)
    for compilation in plan():
        name, target = compilation.name, compilation.target
        if target in here.get(name, {}):
            rows[name][target] = here[name][target]
        elif as_recorded(compilation):
            rows[name][target] = _by_digest()[target, compilation.digest]
    return dict(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--everything", action="store_true", help="compile also what has not changed")
    options = parser.parse_args()
    here = resources(lambda compilation: options.everything or not as_recorded(compilation))
    print(f"{len(plan())} compilations, of them {sum(map(len, here.values()))} made now")
    RECORD.write_text(dump({"triton": triton.__version__, "launches": with_recorded(here)}))


def dump(record: dict[str, Any]) -> str:
    """One line a launch and target, so that a change is read in the diff."""
    lines = []
    for name, by_target in record["launches"].items():
        rows = ",\n".join(f"   {json.dumps(target)}: {json.dumps(found)}" for target, found in by_target.items())
        lines.append(f"  {json.dumps(name)}: {{\n{rows}\n  }}")
    return f'{{\n "triton": {json.dumps(record["triton"])},\n "launches": {{\n' + ",\n".join(lines) + "\n }\n}\n"


if __name__ == "__main__":
    main()
