"""Meters of the memory that a call takes and saves, and of its time."""

from __future__ import annotations

import gc
import itertools
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def saved_storages(function: Callable[[], Any]) -> dict[int, int]:
    """Return the bytes of each storage that one call of `function` saves for backward, by its address."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function()  # keeps what was saved alive, so that no address is used twice
    del kept
    return saved


def saved_bytes(function: Callable[[], Any]) -> int:
    """Return the bytes one call of `function` saves for backward, its arguments included, a shared storage once."""
    return sum(saved_storages(function).values())


def peak_bytes(function: Callable[[], Any], device: str = "cpu") -> int:
    """Return the most bytes that one call of `function` holds at a time in tensors it allocates, its result included.

    Exact: the sum of the allocator's own events on the CPU, its statistics on CUDA. Memory that native code takes from
    the C++ heap for itself is not the allocator's and does not count.
    """
    if device != "cpu":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # below this level the profiler tells of its progress on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(held, default=0)


def alternate(
    functions: Mapping[str, Callable[[], Any]], seconds: float = 0.0, repeats: int = 7
) -> dict[str, list[float]]:
    """Return the seconds of each call of each function: at least `repeats` calls, and about `seconds` per function.

    After two calls of each that are not counted, the functions take turns in random order, so that other load, clock
    speed and the memory the one before left behind meet all of them alike. A result is freed before the next call: the
    page faults of fresh tensors are part of what is measured.
    """
    for function in functions.values():
        for _ in range(2):
            function()
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times: dict[str, list[float]] = {name: [] for name in functions}
    shuffler = random.Random(0)
    rounds, spent = 0, 0.0
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while rounds < repeats or spent < seconds * len(functions):
            rounds += 1
            for name in shuffler.sample(list(functions), len(functions)):
                synchronize()
                start = time.perf_counter()
                result = functions[name]()
                synchronize()
                times[name].append(time.perf_counter() - start)
                del result
                spent += times[name][-1]
    finally:
        if collecting:
            gc.enable()
    return times
