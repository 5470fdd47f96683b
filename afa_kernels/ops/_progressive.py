"""What progressive_fusion and resized_fusion share: the checks of their lists, and what their kernels take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels import checks, layout
from afa_kernels.ops import _registration as registration

MOST_INPUTS = 16
ARGUMENTS = "Tensor[] features, Tensor[] spatial_logits, Tensor[] channel_logits"
OF = ("features", "spatial_logits", "channel_logits")

Maps = list[Tensor]


def check_lists(
    features: Sequence[Tensor], spatial_logits: Sequence[Tensor], channel_logits: Sequence[Tensor]
) -> Tensor:
    """Raise where the three are no lists of one length, or the first feature map is none. Returns that."""
    checks.sequence("features", features)
    checks.count("features", len(features), MOST_INPUTS, "tensors")
    for name, values in (("spatial_logits", spatial_logits), ("channel_logits", channel_logits)):
        checks.sequence(name, values)
        if len(values) != len(features):
            raise ValueError(f"{name} must have {len(features)} tensors, one per feature map, got {len(values)}")
    checks.floating("features[0]", features[0])
    return features[0]


def check_logits(
    spatial_logits: Sequence[Tensor], channel_logits: Sequence[Tensor], size: Sequence[int], first: Tensor
) -> None:
    """Raise where they are not those of maps like the `first`, of that size."""
    batch, channels = first.shape[:2]
    for i, (s, q) in enumerate(zip(spatial_logits, channel_logits)):
        checks.like(f"spatial_logits[{i}]", s, (batch, 1, *size), "features[0]", first)
        checks.like(f"channel_logits[{i}]", q, (batch, channels, 1, 1), "features[0]", first)


def prepare(features: Maps, spatial_logits: Maps, channel_logits: Maps) -> tuple[Maps, Maps, Maps]:
    format = layout.memory_format(features[0])
    return (
        [layout.as_map(feature, format) for feature in features],
        [layout.as_map(logits, torch.contiguous_format) for logits in spatial_logits],
        channel_logits,
    )


def allocate_backward(
    grad: Tensor, features: Maps, spatial_logits: Maps, channel_logits: Maps, needed: list[bool]
) -> list[Tensor]:
    return registration.gradients(needed, features, [*spatial_logits, *channel_logits])


def prepare_backward(grad: Tensor, features: Maps, *rest: Any) -> tuple[Any, ...]:
    *inputs, needed = rest
    return layout.as_map(grad, layout.memory_format(features[0])), *prepare(features, *inputs), needed
