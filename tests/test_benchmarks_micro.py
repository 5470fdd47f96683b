"""The microbenchmarks run, each once and untimed; so does what registering an op costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from afa_kernels import backends
from afa_kernels.testing import operations
from benchmarks import registration

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]


def test_micro() -> None:
    pytest.importorskip("pytest_benchmark")
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks/test_micro.py", "--benchmark-disable", "-x"]
    command += ["-p", "no:cacheprovider", "-k", "scale_space_weights and (eager or afa_kernels)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_every_operation_is_there_on_every_backend() -> None:
    """In both sizes, with eager PyTorch beside."""
    pytest.importorskip("pytest_benchmark")
    from benchmarks.test_micro import contests

    found: dict[tuple[str, ...], set[str]] = {}
    for contest in contests():
        found.setdefault(tuple(contest.id.split()[:2]), set()).add(contest.values[1])
    assert found.keys() == {(size, op) for size in ("tiny", "quick") for op in operations()}
    for (_, op), contestants in found.items():
        assert {"eager", *(f"afa_kernels-{name}" for name in backends.available(op, "cpu"))} <= contestants


def test_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "ROUNDS", 1)
    monkeypatch.setattr(registration, "CALLS", 1)
    records = registration.measure()
    assert [r["style"] for r in records] == list(registration.STYLES)
    assert all(r["constants_us"] > 0 for r in records)
