"""scale_space_accumulate: one more scale in a rendering, in place. What `ScaleSpaceRenderer` is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import scale_space_accumulate as reference


def scale_space_accumulate(
    rendered: Tensor, transmittance: Tensor | None, prediction: Tensor, weight: Tensor, first: bool
) -> Tensor:
    """rendered += up(weight) up(prediction), in place. With a transmittance T, `weight` is an opacity, and both change:

        rendered += T up(weight) up(prediction)        T *= 1 - up(weight)

    rendered: (N, C, H, W) and T: (N, 1, H, W), float32 or float64; of the first scale they hold nothing yet, 0 and 1.
    prediction: (N, C, h, w), of any type, float64 if and only if `rendered` is. weight: (N, 1, h, w), as `rendered`.
    """
    backend = backends.choose("scale_space_accumulate", rendered.device.type)
    if backend == "reference":
        reference.scale_space_accumulate(rendered, transmittance, prediction, weight, first)
    else:
        _op(rendered, transmittance, prediction, weight, first, backend)
    return rendered


def _allocate(*args: Any) -> None:
    return None


def _prepare(
    rendered: Tensor, transmittance: Tensor | None, prediction: Tensor, weight: Tensor, first: bool
) -> tuple[Any, ...]:
    prediction = layout.as_map(prediction, layout.memory_format(rendered))
    return rendered, transmittance, prediction, layout.as_map(weight, torch.contiguous_format), first


_op = registration.define(
    "scale_space_accumulate(Tensor(a!) rendered, Tensor(b!)? transmittance, Tensor prediction, Tensor weight, "
    "bool first) -> ()",
    _allocate,
    _prepare,
    of_first=False,
)
