"""The record of long proofs: what they are of, and what a session has of one that passed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import proofs

pytestmark = pytest.mark.once


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the proofs are of, whose record is that of this copy."""
    for pattern in (*proofs.SOURCES, *(f"{folder}/*.py" for folder in proofs.FOLDER.values())):
        for path in proofs.ROOT.glob(pattern):
            copy = tmp_path / path.relative_to(proofs.ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    monkeypatch.setattr(proofs, "ROOT", tmp_path)
    monkeypatch.setattr(proofs, "RECORD", tmp_path / "proofs.json")
    monkeypatch.setattr(proofs, "EVERYTHING", False)
    monkeypatch.setattr(proofs.importlib.metadata, "version", lambda package: "1.0")
    proofs.RECORD.write_text(json.dumps({proof: proofs.digest(proof) for proof in proofs.FOLDER}))
    return tmp_path


@pytest.mark.parametrize(
    "path, again",
    [
        ("afa_kernels/triton_kernels/_gate.py", {"ttsem", "interpreter"}),
        ("afa_kernels/ops/attentive_fusion.py", {"ttsem", "interpreter"}),
        ("tests/cases/attentive_fusion.py", {"ttsem", "interpreter"}),
        ("tests/battery/test_values.py", {"interpreter"}),
        ("tests/ttsem/test_kernels.py", {"ttsem"}),
    ],
)
def test_a_change_asks_for_the_proofs_of_it(tree: Path, path: str, again: set[str]) -> None:
    assert all(proofs.passed.__wrapped__(proof) for proof in proofs.FOLDER)
    with (tree / path).open("a") as file:
        file.write("\n")
    assert {proof for proof in proofs.FOLDER if not proofs.passed.__wrapped__(proof)} == again


def test_everything_is_asked_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "EVERYTHING", True)
    assert not any(proofs.passed.__wrapped__(proof) for proof in proofs.FOLDER)


def test_another_version_asks_for_all(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs.importlib.metadata, "version", lambda package: "1.1")
    assert not any(proofs.passed.__wrapped__(proof) for proof in proofs.FOLDER)
