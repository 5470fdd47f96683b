"""`python -m afa_kernels --check`: every operation, and a fault that is told."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from afa_kernels import __main__ as command
from afa_kernels import selfcheck
from afa_kernels.ops import scale_space_weights as module
from afa_kernels.testing import differentiable, operations


def test_every_operation_has_a_small_call() -> None:
    assert sorted(selfcheck.CASES) == operations()


@pytest.mark.parametrize("op", operations())
def test_a_small_call_agrees(op: str, kernel: str) -> None:
    outcome = selfcheck.outcome(selfcheck.CASES[op], kernel, "cpu")
    assert outcome.fault is None
    assert outcome.forward < 1e-5
    assert (outcome.backward is not None) == differentiable(op)


@pytest.mark.once
def test_the_command_for_programs(kernel: str) -> None:
    run = [sys.executable, "-m", "afa_kernels", "--check", "--json"]
    found = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert found["versions"]["torch"] == torch.__version__
    assert {o["op"] for o in found["check"]} == set(operations())
    assert {o["fault"] for o in found["check"]} == {None}


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong, told",
    [
        (lambda y, *_: (y.exp(), y[:, :1].exp()), "AssertionError: output 0 of scale_space_weights: small on "),
        (lambda *_: 1 / 0, "ZeroDivisionError"),
    ],
    ids=["a value", "an error"],
)
def test_the_command_tells_a_fault(wrong, told, kernel: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "_op", wrong)
    monkeypatch.setattr(sys, "argv", ["afa_kernels", "--check"])
    assert command.main() == 1
    faults = [line for line in capsys.readouterr().out.splitlines() if "WRONG" in line]
    assert len(faults) == 1 and told in faults[0]


@pytest.mark.once
def test_help() -> None:
    told = subprocess.run([sys.executable, "-m", "afa_kernels", "--help"], capture_output=True, text=True, check=True)
    assert "--check" in told.stdout and "--json" in told.stdout
