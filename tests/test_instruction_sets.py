"""The C++ kernels with the instructions of older processors, as ATEN_CPU_CAPABILITY asks for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from afa_kernels import backends

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        "cpu" not in backends.available("attentive_fusion", "cpu"), reason="the C++ library is not built"
    ),
]


@pytest.mark.parametrize("capability", ["default", "avx2"])
@pytest.mark.parametrize(
    "tests", [("battery/test_values.py", "-k", "cpu-"), ("test_streaming.py",)], ids=lambda t: t[0]
)
def test_values(tests: tuple[str, ...], capability: str) -> None:
    path, *chosen = tests
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / path), *chosen]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
