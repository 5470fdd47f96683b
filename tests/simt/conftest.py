"""A session of its own: the CUDA kernels of csrc/cuda and their launchers, compiled by g++, on CPU tensors.

simt.hpp is CUDA's execution model there. It shows values, races, accesses out of bounds and barriers that not every
thread reaches; nothing of what nvcc makes of the kernels, which tests/cuda looks at, and no time.
AFA_KERNELS_SIMT=address or =thread has the library compiled with that sanitizer, which must be preloaded.
"""

from __future__ import annotations

import os

import build
import pytest
import torch

from afa_kernels import backends

SANITIZER = os.environ.get("AFA_KERNELS_SIMT", "none")

if os.environ.get("TRITON_INTERPRET") == "1":
    raise pytest.UsageError("tests/simt needs no interpreter: unset TRITON_INTERPRET")
if (reason := build.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

# The kernels are registered for CPU tensors, in the place of the library for the CPU, which is not loaded here.
torch.ops.load_library(os.environ.get("AFA_KERNELS_SIMT_LIBRARY") or build.library(SANITIZER))
backends._DISPATCH_KEYS["cuda"] = "CPU"
backends._missing_for_cuda = lambda device_type: None
backends._load_library = lambda: "this session has the CUDA kernels on CPU tensors"
