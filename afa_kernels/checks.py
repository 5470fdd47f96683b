"""What an argument must be. Each check names the argument, the rule and what came, before any kernel starts.

A check of a number returns it as Python's own: NumPy's integers, integer tensors without dimensions and whatever else
has `__index__` are integers, and torch.SymInt stays what it is.
"""

from __future__ import annotations

import contextlib
import itertools
import numbers
import operator
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def floating(name: str, value: object, dim: int = 4) -> None:
    """A dense tensor with `dim` dimensions and one of the four floating types."""
    _dense(name, value, dim, FLOATING)


def integral(name: str, value: object, dtypes: Sequence[torch.dtype], dim: int) -> None:
    """A dense tensor with `dim` dimensions and one of the integer types `dtypes`."""
    _dense(name, value, dim, dtypes)


def _dense(name: str, value: object, dim: int, dtypes: Sequence[torch.dtype]) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested:
        raise TypeError(f"{name} must be a dense (strided) tensor, got layout {value.layout}")
    if value.dtype not in dtypes:
        *most, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name} must have dtype {', '.join(most)} or {last}, got {value.dtype}")
    if value.dim() != dim:
        raise ValueError(f"{name} must have {dim} dimensions, got shape {tuple(value.shape)}")


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(f"{name} must be on {other.device} like {other_name}, got {value.device}")


def shape(name: str, value: Tensor | tuple[int, ...], expected: Sequence[int], other_name: str, other: Tensor) -> None:
    """`value`, a tensor or its shape, has the shape `expected`, which follows from `other`."""
    came = tuple(value.shape) if isinstance(value, Tensor) else value
    if came != tuple(expected):
        raise ValueError(
            f"{name} must have shape {tuple(expected)} to match {other_name} {tuple(other.shape)}, got {came}"
        )


def like(name: str, value: object, expected: Sequence[int], other_name: str, other: Tensor) -> None:
    """A floating tensor of the shape `expected`, which follows from `other`, and on its device."""
    floating(name, value, len(expected))
    assert isinstance(value, Tensor)
    shape(name, value, expected, other_name, other)
    same_device(name, value, other_name, other)


def pixels(name: str, value: Tensor, purpose: str = "resized") -> None:
    """`value` has at least one pixel."""
    if value.shape[2] == 0 or value.shape[3] == 0:
        raise ValueError(f"{name} must have at least one pixel to be {purpose}, got shape {tuple(value.shape)}")


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def count(name: str, value: int, most: int, of: str = "scales") -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name} must have 1 to {most} {of}, got {value}")


def sequence(name: str, value: object) -> None:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a list or tuple of tensors, got {type(value).__name__}")


def _as_integer(value: Any) -> Any:
    """`value` as an integer, or None if it is none. A bool is none."""
    if isinstance(value, (bool, torch.SymBool)) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return None
    if isinstance(value, (int, torch.SymInt)):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return None


def integer(name: str, value: object) -> int:
    found = _as_integer(value)
    if found is None:
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return found


def number(name: str, value: Any, least: float) -> float:
    """A number of at least `least`; a tensor is one if it has no dimensions."""
    found: Any
    if isinstance(value, (torch.SymInt, torch.SymFloat)):
        found = value
    elif isinstance(value, bool) or not isinstance(value, (numbers.Real, Tensor)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    elif isinstance(value, Tensor) and (value.dim() > 0 or value.dtype == torch.bool or value.is_complex()):
        raise TypeError(f"{name} must be a number, got a tensor of shape {tuple(value.shape)} and type {value.dtype}")
    else:
        found = value if type(value) in (int, float) else float(value)
    if not found >= least:
        raise ValueError(f"{name} must be at least {least:g}, got {value!r}")
    return found


def size(name: str, value: object) -> tuple[int, int]:
    """A pair (height, width) of positive integers."""
    found = [_as_integer(v) for v in value] if isinstance(value, (tuple, list)) else []
    if len(found) != 2 or None in found:
        raise TypeError(f"{name} must be a pair of integers (height, width), got {value!r}")
    if found[0] < 1 or found[1] < 1:
        raise ValueError(f"{name} must have a positive height and width, got {tuple(found)}")
    return found[0], found[1]


def pair(name: str, value: object, least: int) -> tuple[int, int]:
    """An integer, or a pair of them for height and width, as a pair."""
    found = [_as_integer(v) for v in (value if isinstance(value, (tuple, list)) else (value, value))]
    if len(found) != 2 or None in found:
        raise TypeError(f"{name} must be an integer or a pair of them (height, width), got {value!r}")
    if found[0] < least or found[1] < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return found[0], found[1]


def ascending(name: str, value: object, length: int | None = None) -> tuple[float, ...]:
    """`length` positive numbers, or any number of them but none, each larger than the one before."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a list or tuple of numbers, got {type(value).__name__}")
    found = tuple(number(f"{name}[{i}]", v, 0) for i, v in enumerate(value))
    if length is not None and len(found) != length:
        raise ValueError(f"{name} must have {length} numbers, one for each prediction, got {len(found)}")
    if not found:
        raise ValueError(f"{name} must have at least one number, got none")
    if not all(v > 0 for v in found) or not all(a < b for a, b in itertools.pairwise(found)):
        raise ValueError(f"{name} must be positive and ascending, coarse to fine, got {tuple(value)}")
    return found


def without_tracer_warnings() -> contextlib.AbstractContextManager[None]:
    """In torch.jit.trace: no warning at every look at a size, for a program that is of one size by its docstring."""
    return _quiet() if torch.jit.is_tracing() else contextlib.nullcontext()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield
