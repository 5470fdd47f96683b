"""A stage's record, written line by line, and its budget of time."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from afa_kernels.testing import operations
from benchmarks.run import commit, processor, version

BUDGET = 420.0  # seconds of a stage


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
            with Path(self.output).open("a") as file:
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
            try:
                detail = run()
            except SkippedError as reason:
                self.record(item=item, outcome="skipped", detail=str(reason))
            except Exception as error:
                self.record(item=item, outcome="failed", detail=f"{type(error).__name__}: {error}"[-2000:])
                if self.device == "cuda" and _lost():
                    rest = [*items][i + 1 :]
                    self.record(item="the rest", outcome="skipped", detail="the device is lost", skipped=rest)
                    return
            else:
                if detail is not None:
                    self.record(item=item, outcome="passed", detail=detail)

    def environment(self) -> dict[str, str]:
        """Return the variables with which another process continues this session."""
        return {**os.environ, "AFA_KERNELS_GPU_SESSION": json.dumps(asdict(self))}


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
