"""Faults to plant in the kernels of attentive_fusion: each one line, replaced in the source of the real kernel."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from afa_kernels.triton_kernels import attentive_fusion


@dataclass(frozen=True)
class Fault:
    name: str
    kernel: str
    line: str  # a part of the one line of the kernel that has it
    faulty: str
    found_as: str  # the kind of ttsem's fault, or "values"
    shape: tuple[int, int, int, int] = (1, 13, 17, 19)


SUMS = "part = tl.sum(total, axis=1) * b * not_b"
FIRST_ROW = "channel_sums + n * rows * channels + c"

FAULTS = (
    Fault(
        "load without mask",
        "_forward_kernel",
        "x + offsets(strides[0], n, c, p), mask=inside, other=0.0)",
        "x + offsets(strides[0], n, c, p))",
        "oob_read",
    ),
    Fault("store without mask", "_forward_kernel", "element_ty), mask=inside)", "element_ty))", "oob_write"),
    Fault(
        "half a mask",
        "_forward_kernel",
        "element_ty), mask=inside)",
        "element_ty), mask=inside_p[None, :])",
        "oob_write",
    ),
    Fault(
        "last pixel never written",
        "_forward_kernel",
        "element_ty), mask=inside)",
        "element_ty), mask=inside & (p[None, :] < pixels - 1))",
        "values",
    ),
    Fault(
        "two programs store to one address",
        "_backward_kernel",
        SUMS,
        f"{SUMS}; tl.store({FIRST_ROW}, part, mask=inside_c)",
        "race",
    ),
    Fault(
        "load, add and store without an atomic",
        "_backward_kernel",
        SUMS,
        f"{SUMS}; earlier = tl.where(row > 0, tl.load({FIRST_ROW}, mask=inside_c), 0.0); "
        f"tl.store({FIRST_ROW}, earlier + part, mask=inside_c)",
        "race",
    ),
    Fault(
        "an offset wraps",  # at 16 bits, where a tensor still fits in a test; at 32 bits the fault is the same
        "_forward_kernel",
        "p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)",
        "p = (tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int16).to(tl.int64)",
        "oob_read",
        (1, 1, 182, 182),
    ),
)


def plant(fault: Fault, folder: Path) -> ModuleType:
    """The module of the kernels with the fault in it, imported from a file in `folder`."""
    source = Path(attentive_fusion.__file__).read_text()
    start = source.index(f"def {fault.kernel}(")
    end = source.index("\n\n\n", start)
    kernel = source[start:end]
    assert kernel.count(fault.line) == 1, f"{fault.kernel} has {kernel.count(fault.line)} times {fault.line!r}"
    path = folder / "faulty_attentive_fusion.py"
    path.write_text(source[:start] + kernel.replace(fault.line, fault.faulty) + source[end:])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
