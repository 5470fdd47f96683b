"""Time on a GPU with a cold L2 cache, time on the CPU alone, and what a copy reaches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

L2 = 2**28  # bytes, more than the cache of any GPU
LEAST, MOST, BURSTS, BURST = 7, 100, 5, 10
LONG = 5e-3  # seconds of a call that is timed alone: as many as fill the queue of launches would wait for the GPU


class Timer:
    def __init__(self, device: str, seconds: float = 0.1) -> None:
        self.device, self.seconds = device, seconds if device == "cuda" else 0.0
        self.cold = torch.zeros(L2 // 4, device=device) if device == "cuda" else torch.zeros(1)
        self.copied: dict[int, list[float]] = {}

    def gpu(self, function: Callable[[], Any]) -> list[float]:
        """Return the seconds that the GPU spends on a call, many times.

        Before each the cache is filled with other memory, by reading, so that nothing is left to be written back. Then
        the GPU waits until the CPU has launched everything: gaps between launches do not count.
        """
        if self.device == "cpu":
            return self._cpu(function)
        for _ in range(2):
            function()
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        launching = time.perf_counter() - start
        torch.cuda.synchronize()
        found: list[float] = []
        began, end_at = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        spent = time.perf_counter()
        while len(found) < LEAST or (time.perf_counter() - spent < self.seconds and len(found) < MOST):
            self.cold.sum()
            torch.cuda._sleep(int(3e9 * launching) + 20_000)  # cycles, of which there are fewer than 3e9 a second
            began.record()
            result = function()
            end_at.record()
            end_at.synchronize()
            found.append(began.elapsed_time(end_at) / 1e3)
            del result
        return found

    def _cpu(self, function: Callable[[], Any]) -> list[float]:
        found = []
        for _ in range(LEAST):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
        return found

    def cpu(self, function: Callable[[], Any]) -> float:
        """Return the median seconds that the CPU spends on a call without waiting for the GPU."""
        self.synchronize()
        start = time.perf_counter()
        function()
        short = self.device == "cuda" and time.perf_counter() - start < LONG
        found = []
        for _ in range(BURSTS):
            self.synchronize()
            start = time.perf_counter()
            for _ in range(BURST if short else 1):
                function()
            found.append((time.perf_counter() - start) / (BURST if short else 1))
        self.synchronize()
        return statistics.median(found)

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def copy(self, moved: int) -> list[float]:
        """Return the seconds of a copy that reads and writes `moved` bytes in all, timed the same way."""
        if moved not in self.copied:
            source = torch.ones(max(1, moved // 8), device=self.device)
            destination = torch.empty_like(source)
            self.copied[moved] = self.gpu(lambda: destination.copy_(source))
        return self.copied[moved]

    def bandwidth(self) -> float:
        """Return the bytes a second that a copy of half a gibibyte reads and writes."""
        moved = 2**30 if self.device == "cuda" else 2**22
        return moved / statistics.median(self.copy(moved))


def microseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return the 20th, 50th and 80th percentile."""
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    of = {"p20_us": fifths[0], "p50_us": statistics.median(seconds), "p80_us": fifths[3]}
    return {key: round(1e6 * s, 3) for key, s in of.items()}
