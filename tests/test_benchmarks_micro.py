"""The microbenchmarks run, each once and untimed; so does what registering an op costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import registration

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]


def test_micro() -> None:
    pytest.importorskip("pytest_benchmark")
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks/test_micro.py", "--benchmark-disable", "-x"]
    command += ["-p", "no:cacheprovider", "-k", "scale_space_weights and (eager or afa_kernels)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "ROUNDS", 1)
    monkeypatch.setattr(registration, "CALLS", 1)
    records = registration.measure()
    assert [r["style"] for r in records] == list(registration.STYLES)
    assert all(r["constants_us"] > 0 for r in records)
