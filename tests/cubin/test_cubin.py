"""What nvcc makes of the CUDA kernels: nothing is spilled, and 16 bytes are read and written at a time.

resources.json has the registers, shared memory and occupancy of every kernel for every architecture. An operation whose
sources are as they were when it was recorded, by the same nvcc, is not compiled again, so that without a change no nvcc
is needed; AFA_KERNELS_GATE=all compiles everything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import compiled
import pytest

# Kernels that may spill, and how many bytes of stack: those of 16 scales in float64 have more values than a thread has
# registers; the others lose a value or two to the blocks that __launch_bounds__ asks for, on one or two architectures.
SPILLS = {
    "gather_logits<float, 16>": 32,
    "weights_backward<float, 16": 16,
    "project_rows<double, false": 16,
    "finish_statistics<double>": 8,
    "fusion_forward<BFloat16, false": 8,
    "fusion_forward<Half, false": 8,
    "make_planes<float, 16>": 8,
    "most_likely<RenderedScores<double, 16>": 8,
    "norm_sums_of_rows<BFloat16, false": 8,
    "norm_sums_of_rows<Half, false": 8,
    "weights_forward<float, 16": 8,
}
# Kernels of packed rows that store a value a channel or a pixel, and one that loads no more than that.
NARROW_STORE = (
    *("pool_rows", "pool_columns", "upsampled_pool_", "project_", "statistics_of_"),
    *("norm_sums_of_", "activated_sums_of_"),
)
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
    packed = [(name, a, row) for name, a, row in rows() if re.match(r"\w+<\w+, true", name)]
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
    changed = [op for op in compiled.sources() if not compiled.as_recorded(op)]
    assert not changed, f"the sources of {', '.join(changed)} are not the recorded ones"
    for op, kernels in compiled.found().items():
        assert kernels == compiled.recorded()[op]["kernels"], op


@pytest.mark.skipif(compiled.why_not() is not None, reason=str(compiled.why_not()))
def test_a_compilation_is_as_recorded() -> None:
    """The compiler is deterministic."""
    if not compiled.as_recorded("scale_space_accumulate"):
        pytest.skip("scale_space_accumulate is not as it was recorded, and has been compiled for the tests above")
    here = compiled.compiled("scale_space_accumulate", ("sm_90",))["sm_90"]
    assert here == compiled.recorded()["scale_space_accumulate"]["kernels"]["sm_90"]


def test_what_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate can fail: at a spill that nothing allows, and at rows that are not packed."""
    monkeypatch.setattr(sys.modules[__name__], "SPILLS", {})
    with pytest.raises(AssertionError, match="gather_logits<float, 16>"):
        test_nothing_is_spilled()
    narrow = [row for name, _, row in rows() if re.match(r"fusion_\w+<\w+, false", name)]
    assert narrow and all(row["widest store"] < 128 for row in narrow)
