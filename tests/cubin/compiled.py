"""Compile csrc/cuda with nvcc for GPUs that are not here, and read what it made of the kernels.

    PYTHONPATH=tests python tests/cubin/compiled.py

compiles what has changed since resources.json was written, and rewrites it. Nothing runs, so nothing here is a time.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support.symbols import foreign
from torch.utils.cpp_extension import CUDA_HOME, include_paths

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
RECORD = Path(__file__).with_name("resources.json")
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
# Of a multiprocessor: KiB of shared memory, threads, blocks.
LIMITS = {
    "sm_75": (64, 1024, 16),
    "sm_80": (164, 2048, 32),
    "sm_86": (100, 1536, 16),
    "sm_89": (100, 1536, 24),
    "sm_90": (228, 2048, 32),
    "sm_100": (228, 2048, 32),
    "sm_120": (100, 1536, 24),
}
THREADS = 256  # of a block, as in csrc/cuda/device.h
FLAGS = (
    *("-std=c++20", "-O3", "--expt-relaxed-constexpr", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000"),
    *(f"-I{path}" for path in include_paths()),
)

Kernels = dict[str, dict[str, Any]]  # by the kernel's name


def why_not() -> str | None:
    if nvcc() is None:
        return "nvcc is not found: install CUDA, or name it with CUDA_HOME"
    missing = [name for name in ("cuobjdump", "nvdisasm") if tool(name) is None]
    return f"{' and '.join(missing)} are not found, which Triton's wheel has, and CUDA" if missing else None


def nvcc() -> str | None:
    return shutil.which("nvcc", path=os.path.join(CUDA_HOME, "bin") if CUDA_HOME else None) or shutil.which("nvcc")


def tool(name: str) -> str | None:
    """CUDA's own, or that of Triton's wheel."""
    beside = shutil.which(name, path=str(Path(nvcc() or "").parent)) or shutil.which(name)
    spec = importlib.util.find_spec("triton")
    if beside is None and spec is not None and spec.submodule_search_locations:
        found = Path(spec.submodule_search_locations[0], "backends", "nvidia", "bin", name)
        return str(found) if found.exists() else None
    return beside


@functools.cache
def version() -> str:
    return re.search(r"V([\d.]+)", run(nvcc(), "--version"))[1]  # type: ignore[index]


def sources() -> list[str]:
    """The files of csrc/cuda: an operation's each, and those of what several operations launch."""
    return sorted(path.stem for path in (CSRC / "cuda").glob("*.cu"))


@functools.cache
def digest(op: str) -> str:
    """Of what goes into the compiler: the operation's source, every header that it includes, the flags."""
    seen: dict[Path, str] = {}

    def read(path: Path) -> None:
        if path in seen or not path.exists():
            return
        seen[path] = path.read_text()
        for name in re.findall(r'#include "([^"]+)"', seen[path]):
            read((path.parent / name).resolve())

    read(CSRC / "cuda" / f"{op}.cu")
    flags = [flag for flag in FLAGS if not flag.startswith("-I")]
    parts = [*flags, *(text for _, text in sorted(seen.items()))]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def compiled(op: str, architectures: tuple[str, ...] = ARCHITECTURES, *more: str) -> dict[str, Kernels]:
    """By architecture, the resources of the operation's kernels."""
    if (reason := why_not()) is not None:
        raise RuntimeError(f"{op} is to be compiled, and {reason}")
    targets = [f"-gencode=arch={a.replace('sm', 'compute')},code={a}" for a in architectures]
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder, f"{op}.o")
        run(nvcc(), *FLAGS, *more, *targets, "--threads", "2", "-c", CSRC / "cuda" / f"{op}.cu", "-o", code)
        if asked := foreign(code):
            raise RuntimeError(
                f"{op} asks for what neither torch's stable interface nor a standard library has: {asked}"
            )
        run(tool("cuobjdump"), "-xelf", "all", code, cwd=folder)
        found = {}
        for cubin in Path(folder).glob("*.cubin"):
            (architecture,) = [a for a in architectures if f".{a}." in cubin.name]
            found[architecture] = kernels(cubin, architecture)
    assert found.keys() == set(architectures), f"{op}: cubins of {sorted(found)}"
    return {a: found[a] for a in architectures}


def kernels(cubin: Path, architecture: str) -> Kernels:
    usage = run(tool("cuobjdump"), "-res-usage", cubin)
    code = run(tool("nvdisasm"), "-c", cubin)
    accesses: dict[str, collections.Counter[tuple[str, str]]] = {}
    for section in re.split(r"^//-+ \.text\.", code, flags=re.MULTILINE)[1:]:
        accesses[section.split()[0]] = collections.Counter(re.findall(r"\b(LDG|STG|LDL|STL)\b([.\w]*)", section))
    found = {}
    for symbol, line in re.findall(r"Function (\w+):\n(.*)", usage):
        numbers = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", line)}
        counts = accesses[symbol]
        found[named(symbol)] = {
            "registers": numbers["REG"],
            "shared": numbers["SHARED"],
            "spilled": numbers["STACK"] + numbers["LOCAL"],
            "local accesses": sum(n for (access, _), n in counts.items() if access in ("LDL", "STL")),
            "widest load": widest(counts, "LDG"),
            "widest store": widest(counts, "STG"),
            "occupancy": occupancy(architecture, numbers["REG"], numbers["SHARED"]),
        }
    return dict(sorted(found.items()))


def widest(counts: collections.Counter[tuple[str, str]], access: str) -> int:
    """Of the accesses to global memory, in bits; 0 where there is none."""
    kinds = [kind for name, kind in counts if name == access]
    return max((int((re.search(r"\.(64|128|256)\b", kind) or [0, 32])[1]) for kind in kinds), default=0)


def occupancy(architecture: str, registers: int, shared: int) -> float:
    """The share of a multiprocessor's threads that can be resident, by registers, shared memory and blocks."""
    kib, threads, most_blocks = LIMITS[architecture]
    warps = THREADS // 32
    by_registers = 65536 // (-(-registers * 32 // 256) * 256) // warps
    blocks = min(by_registers, kib * 1024 // (shared + 1024), threads // THREADS, most_blocks)
    return round(blocks * THREADS / threads, 3)


@functools.cache
def named(symbol: str) -> str:
    """A kernel with its template's arguments, such as fusion_forward<Half, true, float>."""
    text = run("c++filt", symbol).strip()
    text = re.sub(r"\b(afa|c10)::", "", text.split(" ", 1)[1] if text.startswith("void ") else text)
    return text.split("(")[0]


def run(*command: Any, cwd: str | None = None) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command[:1]))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


@functools.cache
def recorded() -> dict[str, Any]:
    """By operation, what the committed record has: of this nvcc, or of whichever where none is here."""
    record = json.loads(RECORD.read_text())
    return record["operations"] if nvcc() is None or record["nvcc"] == version() else {}


def as_recorded(op: str) -> bool:
    return recorded().get(op, {}).get("digest") == digest(op)


@functools.cache
def resources(op: str) -> dict[str, Kernels]:
    """As recorded where nothing changed since, else compiled here. With AFA_KERNELS_GATE=all always compiled here."""
    everything = os.environ.get("AFA_KERNELS_GATE") == "all"
    return recorded()[op]["kernels"] if as_recorded(op) and not everything else compiled(op)


def found() -> dict[str, dict[str, Kernels]]:
    """The resources of every operation."""
    return {op: resources(op) for op in sources()}


def dump(record: dict[str, Any]) -> str:
    """One line a kernel, so that a change is read in the diff."""
    lines = []
    for op, entry in record["operations"].items():
        by_architecture = ",\n".join(
            f"   {json.dumps(a)}: {{\n"
            + ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
            + "\n   }"
            for a, rows in entry["kernels"].items()
        )
        lines.append(f'  {json.dumps(op)}: {{"digest": "{entry["digest"]}", "kernels": {{\n{by_architecture}\n  }}}}')
    return f'{{\n "nvcc": "{record["nvcc"]}",\n "operations": {{\n' + ",\n".join(lines) + "\n }\n}\n"


def main() -> None:
    made: dict[str, Any] = {}
    for op in sources():
        made[op] = {"digest": digest(op), "kernels": resources(op)}
        rest = {other: entry for other, entry in recorded().items() if other in sources()}
        RECORD.write_text(dump({"nvcc": version(), "operations": dict(sorted({**rest, **made}.items()))}))


if __name__ == "__main__":
    main()
