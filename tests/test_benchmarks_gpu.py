"""`make gpu-check` without a GPU: every step says what became of it, and a failure is the exit status."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks import gpu_check

pytestmark = pytest.mark.once


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: run make gpu-check itself")
def test_every_step_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_check"])
    assert gpu_check.main() == 0
    said = capsys.readouterr().out
    for step, outcome in {
        "tests": r"passed: \d+ passed",
        "second device": "skipped: two devices need a CUDA device",
        "streams": "skipped: streams need a CUDA device",
        "CUDA graphs": "skipped: CUDA graphs need a CUDA device",
        "warmup": "skipped: compilations need a CUDA device",
        "AOTInductor": "passed: exported, compiled, packaged and loaded|skipped: needs a C\\+\\+ compiler",
        "compute-sanitizer": "skipped: compute-sanitizer's tools need a CUDA device",
        "benchmark": "passed: 3 numbers",
    }.items():
        assert re.search(rf"^{step} \(\d+ s\): (?:{outcome})", said, re.MULTILINE), (step, said)
    assert "Nothing ran on a GPU" in said


def test_a_failing_step_is_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(device: str) -> str:
        raise AssertionError("wrong values")

    monkeypatch.setattr("sys.argv", ["gpu_check", "--device", "cpu"])
    for step in ("tests", "aot_inductor"):
        monkeypatch.setattr(gpu_check, step, fail)
    monkeypatch.setattr(gpu_check, "benchmark", lambda device, seconds: ("none", {}))
    assert gpu_check.main() == 1
    said = capsys.readouterr().out
    assert said.count("failed: AssertionError: wrong values") == 2
    assert "benchmark (0 s): passed: none" in said, "a failure must not hide what comes after it"
