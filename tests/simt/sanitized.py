"""Run values.py in a process of its own, with a sanitizer loaded or without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import build

VALUES = Path(__file__).with_name("values.py")
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "exitcode=66",
    "OMP_NUM_THREADS": "1",  # PyTorch's workers are not what is looked at
}


def run(sanitizer: str, library: Path, test: str = "") -> subprocess.CompletedProcess[str]:
    """The values of all cases, or one test of values.py, with the library's kernels under the sanitizer, or "none"."""
    environment = {
        **os.environ,
        **OPTIONS,
        **build.preloaded(sanitizer),
        "AFA_KERNELS_SIMT": sanitizer,
        "AFA_KERNELS_SIMT_LIBRARY": str(library),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-n0", "-p", "no:cacheprovider", f"{VALUES}{test}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)
