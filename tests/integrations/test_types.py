"""What type checkers see of the package as a user has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pyright(*arguments: str | Path, folder: Path) -> dict:
    pytest.importorskip("pyright")
    python = Path(sys.executable).parent
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "pyright", "--outputjson", *map(str, arguments)]
    return json.loads(subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout)


def test_the_public_interface_is_typed(tmp_path: Path) -> None:
    found = pyright("--verifytypes", "afa_kernels", "--ignoreexternal", folder=tmp_path)["typeCompleteness"]
    unknown = [s["name"] for s in found["symbols"] if s["isExported"] and not s["isTypeKnown"]]
    assert found["exportedSymbolCounts"]["withKnownType"] > 300 and unknown == []


def test_what_a_user_writes_is_typed(tmp_path: Path) -> None:
    snippet = tmp_path / "user.py"
    snippet.write_text((ROOT / "tests" / "support" / "typed_user.py").read_text())
    assert pyright(snippet, folder=tmp_path)["generalDiagnostics"] == []


def test_what_a_user_writes_is_typed_for_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        ROOT / "tests/support/typed_user.py",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
