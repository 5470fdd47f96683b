"""Compile csrc/cuda with g++ and simt.hpp into a library whose kernels run on CPU tensors."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
CACHE = ROOT / ".cache" / "simt"
COMPILER = os.environ.get("CXX", "g++")
EVERYTHING = os.environ.get("AFA_KERNELS_GATE") == "all"  # as in tests/gate
SANITIZERS = {
    "none": (),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"),
    "thread": ("-fsanitize=thread",),
}
FLAGS = (
    *("-std=c++20", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020b000000000000"),
    *(f"-I{path}" for path in (Path(__file__).parent, *include_paths())),
)


def sources(csrc: Path = CSRC) -> list[str]:
    """The files of csrc/cuda: an operation's each, and those of what several operations launch."""
    return sorted(path.stem for path in (csrc / "cuda").glob("*.cu"))


def why_not() -> str | None:
    return None if shutil.which(COMPILER) else f"the C++ compiler {COMPILER} is not on the PATH (CXX names another)"


def library(
    sanitizer: str = "none", csrc: Path = CSRC, only: Sequence[str] | None = None, float32: bool = False
) -> Path:
    """The library of all kernels, or of those in the files of `only`; of all types, or of `float32` alone.

    What did not change is not compiled again.
    """
    paths = [csrc / "library.cpp", *(csrc / "cuda" / f"{name}.cu" for name in only or sources(csrc))]
    flags = (*FLAGS, *SANITIZERS[sanitizer], *(("-DAFA_FLOAT32_ONLY",) if float32 else ()))
    machinery = (*FLAGS, f"-DAFA_{sanitizer.upper()}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(functools.partial(compiled_object, flags=flags, headers=_headers(csrc)), paths))
        objects.append(compiled_object(Path(__file__).with_name("simt.cpp"), machinery, _headers(csrc)))
    target = CACHE / f"{digest_of(*objects, *flags)}.so"
    if not target.exists():
        make(target, *flags, "-shared", *objects, *(f"-L{path}" for path in library_paths()), "-ltorch_cpu", "-lc10")
    return target


def digest_of_races() -> str:
    """Of all that a run under ThreadSanitizer is of: kernels, launchers, the execution model and the cases."""
    sources = [*CSRC.glob("cuda/*.[ch]*"), *CSRC.glob("arithmetic/*.h"), *CSRC.glob("*.[ch]*")]
    cases = [*Path(__file__).parents[1].glob("cases/*.py"), ROOT / "afa_kernels" / "testing" / "case.py"]
    machinery = [Path(__file__).with_name(name) for name in ("simt.hpp", "simt.cpp", "values.py", "sanitized.py")]
    paths = sources + cases + machinery
    return digest_of(*((path.name, path.read_text()) for path in sorted(paths)))


def preloaded(sanitizer: str) -> dict[str, str]:
    """The environment that a library with that sanitizer needs to be loaded: it asks for exceptions at once."""
    if sanitizer == "none":
        return {}
    names = ({"address": "libasan.so", "thread": "libtsan.so"}[sanitizer], "libstdc++.so.6")
    found = (
        subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        for name in names
    )
    return {"LD_PRELOAD": " ".join(path.strip() for path in found)}


def _headers(csrc: Path) -> str:
    paths = [Path(__file__).with_name("simt.hpp"), *csrc.rglob("*.h"), *csrc.rglob("*.cuh")]
    return digest_of(torch.__version__, *(path.read_text() for path in sorted(paths)))


def compiled_object(source: Path, flags: Sequence[str], headers: str) -> Path:
    target = CACHE / f"{source.stem}-{digest_of(source.read_text(), headers, *flags)}.o"
    if not target.exists():
        make(target, *flags, "-c", "-x", "c++", source)
    return target


def make(target: Path, *arguments: object) -> None:
    part = target.with_suffix(f".{os.getpid()}{target.suffix}")  # another process may make the same
    done = subprocess.run([COMPILER, *map(str, arguments), "-o", str(part)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{target.name} does not compile:\n{done.stderr}")
    part.replace(target)


def digest_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
