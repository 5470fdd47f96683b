"""sanitizer: compute-sanitizer's tools over small calls of each operation."""

from __future__ import annotations

import functools
import os
import shutil
import sys

from benchmarks.gpu.session import Session, SkippedError

TOOLS = ("memcheck", "racecheck", "initcheck")
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/extras/compute-sanitizer", "/opt/cuda/bin")


def run(session: Session) -> None:
    session.go({tool: functools.partial(under, session, tool) for tool in TOOLS})


def under(session: Session, tool: str) -> str:
    names = session.ops[:2] if session.quick else session.ops
    program = [sys.executable, "-m", "benchmarks.gpu.calls", session.device]
    wrapper: list[str] = []
    if session.device == "cuda":
        found = shutil.which("compute-sanitizer", path=os.pathsep.join((os.environ.get("PATH", ""), *PLACES)))
        if found is None:
            raise SkippedError("compute-sanitizer is not on PATH")
        wrapper = [found, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
    elif tool != TOOLS[0]:
        raise SkippedError("a dry run is without compute-sanitizer, once")
    commands = {f"{tool} {op}": [*wrapper, *program, op] for op in names}
    bad = session.bad
    session.together(commands, session.budget / len(TOOLS), PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    assert session.bad == bad, f"{session.bad - bad} failures, each in a line of its own"
    return "nothing reported"
