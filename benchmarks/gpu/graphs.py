"""graphs: each operation in a fresh process that captures it right after `warmup`, and AOTInductor."""

from __future__ import annotations

import sys

from benchmarks.gpu.session import Session

SECONDS = 120.0  # of one process


def run(session: Session) -> None:
    names = session.ops[:2] if session.quick else session.ops
    program = [sys.executable, "-m", "benchmarks.gpu.fresh", session.device]
    session.together({op: [*program, op] for op in (*names, "aot_inductor")}, SECONDS)
