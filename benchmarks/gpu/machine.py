"""What Triton's compiler makes of a launch for a GPU that is not here, read back from the machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from torch.utils._pytree import tree_map_only
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

import afa_kernels
from afa_kernels import backends
from afa_kernels.aten_kernels import bn_relu_conv2d
from afa_kernels.testing import Case, Dtypes, both_passes, differentiable, listed, operation
from afa_kernels.triton_kernels._launch import Launch, hooked

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

NVIDIA = {f"sm_{cc}": GPUTarget("cuda", cc, 32) for cc in (80, 86, 89, 90, 100, 120)}
AMD = {arch: GPUTarget("hip", arch, 64) for arch in ("gfx90a", "gfx942")}
TARGETS = NVIDIA | AMD
# Of a multiprocessor: KiB of shared memory, threads.
SHARED = {"sm_80": 164, "sm_86": 100, "sm_89": 100, "sm_90": 228, "sm_100": 228, "sm_120": 100}
THREADS = {"sm_80": 2048, "sm_86": 1536, "sm_89": 1536, "sm_90": 2048, "sm_100": 2048, "sm_120": 1536}


class Unfilled:
    """ATen's operators, which compute nothing here: their outputs have the shapes and strides, and no values."""

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            outputs = getattr(torch.ops.aten, name)(*tree_map_only(Tensor, lambda x: x.to("meta"), arguments))
            return tree_map_only(Tensor, lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype), outputs)

        return call


def passes(case: Case, dtypes: Dtypes, wanted: Sequence[bool] | None = None) -> dict[str, list[Launch]]:
    """Return the launches of the case's forward and, where there is one, backward pass, in order; none is made.

    The backward pass is of all gradients, or of those `wanted`.
    """
    made: list[Launch] = []
    forward: list[Launch] = []

    def outputs_grad(outputs: list[Tensor]) -> list[Tensor]:
        forward.extend(made)
        made.clear()
        return [torch.empty_like(o) for o in outputs]

    with (
        mock.patch.object(backends, "_triton_interpreted", lambda: True),  # CPU tensors go to the Triton launchers
        mock.patch.object(bn_relu_conv2d, "aten", Unfilled()),
        afa_kernels.use_backend("triton"),
        hooked(made.append),
    ):
        function, arguments = case.bind(operation(case.op), "cpu"), case.unfilled(dtypes)
        if not differentiable(case.op):
            function(*arguments)
            return {"forward": made}
        both_passes(lambda a: listed(function(*a)), arguments, outputs_grad, wanted)
    return {"forward": forward, "backward": made}


def launches(case: Case, dtypes: Dtypes) -> list[Launch]:
    """Return the launches of both passes."""
    return [launch for made in passes(case, dtypes).values() for launch in made]


def source(launch: Launch, target: GPUTarget) -> tuple[ASTSource, dict[str, Any]]:
    """What Triton's JIT would compile for the launch, by its own steps, and the compiler's options."""
    kernel, backend = launch.kernel, make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    keywords = {"debug": False, **launch.keywords}
    bound, specialization, options = bind(*launch.arguments, **keywords)
    options, signature, constants, attributes = kernel._pack_args(backend, keywords, bound, specialization, options)
    return ASTSource(kernel, signature, constants, attributes), options.__dict__


def title(launch: Launch) -> str:
    return f"{launch.kernel.__module__.rsplit('.', 1)[1]}.{launch.kernel.__name__}"


def run(*command: Any) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def usage_and_code(kernel: Any) -> tuple[str, str]:
    """Return what cuobjdump says of the resources of a compiled kernel, and its machine code by nvdisasm."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        return (
            run(TOOLS / "cuobjdump", "-res-usage", file.name),
            run(TOOLS / "nvdisasm", "-c", "-ndf", file.name),
        )


def occupancy(name: str, registers: int, shared: int, threads: int) -> float:
    """The share of a multiprocessor's threads that can be resident, by registers, shared memory and threads."""
    warps = threads // 32
    registers_per_warp = -(-registers * 32 // 256) * 256
    by_registers = 65536 // registers_per_warp // warps
    by_shared = SHARED[name] * 1024 // (shared + 1024)
    blocks = min(by_registers, by_shared, THREADS[name] // threads, 24 if THREADS[name] == 1536 else 32)
    return round(blocks * threads / THREADS[name], 3)


@dataclass(frozen=True)
class Loop:
    """Of the machine code: the instructions from a loop's first to its last, those that load or divide, and its loops.

    ptxas makes several loops of one, unrolled and for the rest: they follow each other.
    """

    instructions: int
    loads: int
    divisions: int
    inner: tuple[Loop, ...]


@dataclass(frozen=True)
class Counted:
    """A loop of Triton's IR: `for i in range(first, bound, step)`; `bound` is an argument's name or a number."""

    first: int
    bound: str
    step: int
    inner: tuple[Counted, ...]


@dataclass(frozen=True)
class Code:
    """A compiled launch: its machine code, as one loop of one iteration, and the loops that Triton's IR has."""

    whole: Loop
    counted: tuple[Counted, ...]
    registers: int
    shared: int
    warps: int


def code(launch: Launch, name: str) -> Code:
    """Compile the launch for the NVIDIA target `name`."""
    ast, options = source(launch, TARGETS[name])
    kernel = triton.compile(ast, target=TARGETS[name], options=options)
    usage, text = usage_and_code(kernel)
    registers = int(re.search(r"\bREG:(\d+)", usage)[1])  # type: ignore[index]
    loops = counted(kernel.asm["ttir"])
    return Code(machine_loops(text), loops, registers, kernel.metadata.shared, kernel.metadata.num_warps)


def machine_loops(text: str) -> Loop:
    """Read the loops of a disassembly: what lies between a branch backward and its target."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    branches: list[tuple[int, str]] = []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = len(opcodes)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);", line):
            if found[1].startswith("BRA") and (to := re.search(r"\.L\w+", found[2])):
                branches.append((len(opcodes), to[0]))
            opcodes.append(found[1].split(".")[0] + (".RCP" if ".RCP" in found[1] else ""))
    ends = {labels[to]: at for at, to in branches if labels[to] < at}  # of each first instruction the farthest branch
    last = max((i for i, opcode in enumerate(opcodes) if opcode == "EXIT"), default=len(opcodes) - 1)

    def loop(first: int, end: int, inside: list[tuple[int, int]]) -> Loop:
        inner, i = [], 0
        while i < len(inside):
            a, b = inside[i]
            within = [(c, d) for c, d in inside[i + 1 :] if d <= b]
            inner.append(loop(a, b, within))
            i += 1 + len(within)
        body = opcodes[first : end + 1]
        return Loop(len(body), body.count("LDG"), body.count("MUFU.RCP") + body.count("CALL"), tuple(inner))

    return loop(0, last, [(a, b) for a, b in sorted(ends.items()) if b <= last])


def counted(ttir: str) -> tuple[Counted, ...]:
    """Read the loops of Triton's IR, which it prints as "scf.for"(first, bound, step, ...) where it has no better."""
    constant = r"(%\w+) = \"?arith\.constant(?:\"\(\) <\{value =)? (-?\d+) : i\d+"
    loop = r"(\s*)(?:\S+ = )?(?:scf\.for \S+ = (\S+) to (\S+) step|\"scf\.for\"\((\S+), (\S+),) (%\w+)"
    constants: dict[str, str] = dict(re.findall(constant, ttir))
    lines: list[tuple[int, int, str, int]] = []
    for line in ttir.splitlines():
        if found := re.match(loop, line):
            first, bound, step = (
                constants.get(name, name) for name in (found[2] or found[4], found[3] or found[5], found[6])
            )
            lines.append((len(found[1]), int(first), bound.removeprefix("%"), int(step)))

    def nested(from_: int, to: int) -> tuple[Counted, ...]:
        loops, i = [], from_
        while i < to:
            indent, first, bound, step = lines[i]
            end = next((j for j in range(i + 1, to) if lines[j][0] <= indent), to)
            loops.append(Counted(first, bound, step, nested(i + 1, end)))
            i = end
        return tuple(loops)

    return nested(0, len(lines))
