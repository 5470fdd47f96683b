"""What csrc/cuda would launch for a call, and the machine code of it; no kernel runs.

The launchers are those of csrc/cuda, compiled by g++ for CPU tensors as in tests/simt, but with recorder/simt.hpp that
writes a launch down. It is a process of its own that has that library, in the place of the one for the CPU. Nor does
ATen's convolution run in bn_relu_conv2d.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils.cpp_extension import include_paths, library_paths

import afa_kernels
from afa_kernels import backends
from afa_kernels.aten_kernels import bn_relu_conv2d
from afa_kernels.testing import Case, Dtypes, both_passes, differentiable, listed, operation, operations
from benchmarks.gpu import machine
from benchmarks.gpu.cuda.sass import Program, programs

ROOT = Path(__file__).parents[3]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "cubin")]
import compiled  # noqa: E402
from simt import build  # noqa: E402

RECORDER = Path(__file__).with_name("recorder")
FLAGS = ("-std=c++20", "-O0", "-fPIC", "-fvisibility=hidden", f"-I{RECORDER}", *(f"-I{p}" for p in include_paths()))
STABLE = "-DTORCH_TARGET_VERSION=0x020b000000000000"


@dataclass(frozen=True)
class Launch:
    """A kernel's name, its grid, the bytes of its parameters, and where the tensors that these point to are."""

    kernel: str
    blocks: int
    threads: int
    parameters: bytes
    memory: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Code:
    program: Program
    registers: int
    shared: int


def why_not() -> str | None:
    return build.why_not() or compiled.why_not()


def passes(case: Case, dtypes: Dtypes) -> dict[str, list[Launch]]:
    """Return the launches of the case's forward and, where there is one, backward pass of all gradients, in order."""
    forward: list[Launch] = []

    def outputs_grad(outputs: list[Tensor]) -> list[Tensor]:
        forward.extend(_launched())
        return [torch.empty_like(o) for o in outputs]

    with _registered(), afa_kernels.use_backend("cuda"):
        _launched()
        # Copies of the options lie in memory that is known, whenever they were made.
        options = {name: o.clone() if isinstance(o, Tensor) else o for name, o in case.options.items()}
        function = replace(case, options=options).bind(operation(case.op), "cpu")
        arguments = case.unfilled(dtypes)
        if not differentiable(case.op):
            function(*arguments)
            return {"forward": _launched()}
        both_passes(lambda a: listed(function(*a)), arguments, outputs_grad)
    return {"forward": forward, "backward": _launched()}


@contextlib.contextmanager
def _registered() -> Iterator[None]:
    """The kernels are registered for CPU tensors, and said to be CUDA's; no convolution is computed."""
    _recorder()
    with (
        mock.patch.dict(backends._DISPATCH_KEYS, {"cuda": "CPU"}),
        mock.patch.object(backends, "_missing_for_cuda", lambda device_type: None),
        mock.patch.object(bn_relu_conv2d, "aten", machine.Unfilled()),
        mock.patch.object(backends, "_load_library", lambda: "this process has the CUDA launchers on CPU tensors"),
    ):
        yield


def _launched() -> list[Launch]:
    library, symbols = _recorder()
    lines = (json.loads(line) for line in library.launched().decode().splitlines())
    return [
        Launch(
            compiled.named(symbols[line["kernel"]]),
            line["blocks"],
            line["threads"],
            bytes.fromhex(line["parameters"]),
            tuple((begin, size) for begin, size in line["memory"]),
        )
        for line in lines
    ]


@functools.cache
def _recorder() -> tuple[Any, dict[int, str]]:
    """The library, and the symbols in it by their offset."""
    path = _library()
    torch.ops.load_library(path)
    library = ctypes.CDLL(str(path))
    library.launched.restype = ctypes.c_char_p
    symbols = re.findall(r"^(\w+) \w (\w+)$", compiled.run("nm", path), flags=re.MULTILINE)
    return library, {int(offset, 16): symbol for offset, symbol in symbols}


def _library() -> Path:
    """Compile the launchers, of what changed."""
    csrc = compiled.CSRC
    sources = [csrc / "library.cpp", *(csrc / "cuda" / f"{name}.cu" for name in compiled.sources())]
    machinery = [ROOT / "tests" / "simt" / "simt.cpp", RECORDER / "recorder.cpp"]
    headers = [*csrc.rglob("*.h"), *csrc.rglob("*.cuh"), ROOT / "tests" / "simt" / "simt.hpp", RECORDER / "simt.hpp"]
    common = build.digest_of(torch.__version__, *(path.read_text() for path in sorted(headers)))
    build.CACHE.mkdir(parents=True, exist_ok=True)
    objects = [build.compiled_object(path, (*FLAGS, STABLE), common) for path in sources]
    objects += [build.compiled_object(path, FLAGS, common) for path in machinery]
    target = build.CACHE / f"{build.digest_of(*objects)}.so"
    if not target.exists():
        build.make(target, "-shared", *objects, *(f"-L{p}" for p in library_paths()), "-ltorch_cpu", "-lc10", "-ldl")
    return target


def source(kernel: str, target: str, op: str) -> str:
    """Return which file of csrc/cuda has a kernel that `op` launches: its own, one of no operation, or another's."""
    first = sorted(compiled.sources(), key=lambda name: (name != op, name in operations()))
    return next(name for name in first if kernel in codes(name, target))


@functools.cache
def codes(source: str, target: str) -> dict[str, Code]:
    """Return the machine code of the kernels of a file of csrc/cuda, by their names."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, f"{source}.cubin")
        architecture = f"-gencode=arch={target.replace('sm', 'compute')},code={target}"
        path = compiled.CSRC / "cuda" / f"{source}.cu"
        compiled.run(compiled.nvcc(), *compiled.FLAGS, architecture, "-cubin", "-o", cubin, path)
        usage = compiled.run(compiled.tool("cuobjdump"), "-res-usage", cubin)
        found = programs(compiled.run(compiled.tool("nvdisasm"), cubin))
    numbers = re.findall(r"Function (\w+):\n.*\bREG:(\d+).*\bSHARED:(\d+)", usage)
    return {
        compiled.named(symbol): Code(found[symbol], int(registers), int(shared))
        for symbol, registers, shared in numbers
    }
