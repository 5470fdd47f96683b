"""smoke: what is here, what it reaches at best, and that every operation gives the reference's values."""

from __future__ import annotations

import functools
import platform
import shutil
import statistics
import subprocess
import sys
from typing import Any

import torch

import afa_kernels
from benchmarks.gpu.session import Session, SkippedError
from benchmarks.gpu.timing import Timer, microseconds

CLOCKS = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu,memory.total"


def run(session: Session) -> None:
    timer = Timer(session.device)

    def versions() -> None:
        found = {"python": platform.python_version(), "cuda": torch.version.cuda, "system": platform.platform()}
        chosen = afa_kernels.backend_info().chosen[session.device]
        session.record(item="versions", outcome="passed", chosen=chosen, afa_kernels=afa_kernels.__version__, **found)

    def device() -> None:
        if session.quick:
            raise SkippedError("no GPU is asked for")
        p = torch.cuda.get_device_properties(0)
        found: dict[str, Any] = {"multiprocessors": p.multi_processor_count, "capability": f"{p.major}.{p.minor}"}
        session.record(item="device", outcome="passed", memory_bytes=p.total_memory, **found)

    def clocks() -> None:
        if shutil.which("nvidia-smi") is None:
            raise SkippedError("nvidia-smi is not on PATH")
        command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()[0]
        values = dict(zip(CLOCKS.split(","), said.split(", ")))
        session.record(item="clocks", outcome="passed", **{key.replace(".", "_"): v for key, v in values.items()})

    def copy() -> None:
        for moved in (2**22,) if session.quick else (2**22, 2**24, 2**26, 2**28, 2**30):
            seconds = timer.copy(moved)
            found = {"gigabytes_per_second": moved / statistics.median(seconds) / 1e9, **microseconds(seconds)}
            session.record(item="copy", outcome="passed", bytes=moved, **found)

    def matmul(dtype: torch.dtype, tf32: bool) -> None:
        size = 128 if session.quick else 8192
        a, b = (torch.randn(size, size, device=session.device).to(dtype) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = tf32
        seconds = timer.gpu(lambda: a @ b)
        torch.backends.cuda.matmul.allow_tf32 = False
        rate = 2 * size**3 / statistics.median(seconds) / 1e12
        name = "tf32" if tf32 else str(dtype).removeprefix("torch.")
        session.record(item="matmul", outcome="passed", dtype=name, teraflops=rate, **microseconds(seconds))

    session.go({"versions": versions, "device": device, "clocks": clocks, "copy": copy})
    kinds = ((torch.float16, False), (torch.bfloat16, False), (torch.float32, False), (torch.float32, True))
    session.go({f"matmul {d}, TF32 {tf32}": functools.partial(matmul, d, tf32) for d, tf32 in kinds})
    program = [sys.executable, "-m", "benchmarks.gpu.calls", session.device]
    session.together({op: [*program, op] for op in session.ops}, session.budget)
