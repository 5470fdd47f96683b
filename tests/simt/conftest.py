"""A session of its own: the CUDA kernels of csrc/cuda and their launchers, compiled by g++, on CPU tensors.

simt.hpp is CUDA's execution model there. It shows values, races, accesses out of bounds and barriers that not every
thread reaches; nothing of what nvcc makes of the kernels, which tests/cubin looks at, and no time.

Values and sanitizers are processes that this session starts (`sanitized.py`), as a sanitizer must be loaded before all
else. To run a case in this process, without any: pytest tests/simt/values.py -k CASE
"""

from __future__ import annotations

import os

import build
import pytest
import torch

from afa_kernels import backends

if os.environ.get("TRITON_INTERPRET") == "1":
    raise pytest.UsageError("tests/simt is not for Triton's interpreter: unset TRITON_INTERPRET")
if (reason := build.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="session")
def kernels() -> None:
    """The kernels, registered for CPU tensors in place of the library for the CPU, which is not loaded here."""
    torch.ops.load_library(os.environ.get("AFA_KERNELS_SIMT_LIBRARY") or build.library())
    backends._DISPATCH_KEYS["cuda"] = "CPU"
    backends._missing_for_cuda = lambda device_type: None
    backends._load_library = lambda: "this session has the CUDA kernels on CPU tensors"
