"""What nvcc makes of the CUDA kernels: nothing is spilled, and 16 bytes are read and written at a time.

resources.json has the registers, shared memory and occupancy of every kernel for every architecture. An operation whose
sources are as they were when it was recorded, by the same nvcc, is not compiled again; AFA_KERNELS_GATE=all compiles
everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import compiled
import pytest

if (reason := compiled.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

# Kernels that may spill, and how many bytes of stack.
SPILLS = {"render_backward_maps<double, 16": 64, "render_backward_maps<double, 6": 8}
# Kernels of packed rows that store a value a channel, and one that loads no more than that.
NARROW_STORE = ("pool_rows", "pool_columns")
NARROW_LOAD = ("pool_backward",)


def rows() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for by_architecture in compiled.found().values():
        for architecture, kernels in by_architecture.items():
            for name, row in kernels.items():
                yield name, architecture, row


def complain(problems: list[tuple[str, str, dict[str, Any]]]) -> None:
    assert not problems, "\n".join(f"{name} on {architecture}: {row}" for name, architecture, row in problems)


def test_nothing_is_spilled() -> None:
    def allowed(name: str) -> int:
        return max((most for part, most in SPILLS.items() if name.startswith(part)), default=0)

    complain(
        [
            (name, a, row)
            for name, a, row in rows()
            if row["spilled"] > allowed(name) or (row["local accesses"] and not allowed(name))
        ]
    )


def test_what_may_spill_does() -> None:
    """No allowance outlives its reason, nor is larger than it must be."""
    for part, most in SPILLS.items():
        assert max(row["spilled"] for name, _, row in rows() if name.startswith(part)) == most, part


def test_wide_accesses() -> None:
    """16 bytes at a time where sizes divide: the kernels of packed rows."""
    packed = [(name, a, row) for name, a, row in rows() if ", true" in name]
    assert len(packed) > 100
    complain(
        [
            (name, a, row)
            for name, a, row in packed
            if (row["widest load"] < 128 and not name.startswith(NARROW_LOAD))
            or (row["widest store"] < 128 and not name.startswith(NARROW_STORE))
        ]
    )


def test_shared_memory_fits() -> None:
    complain([(name, a, row) for name, a, row in rows() if row["shared"] > 48 << 10])


def test_resources_are_the_recorded_ones() -> None:
    """As committed; after a change meant so, `make gate-record`."""
    if not compiled.recorded():
        pytest.skip(f"{compiled.RECORD.name} is of another nvcc than {compiled.version()}")
    changed = [op for op in compiled.operations() if not compiled.as_recorded(op)]
    assert not changed, f"the sources of {', '.join(changed)} are not the recorded ones"
    for op, kernels in compiled.found().items():
        assert kernels == compiled.recorded()[op]["kernels"], op


def test_a_compilation_is_as_recorded_and_a_spill_is_seen() -> None:
    """The compiler is deterministic; and the gate can fail: with too few registers it spills."""
    here = compiled.compiled("attentive_fusion", ("sm_90",))["sm_90"]
    if compiled.as_recorded("attentive_fusion"):
        assert here == compiled.recorded()["attentive_fusion"]["kernels"]["sm_90"]
    few = compiled.compiled("attentive_fusion", ("sm_90",), "-DAFA_FLOAT32_ONLY", "-maxrregcount=24")["sm_90"]
    assert any(row["spilled"] > 0 and row["local accesses"] > 0 for row in few.values())
    assert all(row["widest store"] < 128 for name, row in here.items() if ", false" in name)
