"""What an argument must be. Each check names the argument, the rule and what came, before any kernel starts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

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


def shape(name: str, value: Tensor, expected: Sequence[int], other_name: str, other: Tensor) -> None:
    """`value` has the shape `expected`, which follows from `other`."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(
            f"{name} must have shape {tuple(expected)} to match {other_name} {tuple(other.shape)}, "
            f"got {tuple(value.shape)}"
        )


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def pixels(name: str, value: Tensor) -> None:
    """`value` has pixels to interpolate between."""
    if value.shape[2] == 0 or value.shape[3] == 0:
        raise ValueError(f"{name} must have at least one pixel to be resized, got shape {tuple(value.shape)}")


def count(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name} must have 1 to {most} scales, got {value}")


def size(name: str, value: object) -> None:
    """A pair (height, width) of positive integers."""
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(isinstance(v, int) for v in value):
        raise TypeError(f"{name} must be a pair of integers (height, width), got {value!r}")
    if value[0] < 1 or value[1] < 1:
        raise ValueError(f"{name} must have a positive height and width, got {tuple(value)}")


def sequence(name: str, value: object) -> None:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a list or tuple of tensors, got {type(value).__name__}")


def number(name: str, value: object, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not value >= least:
        raise ValueError(f"{name} must be at least {least:g}, got {value!r}")


def pair(name: str, value: object, least: int) -> tuple[int, int]:
    """An integer, or a pair of them for height and width, as a pair."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or any(isinstance(v, bool) or not isinstance(v, int) for v in both):
        raise TypeError(f"{name} must be an integer or a pair of them (height, width), got {value!r}")
    if min(both) < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return both


def ascending(name: str, value: object, length: int | None = None) -> None:
    """`length` positive numbers, or any number of them but none, each larger than the one before."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a list or tuple of numbers, got {type(value).__name__}")
    for i, v in enumerate(value):
        number(f"{name}[{i}]", v, 0)
    if length is not None and len(value) != length:
        raise ValueError(f"{name} must have {length} numbers, one for each prediction, got {len(value)}")
    if not value:
        raise ValueError(f"{name} must have at least one number, got none")
    if not all(v > 0 for v in value) or not all(a < b for a, b in itertools.pairwise(value)):
        raise ValueError(f"{name} must be positive and ascending, coarse to fine, got {tuple(value)}")
