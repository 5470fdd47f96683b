"""graphs: each operation in a fresh process that captures it right after `warmup`, and AOTInductor."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

from benchmarks.gpu.session import Session
from benchmarks.run import ROOT

SECONDS = 120.0  # of one process


def run(session: Session) -> None:
    names = session.ops[:2] if session.quick else session.ops
    program = [sys.executable, "-m", "benchmarks.gpu.fresh", session.device]
    session.go({op: functools.partial(relay, session, [*program, op], SECONDS) for op in (*names, "aot_inductor")})


def relay(session: Session, command: list[str], seconds: float, **variables: str) -> None:
    """Record the lines of JSON that a process prints, each as it comes; a status that is not 0 is a failure."""
    limit = max(1.0, min(seconds, session.left()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    process = subprocess.Popen(
        ["timeout", "-k", "5", str(limit), *command],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            session.record(**json.loads(line))
        else:
            said.append(line)
    if process.wait() != 0:
        raise AssertionError(f"status {process.returncode}: {''.join(said[-30:])}")
