"""scale_space_accumulate: one more scale in a rendering, in place. What `ScaleSpaceRenderer` is made of."""

from __future__ import annotations

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
    if backends.choose(rendered.device.type) == "reference":
        reference.scale_space_accumulate(rendered, transmittance, prediction, weight, first)
    else:
        _op(rendered, transmittance, prediction, weight, first)
    return rendered


def _forward(rendered: Tensor, transmittance: Tensor | None, prediction: Tensor, weight: Tensor, first: bool) -> None:
    if rendered.numel() > 0:
        prediction = layout.walkable(prediction, layout.memory_format(rendered))
        weight = layout.walkable(weight, torch.contiguous_format)
        launch = backends.launcher("scale_space_accumulate_forward", rendered.device.type)
        launch(rendered, transmittance, prediction, weight, first)


def _fake_forward(
    rendered: Tensor, transmittance: Tensor | None, prediction: Tensor, weight: Tensor, first: bool
) -> None:
    return None


_op = registration.define(
    "scale_space_accumulate(Tensor(a!) rendered, Tensor(b!)? transmittance, Tensor prediction, Tensor weight, "
    "bool first) -> ()",
    _forward,
    _fake_forward,
)
