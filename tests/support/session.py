"""Which backends this session tests, and which kernels they have."""

from __future__ import annotations

import importlib
import importlib.util
import os

import pytest
import torch

from afa_kernels import backends
from afa_kernels.testing import DEVICE

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def backends_of_session() -> tuple[str, ...]:
    if DEVICE != "cpu":
        return ("triton", "cuda")
    return ("triton",) if INTERPRETED else ("reference", "cpu")


def runnable(name: str) -> str:
    """The backend of that name; the test is skipped, or fails where it is required, if it cannot run."""
    reason = backends.why_not(name, "attentive_fusion", DEVICE)
    if reason is not None and name in os.environ.get("AFA_KERNELS_REQUIRE", "").split(","):
        pytest.fail(f"AFA_KERNELS_REQUIRE names the backend {name}, which cannot run: {reason}")
    if reason is not None:
        pytest.skip(f"the backend {name} cannot run: {reason}")
    return name


def on_triton(op: str) -> bool:
    """Whether Triton has kernels of `op`: all of it, or parts of what is made of ATen's kernels."""
    return importlib.util.find_spec(f"afa_kernels.triton_kernels.{op}") is not None


def has_kernel(backend: str, op: str) -> bool:
    """Whether the backend has a launcher for `op`, such as "attentive_fusion_forward"."""
    if backend in ("cpu", "cuda"):
        return backends._has(backend, op.rsplit("_", 1)[0]) and hasattr(torch.ops.afa_native, op)
    stem, direction = op.rsplit("_", 1)
    if importlib.util.find_spec(f"afa_kernels.triton_kernels.{stem}") is None:
        return False
    return hasattr(importlib.import_module(f"afa_kernels.triton_kernels.{stem}"), direction)
