"""A stage's record, written line by line, and its budget of time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import functools
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from afa_kernels.testing import operations
from benchmarks.run import ROOT, commit, processor, version

BUDGET = 420.0  # seconds of a stage
PROCESSES = 14  # at a time, where nothing is timed
_writing = threading.Lock()
_T = TypeVar("_T")


class SkippedError(Exception):
    """Why something cannot run here."""


@dataclass
class Session:
    stage: str
    device: str = "cuda"
    output: str | None = None
    budget: float = BUDGET
    ops: tuple[str, ...] = field(default_factory=lambda: tuple(operations()))
    began: float = field(default_factory=time.time)
    command: str = field(default_factory=lambda: shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]))
    bad: int = 0  # failures and refusals

    @property
    def quick(self) -> bool:
        """Whether this is a dry run."""
        return self.device == "cpu"

    def left(self) -> float:
        """Return the seconds of the budget that are left."""
        return self.began + self.budget - time.time()

    def record(self, **fields: Any) -> None:
        """Append a line to the record at once, and say it."""
        self.bad += fields.get("outcome") == "failed" or "refused" in fields
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        line = {"stage": self.stage, **fields, **_circumstances(self.device), "date": now, "command": self.command}
        if self.output is not None:
            with _writing, Path(self.output).open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        said = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in fields.items() if k != "shapes"
        )
        print(f"{self.stage}: {said}", flush=True)

    def go(self, items: Mapping[str, Callable[[], str | None]], share: float = 1.0) -> None:
        """Run the items in order, until the budget or the stage's `share` of it is spent.

        An item that returns says what it showed, or None where it has made records of its own. One that raises is a
        failure, and the next one follows, unless the device is lost.
        """
        until = min(time.time() + share * self.budget, self.began + self.budget)
        for i, (item, run) in enumerate(items.items()):
            if time.time() >= until:
                self.record(item="the rest", outcome="skipped", detail="the budget is spent", skipped=[*items][i:])
                return
            if not self._went(item, run) and self.device == "cuda" and _lost():
                rest = [*items][i + 1 :]
                self.record(item="the rest", outcome="skipped", detail="the device is lost", skipped=rest)
                return

    def _went(self, item: str, run: Callable[[], str | None]) -> bool:
        try:
            detail = run()
        except SkippedError as reason:
            self.record(item=item, outcome="skipped", detail=str(reason))
        except Exception as error:
            self.record(item=item, outcome="failed", detail=f"{type(error).__name__}: {error}"[-2000:])
            return False
        else:
            if detail is not None:
                self.record(item=item, outcome="passed", detail=detail)
        return True

    def together(self, commands: Mapping[str, Sequence[str]], seconds: float, **variables: str) -> None:
        """Run commands, several at a time and each for at most `seconds`, and record the lines of JSON that they print.

        What they print is right or wrong; no time that they measured would be worth anything.
        """
        with concurrent.futures.ThreadPoolExecutor(min(PROCESSES, os.cpu_count() or 1)) as pool:
            for item, command in commands.items():
                pool.submit(self._went, item, functools.partial(self._relay, command, seconds, variables))

    def _relay(self, command: Sequence[str], seconds: float, variables: Mapping[str, str]) -> None:
        """Record what a process prints, each line as it comes; a status that is not 0 is a failure."""
        if self.left() <= 0:
            raise SkippedError("the budget is spent")
        limit = max(1.0, min(seconds, self.left()))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        process = subprocess.Popen(
            ["timeout", "-k", "5", str(limit), *command],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        said = []
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                self.record(**json.loads(line))
            else:
                said.append(line)
        if process.wait() != 0:
            raise AssertionError(f"status {process.returncode}: {''.join(said[-30:])}")

    def environment(self) -> dict[str, str]:
        """Return the variables with which another process continues this session."""
        return {**os.environ, "AFA_KERNELS_GPU_SESSION": json.dumps(asdict(self))}


def in_processes(function: Callable[[_T], int], items: Sequence[_T], seconds: float) -> int:
    """Call the function on the items in processes of their own, and return the sum of what came well and in time."""
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(min(PROCESSES, os.cpu_count() or 1), mp_context=context)
    done, late = concurrent.futures.wait([pool.submit(function, item) for item in items], seconds)
    for process in [*pool._processes.values()] if late else []:
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
    return sum(future.result() for future in done if future.exception() is None)


def from_environment() -> Session:
    fields = json.loads(os.environ["AFA_KERNELS_GPU_SESSION"])
    return Session(**{**fields, "ops": tuple(fields["ops"])})


@functools.cache
def _circumstances(device: str) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "commit": commit(),
    }


def _lost() -> bool:
    """Whether the device answers no more, as after an access out of bounds."""
    with contextlib.suppress(Exception):
        torch.cuda.synchronize()
        return False
    return True
