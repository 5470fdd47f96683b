"""Which backends exist here, why one is missing, and the one place where a backend is chosen.

A backend is a set of implementations of the same operations:

    triton      Triton kernels, for CUDA tensors (and for CPU tensors under Triton's interpreter, TRITON_INTERPRET=1)
    cpu         the compiled C++ library, for CPU tensors
    reference   plain PyTorch, for every device: the specification the others answer to

The automatic choice is the first backend of `ORDER[device type]` that can run here.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from afa_kernels._version import __version__

NAMES = ("triton", "cpu", "reference")
ORDER = {"cuda": ("triton", "reference"), "cpu": ("cpu", "reference")}
_OTHER_DEVICES = ("reference",)

_Answer = TypeVar("_Answer", bound=Callable[..., object])

_forced: str | None = None  # a plain global, which torch.compile can read and guard


def _constant_when_compiled(function: _Answer) -> _Answer:
    """torch.compiler.assume_constant_result, which would import the whole compiler to set this one mark."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every operation inside the `with` block on the backend `name`: "triton", "cpu" or "reference".

    A backend that cannot run for the tensors it is given raises a RuntimeError with the reason; it never falls back.
    The choice is the process's, for all its threads. A backward pass runs on the backend of its own moment, so let the
    block cover `.backward()` too.

    >>> import torch, afa_kernels
    >>> with afa_kernels.use_backend("reference"):
    ...     weights, transmittance = afa_kernels.scale_space_weights(torch.zeros(1, 2, 4, 4))
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(map(repr, NAMES))}, got {name!r}")
    global _forced
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous


def choose(device_type: str) -> str:
    """The backend an operation runs on for tensors of `device_type`: the one asked for, or the automatic choice."""
    if _forced is None:
        return automatic(device_type)
    reason = why_not(_forced, device_type)
    if reason is not None:
        raise RuntimeError(f"the backend {_forced!r} cannot run on {device_type} tensors: {reason}")
    return _forced


@_constant_when_compiled
def automatic(device_type: str) -> str:
    """The first backend of `ORDER` that can run for tensors of `device_type`."""
    return available(device_type)[0]


def available(device_type: str) -> tuple[str, ...]:
    """The backends that can run for tensors of `device_type`, in the order of choice."""
    order = ORDER.get(device_type, _OTHER_DEVICES)
    rest = tuple(name for name in NAMES if name not in order)
    return tuple(name for name in order + rest if why_not(name, device_type) is None)


@_constant_when_compiled
def why_not(name: str, device_type: str) -> str | None:
    """Why the backend `name` cannot run for tensors of `device_type` here, or None where it can."""
    if name == "reference":
        return None
    if name == "cpu":
        return _load_library() if device_type == "cpu" else "the C++ library computes on CPU tensors only"
    reason = _triton_missing()
    if reason is not None:
        return reason
    if device_type == "cuda" or (device_type == "cpu" and _triton_interpreted()):
        return None
    return "Triton kernels run on CUDA tensors (on CPU tensors only in Triton's interpreter, TRITON_INTERPRET=1)"


def launcher(op: str, device_type: str) -> Callable[..., None]:
    """The function that fills the outputs of `op` (such as "attentive_fusion_forward") on the chosen backend."""
    name = choose(device_type)
    if name == "reference":
        reasons = "; ".join(f"{kernel}: {why_not(kernel, device_type)}" for kernel in NAMES[:-1])
        raise RuntimeError(f"afa::{op} has no kernel for {device_type} tensors here ({reasons})")
    return _launcher(name, op)


@functools.cache
def _launcher(name: str, op: str) -> Callable[..., None]:
    if name == "cpu":
        return getattr(torch.ops.afa_native, op).default
    stem, direction = op.rsplit("_", 1)
    return getattr(importlib.import_module(f"afa_kernels.triton_kernels.{stem}"), direction)


@functools.cache
def _load_library() -> str | None:
    """Load the compiled library into the process; the reason when there is none or it does not load."""
    found = glob.glob(os.path.join(os.path.dirname(__file__), "_native*.so"))
    if not found:
        return (
            "this installation has no compiled library; install with a C++ compiler, with torch already installed: "
            "pip install --no-build-isolation ."
        )
    try:
        torch.ops.load_library(found[0])
    except OSError as error:
        return f"{found[0]} does not load with torch {torch.__version__}: {error}"
    return None


@functools.cache
def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed; on Linux: pip install triton"
    try:
        importlib.import_module("triton")
    except Exception as error:  # a broken installation can fail in any way; the reason is what the user needs
        return f"triton does not import: {error!r}"
    return None


def _triton_interpreted() -> bool:
    return bool(sys.modules["triton"].knobs.runtime.interpret)


@dataclass(frozen=True)
class BackendInfo:
    """What `backend_info` found. `chosen` and `missing` go by device type: the backend, and a reason per backend."""

    versions: dict[str, str]
    chosen: dict[str, str]
    missing: dict[str, dict[str, str]]

    def __str__(self) -> str:
        lines = ["afa_kernels: " + ", ".join(f"{name} {version}" for name, version in self.versions.items())]
        for device, backend in self.chosen.items():
            lines.append(f"{device} tensors: {backend}")
            lines += [f"    not {name}: {reason}" for name, reason in self.missing[device].items()]
        return "\n".join(lines)


def backend_info() -> BackendInfo:
    """What exists here, what the automatic choice is for each kind of tensor, and why not the others.

    `print(afa_kernels.backend_info())`, or `python -m afa_kernels` from a shell.

    >>> import afa_kernels
    >>> afa_kernels.backend_info().chosen["meta"]
    'reference'
    """
    triton = "not installed" if _triton_missing() else sys.modules["triton"].__version__
    versions = {
        "version": __version__,
        "torch": torch.__version__,
        "triton": triton,
        "python": platform.python_version(),
    }
    devices = (*ORDER, "meta")
    missing = {d: {n: r for n in NAMES if (r := why_not(n, d)) is not None} for d in devices}
    if not torch.cuda.is_available():
        missing["cuda"]["cuda device"] = f"torch {torch.__version__} sees no CUDA device"
    return BackendInfo(versions, {d: automatic(d) for d in devices}, missing)
