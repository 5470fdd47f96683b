"""Which backends exist here, why one is missing, and the one place where a backend is chosen.

A backend is a set of implementations of the same operations, of which it may lack some:

    triton      Triton kernels, for CUDA tensors (and for CPU tensors under Triton's interpreter, TRITON_INTERPRET=1)
    cuda        the compiled library of CUDA C++ kernels, for CUDA tensors
    cpu         the compiled C++ library, for CPU tensors
    reference   plain PyTorch, for every device: the specification the others answer to

The automatic choice is the first backend of `ORDER[device type]` that has the operation and can run here. An operation
made of ATen's own kernels (`aten_kernels/`) runs on these on every device, whatever is asked for but the reference;
where a backend that has kernels of its `parts` would be the choice, or is asked for and can run, these are its kernels.
In an ONNX export the automatic choice is the reference, whose operators every runtime has.

The first call on CPU tensors that lands on the reference without having asked for it warns, once a process, with the
remedy; the environment variable AFA_KERNELS_QUIET=1 silences it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

from afa_kernels._version import __version__

NAMES = ("triton", "cuda", "cpu", "reference")
ORDER: dict[str, tuple[str, ...]] = {"cuda": ("triton", "cuda", "reference"), "cpu": ("cpu", "reference")}
_OTHER_DEVICES = ("reference",)
_DISPATCH_KEYS = {"cuda": "CUDA", "cpu": "CPU"}  # of the compiled libraries' kernels

_Answer = TypeVar("_Answer", bound=Callable[..., object])


@dataclass(eq=False)
class _Block:
    """A `use_backend` block that has been entered and not yet left."""

    name: str


_forced: str | None = None  # the name of the last of _blocks: a plain global, which torch.compile can read and guard
_blocks: list[_Block] = []
_lock = threading.Lock()


def _constant_when_compiled(function: _Answer) -> _Answer:
    """torch.compiler.assume_constant_result, which would import the whole compiler to set this one mark."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every operation inside the `with` block on the backend `name`: "triton", "cuda", "cpu" or
    "reference".

    A backend that cannot run for the tensors it is given raises a RuntimeError with the reason; it never falls back.
    The choice is made once for each call of an operation, and its backward pass runs on the same backend, wherever it
    is called. The choice is the process's, for all its threads; blocks may nest, and of blocks that overlap in several
    threads the one entered last decides.

    >>> import torch, afa_kernels
    >>> with afa_kernels.use_backend("reference"):
    ...     weights, transmittance = afa_kernels.scale_space_weights(torch.zeros(1, 2, 4, 4))
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(map(repr, NAMES))}, got {name!r}")
    block = _Block(name)
    _update(lambda: _blocks.append(block))
    try:
        yield
    finally:
        _update(lambda: _blocks.remove(block))


def _update(change: Callable[[], None]) -> None:
    global _forced
    with _lock:
        change()
        _forced = _blocks[-1].name if _blocks else None


def choose(op: str, device_type: str) -> str | None:
    """What runs `op` for tensors of `device_type`: "reference", the kernels of the backend asked for, or None.

    None stands for the kernels that are the automatic choice on the device where the call arrives, so that a compiled
    or exported program names no backend that nobody asked for. The answer goes with the call, and on to backward.
    """
    forced = _forced
    if forced is None:
        return "reference" if _automatic_of_a_call(op, device_type) == "reference" else None
    reason = why_not(forced, op, device_type)
    if reason is not None and not made_of_aten(op):
        raise RuntimeError(f"the backend {forced!r} cannot run on {device_type} tensors: {reason}")
    return forced


def has_kernel(op: str, device_type: str) -> bool:
    """Whether a kernel would run `op`, not the reference: what is one operation here is several in plain PyTorch."""
    name = _forced or _automatic_of_a_call(op, device_type)
    return name != "reference" and why_not(name, op, device_type) is None


@_constant_when_compiled
def _automatic_of_a_call(op: str, device_type: str) -> str:
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():  # whose operators are the standard's
        return "reference"
    name = automatic(op, device_type)
    if name == "reference" and device_type == "cpu":
        _warn(str(why_not("cpu", op, device_type)))
    return name


@functools.cache
def _warn(reason: str) -> None:
    if os.environ.get("AFA_KERNELS_QUIET", "") in ("", "0"):
        warnings.warn(
            f"afa_kernels runs plain PyTorch on CPU tensors, slower and larger than its C++ library: {reason}. "
            "AFA_KERNELS_QUIET=1 silences this; `python -m afa_kernels` tells what there is.",
            stacklevel=9,  # the caller of the operation, by way of its plans
        )


@_constant_when_compiled
def automatic(op: str, device_type: str) -> str:
    """The first backend of `ORDER` that can run `op` for tensors of `device_type`; "aten" if it is made of that."""
    return "aten" if made_of_aten(op) else _first(op, device_type)


def available(op: str, device_type: str) -> tuple[str, ...]:
    """The backends that can run `op` for tensors of `device_type`, in the order of choice."""
    order = ORDER.get(device_type, _OTHER_DEVICES)
    rest = tuple(name for name in NAMES if name not in order)
    return tuple(name for name in order + rest if why_not(name, op, device_type) is None)


@_constant_when_compiled
def why_not(name: str, op: str, device_type: str) -> str | None:
    """Why the backend `name` cannot run `op` for tensors of `device_type` here, or None where it can."""
    if name == "reference":
        return None
    missing = {"cpu": _missing_for_cpu, "cuda": _missing_for_cuda, "triton": _missing_for_triton}
    reason = missing[name](device_type)
    if reason is None and not _has(name, op) and not made_of_aten(op):
        return f"it has no {op}"
    return reason


def _missing_for_cpu(device_type: str) -> str | None:
    return _load_library() if device_type == "cpu" else "the C++ library computes on CPU tensors only"


def _missing_for_cuda(device_type: str) -> str | None:
    return _load_cuda_library() if device_type == "cuda" else "the CUDA library computes on CUDA tensors only"


def _missing_for_triton(device_type: str) -> str | None:
    reason = _triton_missing()
    if reason is not None:
        return reason
    if device_type == "cuda" or (device_type == "cpu" and _triton_interpreted()):
        return None
    return "Triton kernels run on CUDA tensors (on CPU tensors only in Triton's interpreter, TRITON_INTERPRET=1)"


def _has(name: str, op: str) -> bool:
    if name in _DISPATCH_KEYS:
        return _registered(name, f"{op}_forward")
    return importlib.util.find_spec(f"afa_kernels.triton_kernels.{op}") is not None


def _registered(name: str, native_op: str) -> bool:
    """Whether the compiled library of the backend `name` has a kernel of `afa_native::native_op`."""
    return hasattr(torch.ops.afa_native, native_op) and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"afa_native::{native_op}", _DISPATCH_KEYS[name]
    )


@_constant_when_compiled
@functools.cache
def made_of_aten(op: str) -> bool:
    """Whether `op` has no kernel of ours, but one made of ATen's own, of which a backend may have `parts`."""
    if importlib.util.find_spec(f"afa_kernels.aten_kernels.{op}") is None:
        return False
    return hasattr(importlib.import_module(f"afa_kernels.aten_kernels.{op}"), "forward")


@functools.cache
def of_aten(function: str) -> Callable[..., Any]:
    """The function of `aten_kernels` of the name "module.name"."""
    module, name = function.split(".")
    return getattr(importlib.import_module(f"afa_kernels.aten_kernels.{module}"), name)


@functools.cache
def parts(op: str, device_type: str, backend: str | None) -> ModuleType | None:
    """The launchers of parts of `op`, which is made of ATen's kernels, on `backend`; None where they are ATen's too.

    Without a `backend`, on what would be the automatic choice if none were ATen's.
    """
    name = _first(op, device_type) if backend is None else backend
    package = {"triton": "triton_kernels", "cuda": "native_kernels", "cpu": "native_kernels"}.get(name)
    if package is None or why_not(name, op, device_type) is not None:
        return None
    module = f"afa_kernels.{package}.{op}"
    if importlib.util.find_spec(module) is None:
        return None
    launchers = importlib.import_module(module)
    return launchers if name == "triton" or _registered(name, launchers.FIRST) else None


def on_triton(op: str, device_type: str, backend: str | None) -> bool:
    """Whether a call of `op` that asks for `backend`, or for none, launches Triton kernels."""
    if backend is None:
        return _first(op, device_type) == "triton"
    return backend == "triton" and why_not(backend, op, device_type) is None


@functools.cache
def _first(op: str, device_type: str) -> str:
    """The backend that would be chosen if `op` were not made of ATen's kernels."""
    return available(op, device_type)[0]


@functools.cache
def launcher(op: str, device_type: str, backend: str | None) -> Callable[..., None]:
    """The function that fills the outputs of `op`, such as "attentive_fusion_forward", on `backend`.

    Without a `backend`, on the automatic choice.
    """
    stem, direction = op.rsplit("_", 1)
    name = automatic(stem, device_type) if backend is None else backend
    reasons = [f"{n}: {why_not(n, stem, device_type)}" for n in (NAMES[:-1] if name == "reference" else (name,))]
    if name == "reference" or why_not(name, stem, device_type) is not None:
        raise RuntimeError(f"afa::{op} has no kernel for {device_type} tensors here ({'; '.join(reasons)})")
    if name in _DISPATCH_KEYS:
        return getattr(torch.ops.afa_native, op).default
    return getattr(importlib.import_module(f"afa_kernels.triton_kernels.{stem}"), direction)


def _library(stem: str) -> Path | None:
    """The file of the compiled library of exactly this name, if this installation has it."""
    folder = Path(__file__).parent
    return next(
        (p for suffix in importlib.machinery.EXTENSION_SUFFIXES if (p := folder / f"{stem}{suffix}").exists()), None
    )


@functools.cache
def _load_library() -> str | None:
    """Load the compiled library into the process; the reason when there is none or it does not load."""
    found = _library("_native")
    if found is None:
        return (
            "this installation has no compiled library; install again where a C++ compiler is on the PATH: "
            "pip install --force-reinstall --no-deps ."
        )
    try:
        torch.ops.load_library(found)
    except OSError as error:
        return f"{found} does not load with torch {torch.__version__}: {error}"
    return None


@functools.cache
def _load_cuda_library() -> str | None:
    """Load the compiled library of CUDA kernels, after the one that has the schemas; else the reason."""
    found = _library("_native_cuda")
    if found is None:
        return (
            "this installation has no compiled CUDA library; install with nvcc and a C++ compiler, with a CUDA build "
            "of torch already installed: pip install --no-build-isolation ."
        )
    reason = _load_library()
    if reason is not None:
        return reason
    try:
        torch.ops.load_library(found)
    except OSError as error:
        needs = "" if torch.version.cuda else ", which is no CUDA build"
        return f"{found} does not load with torch {torch.__version__}{needs}: {error.__cause__ or error}"
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
    """What `backend_info` found. `chosen` and `missing` go by device type: the backend, and a reason per backend.

    A device type that this torch is built without is in `missing` alone.

    `modules` goes by the name of a module within the model: None where it runs fused, else the reason why it does not.
    """

    versions: dict[str, str]
    chosen: dict[str, str]
    missing: dict[str, dict[str, str]]
    modules: dict[str, str | None]

    def __str__(self) -> str:
        lines = ["afa_kernels: " + ", ".join(f"{name} {version}" for name, version in self.versions.items())]
        for device in self.missing:
            lines.append(f"{device} tensors: {self.chosen.get(device, 'none here')}")
            lines += [f"    not {name}: {reason}" for name, reason in self.missing[device].items()]
        for name, reason in self.modules.items():
            lines.append(f"{name or 'the model'}: {'fused' if reason is None else f'not fused: {reason}'}")
        return "\n".join(lines)


def backend_info(model: torch.nn.Module | None = None) -> BackendInfo:
    """What exists here, what the automatic choice is for each kind of tensor, and why not the others.

    `print(afa_kernels.backend_info())`, or `python -m afa_kernels` from a shell. With a `model`, also which of its
    modules of `afa_kernels.nn` run fused, and why the others call their children instead.

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
    op = "attentive_fusion"  # which every backend has
    chosen = {d: automatic(op, d) for d in devices}
    missing = {d: {n: r for n in NAMES if (r := why_not(n, op, d)) is not None} for d in devices}
    if torch.version.cuda is None and torch.version.hip is None:
        del chosen["cuda"]
        missing["cuda"] = {"cuda": f"torch {torch.__version__} is built without CUDA"}
    elif not torch.cuda.is_available():
        missing["cuda"]["cuda"] = f"torch {torch.__version__} sees no CUDA device"
    modules: dict[str, str | None] = {}
    if model is not None:
        from afa_kernels.nn import fusing  # not at import: a user of the operations needs no modules

        modules = fusing(model)
    return BackendInfo(versions, chosen, missing, modules)
