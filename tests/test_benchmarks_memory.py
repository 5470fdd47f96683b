"""The meters of memory: of multi-scale inference, and of training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import memory, networks

pytestmark = pytest.mark.once


def test_inference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The official composition holds a map a scale, the others one at most, labels none."""
    monkeypatch.setattr(sys, "argv", ["memory", "inference", "--size", "32", "64"])
    before = memory.record_path("inference").read_bytes()
    memory.main()
    assert memory.record_path("inference").read_bytes() == before, "written without --record"
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    held = {name.strip(): float(maps) for name, maps in rows[2:]}
    assert set(held) == set(memory.CONTESTANTS)
    assert held["official composition"] > 5 and held["scale_space_labels"] < 0.5
    assert held["scale_space_render"] < 2 and held["ScaleSpaceRenderer"] < 2


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three networks of the same parameters: what each saves, and that they learn alike."""
    channels = 24, 28, 32, 36, 40
    small = networks.networks(channels)
    levels, target = networks.data(64, 128, 2, channels)
    monkeypatch.setattr(memory, "networks", lambda: small)
    monkeypatch.setattr(memory, "data", lambda height, width: (levels, target))
    monkeypatch.setattr(memory, "STEPS", 8)
    monkeypatch.setattr(memory, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["memory", "training", "--record"])
    memory.main()
    found = memory.load("training")["networks"]
    assert found["afa_kernels"]["saved bytes"] < found["official composition"]["saved bytes"]
    first, *others = (torch.tensor(found[name]["losses"]) for name in found)
    for losses in others:
        torch.testing.assert_close(losses, first, rtol=1e-3, atol=0)
    assert len(memory.training_table(memory.load("training")).splitlines()) == 2 + 3
