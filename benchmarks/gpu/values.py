"""values: the tests that are marked `device`, on the device; a line per failure, and a tally as they go."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys

from benchmarks.gpu.session import PROCESSES, Session, SkippedError
from benchmarks.run import ROOT

FIRST = ("test_values.py", "test_gradients.py")  # the others follow


def run(session: Session) -> None:
    session.go({"tests": lambda: tests(session)})


def tests(session: Session) -> str | None:
    if importlib.util.find_spec("pytest") is None:
        raise SkippedError("pytest is not installed")
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if "mark.device" in file.read_text()]
    files.sort(key=lambda file: (*(file.name != first for first in FIRST), file))
    command = [sys.executable, "-m", "pytest", "-q", *map(str, files), "-m", "device", "-p", "benchmarks.gpu.recording"]
    command += ["-p", "no:cacheprovider", "--continue-on-collection-errors", "--tb=short"]
    if session.quick:
        command += ["-k", "test_values and few_values and attentive_fusion"]
    elif importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(PROCESSES)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # Of a pytest around this one, whose worker this pytest would take itself for, nothing.
    outer = {name: value for name, value in session.environment().items() if not name.startswith("PYTEST_")}
    variables = {**outer, "AFA_KERNELS_TEST_DEVICE": session.device, "PYTHONPATH": path}
    process = subprocess.Popen(command, cwd=ROOT, env=variables, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        status = process.wait(timeout=max(1.0, session.left()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)
        raise SkippedError("the budget is spent; the last tally says what ran") from None
    assert status == 0, f"pytest ended with status {status}"
    return f"pytest ended with status {status}"
