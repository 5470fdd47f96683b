"""What the memory of this machine gives: a copy, and a = b + s * c with ordinary and with streaming stores.

An array is float32, far larger than the last cache, and written before. The bytes are those that a kernel must
move: every input read once, the output written once. An ordinary store first reads the line it writes to, which is not
counted; a streaming store does not.
"""

from __future__ import annotations

import ctypes
import functools
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from afa_kernels.testing import alternate

SOURCE = Path(__file__).with_suffix(".cpp")
# -fno-...: a copy is not to become memcpy, whose stores are streaming where the C library thinks so.
FLAGS = ("-O3", "-march=native", "-fno-builtin", "-fno-tree-loop-distribute-patterns", "-pthread", "-shared", "-fPIC")
ARRAYS = {"copy": 2, "triad": 3, "triad, streaming": 3}  # read and written, in the order of SOURCE
MOST = "triad, streaming"
ELEMENTS = 2**24


@functools.cache
def library() -> ctypes.CDLL:
    """Compile SOURCE for this machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "limits.so"
        subprocess.run([os.environ.get("CXX", "c++"), *FLAGS, str(SOURCE), "-o", str(path)], check=True)
        loaded = ctypes.CDLL(str(path))
    pointer = ctypes.c_void_p
    loaded.run.argtypes = [ctypes.c_int, ctypes.c_int, pointer, pointer, pointer, ctypes.c_float, ctypes.c_size_t]
    loaded.run.restype = None
    return loaded


def call(contestant: str, threads: int, arrays: Sequence[torch.Tensor]) -> None:
    """Write to the first array a copy of the second, or the second plus twice the third."""
    kernel = list(ARRAYS).index(contestant)
    library().run(kernel, threads, *(array.data_ptr() for array in arrays), 2.0, arrays[0].numel())


@functools.cache
def _arrays(elements: int) -> list[torch.Tensor]:
    return [torch.ones(elements) for _ in range(ARRAYS[MOST])]


def most(threads: int, elements: int = ELEMENTS, calls: int = 5) -> float:
    """Return the bytes a second that the streaming triad gets at this moment: the median of a few calls."""
    arrays = _arrays(elements)
    (taken,) = alternate({MOST: functools.partial(call, MOST, threads, arrays)}, repeats=calls).values()
    return ARRAYS[MOST] * arrays[0].nbytes / statistics.median(taken)


def measure(threads: int, seconds: float, elements: int = ELEMENTS) -> dict[tuple[str, int], tuple[int, list[float]]]:
    """Return the bytes and the seconds of each call, by contestant and threads: one, and as many as given."""
    arrays = _arrays(elements)
    keys = [(contestant, count) for contestant in ARRAYS for count in dict.fromkeys((1, threads))]
    times = alternate({str(key): functools.partial(call, *key, arrays) for key in keys}, seconds)
    return {key: (ARRAYS[key[0]] * arrays[0].nbytes, times[str(key)]) for key in keys}
