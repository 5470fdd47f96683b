"""The session can fail: every fault planted in attentive_fusion's kernels or launchers is found, as what it is.

Without a fault the same cases pass, in test_kernels.py.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import build
import pytest
import sanitized


@dataclass(frozen=True)
class Fault:
    name: str
    file: str  # of csrc/cuda
    line: str  # a part of one line of it
    faulty: str
    sanitizer: str
    found_as: str  # a pattern
    at: str = ""  # a part of the line where it is found, if that is known
    covers: str = "NCHW, prime sizes, two blocks along every axis"  # of the case that shows it


FAULTS = (
    Fault(
        "missing barrier",
        "device.h",
        "  __syncthreads();\n  for (int k",
        "  for (int k",
        "thread",
        "ThreadSanitizer: data race",
        "total += shared[i * THREADS + other]",
    ),
    Fault(
        "missing mask of a load",
        "device.h",
        "place.inside(i) ? static_cast<acc_t<T>>(row[place.element(i)]) : acc_t<T>(0)",
        "static_cast<acc_t<T>>(row[place.element(i)])",
        "address",
        "AddressSanitizer: heap-buffer-overflow",
        "values[i] = static_cast<acc_t<T>>(row[place.element(i)])",
    ),
    Fault(
        "missing mask of a store",
        "device.h",
        "if (place.inside(i)) row[",
        "row[",
        "address",
        "written past the end of a tensor",
    ),
    Fault(
        "two blocks store to one address",
        "device.h",
        "at = (place.n * tiling.splits + place.split) * tiling.length + element",
        "at = place.n * tiling.splits * tiling.length + element",
        "thread",
        "ThreadSanitizer: data race",
        "out[at] = more ? out[at] + total : total",
        "many channels in NCHW",
    ),
    Fault(
        "misaligned vector",
        "device.h",
        "__stcs(reinterpret_cast<uint4*>(row + place.first), bits)",
        "__stcs(reinterpret_cast<uint4*>(row + place.first + 1), bits)",
        "address",
        "16 bytes at an address that 16 does not divide",
        covers="sizes a multiple of every block",
    ),
    Fault(
        "wrong stride",
        "device.h",
        "return data + n * sn + r * sr",
        "return data + r * sn + n * sr",
        "address",
        "AddressSanitizer: heap-|AssertionError",  # so far from the map lies what others have, or had, or nobody
    ),
    Fault(
        "missing finishing pass",
        "attentive_fusion.h",
        "if (d_across_)\n",
        "if (false)\n",
        "address",
        "never written",
    ),
    Fault(
        "index past a shared array",
        "device.h",
        "shared[i * THREADS + threadIdx.x] = sums[i]",
        "shared[i * THREADS + threadIdx.x + 1] = sums[i]",
        "address",
        "AddressSanitizer: use-after-poison",
        "shared[i * THREADS + threadIdx.x + 1] = sums[i]",
    ),
    Fault(
        "shuffle that not every thread reaches",
        "attentive_fusion.cuh",
        "if (sums_across == nullptr) continue;",
        "if (sums_across == nullptr || !inside) continue;",
        "address",
        "a barrier or a shuffle that not every thread reaches",
        covers="channels_last, prime sizes",
    ),
)


# Of the accesses to a word ThreadSanitizer keeps four, and throws out one by chance: a race is not seen in every run.
RUNS = {"address": 1, "thread": 3}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_found(fault: Fault, tmp_path: Path) -> None:
    csrc = tmp_path / "csrc"
    shutil.copytree(build.CSRC, csrc)
    path = csrc / "cuda" / fault.file
    source = path.read_text()
    assert source.count(fault.line) == 1, f"{fault.file} has {source.count(fault.line)} times {fault.line!r}"
    faulty = source.replace(fault.line, fault.faulty)
    path.write_text(faulty)
    faulty_library = build.library(fault.sanitizer, csrc, ["attentive_fusion"], float32=True)
    test = f"::test_values[attentive_fusion: {fault.covers}-torch.float32]"
    lines = [i for i, text in enumerate(faulty.splitlines(), 1) if fault.at and fault.at in text]
    assert len(lines) == bool(fault.at)
    for _ in range(RUNS[fault.sanitizer]):
        done = sanitized.run(fault.sanitizer, faulty_library, test)
        output = done.stdout + done.stderr
        if (
            done.returncode != 0
            and re.search(fault.found_as, output)
            and all(f"{fault.file}:{i}" in output for i in lines)
        ):
            return
    pytest.fail(f"not found as {fault.found_as} at {fault.file}:{lines}:\n{output[-20000:]}")
