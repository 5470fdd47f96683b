"""progressive_fusion: AFA with any number of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, dtypes, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import progressive_fusion as reference

MOST_INPUTS = 16


@registration.public
def progressive_fusion(
    features: Sequence[Tensor], spatial_logits: Sequence[Tensor], channel_logits: Sequence[Tensor]
) -> Tensor:
    """Fuse feature maps by spatial and channel attention, where a later map occludes the earlier ones.

    With a_i = sigmoid(spatial_logits[i]) and b_i = sigmoid(channel_logits[i]), broadcast over channels and pixels:

        w_i = a_i b_i prod_{j>i} (1 - a_j) (1 - b_j)        out = sum_i w_i features[i]

    Args:
        features: 1 to 16 tensors (N, C, H, W), all of one size.
        spatial_logits: as many tensors (N, 1, H, W), each predicted from its feature map; attention before the sigmoid.
        channel_logits: as many tensors (N, C, 1, 1), each predicted from its feature map; attention before the sigmoid.

    Returns:
        (N, C, H, W) in the promoted type of the feature maps and the memory format of the first. Arithmetic is float64
        if that type is float64, else float32. All arguments have a gradient, exact also where an attention is 0 or 1:
        nothing is divided. Backward is one pass, and saves nothing but the arguments.

    Raises:
        TypeError: an argument is no list or tuple of dense floating tensors.
        ValueError: there are no or more than 16 feature maps, the lists differ in length, or a shape or a device does
            not match the first feature map's.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, equation 5.

    >>> import torch, afa_kernels
    >>> features = [torch.randn(2, 16, 32, 64) for _ in range(3)]
    >>> spatial, channel = 3 * [torch.zeros(2, 1, 32, 64)], 3 * [torch.zeros(2, 16, 1, 1)]
    >>> afa_kernels.progressive_fusion(features, spatial, channel).shape
    torch.Size([2, 16, 32, 64])
    """
    checks.sequence("features", features)
    checks.count("features", len(features), MOST_INPUTS, "tensors")
    checks.floating("features[0]", features[0])
    batch, channels, height, width = features[0].shape
    for name, values, expected in (
        ("features", features, (batch, channels, height, width)),
        ("spatial_logits", spatial_logits, (batch, 1, height, width)),
        ("channel_logits", channel_logits, (batch, channels, 1, 1)),
    ):
        checks.sequence(name, values)
        if len(values) != len(features):
            raise ValueError(f"{name} must have {len(features)} tensors, one per feature map, got {len(values)}")
        for i, value in enumerate(values):
            checks.like(f"{name}[{i}]", value, expected, "features[0]", features[0])
    backend = backends.choose("progressive_fusion", features[0].device.type)
    if backend == "reference":
        return reference.progressive_fusion(features, spatial_logits, channel_logits)
    dtype = dtypes.promoted(features)
    return _op([feature.to(dtype) for feature in features], spatial_logits, channel_logits, backend)


Maps = list[Tensor]


def _allocate(features: Maps, spatial_logits: Maps, channel_logits: Maps) -> Tensor:
    return layout.empty(features[0].shape, features[0])


def _prepare(features: Maps, spatial_logits: Maps, channel_logits: Maps) -> tuple[Maps, Maps, Maps]:
    format = layout.memory_format(features[0])
    return (
        [layout.as_map(feature, format) for feature in features],
        [layout.as_map(logits, torch.contiguous_format) for logits in spatial_logits],
        channel_logits,
    )


def _allocate_backward(
    grad: Tensor, features: Maps, spatial_logits: Maps, channel_logits: Maps, needed: list[bool]
) -> list[Tensor]:
    return registration.gradients(needed, features, [*spatial_logits, *channel_logits])


def _prepare_backward(grad: Tensor, features: Maps, *rest: Any) -> tuple[Any, ...]:
    *inputs, needed = rest
    return layout.as_map(grad, layout.memory_format(features[0])), *_prepare(features, *inputs), needed


_ARGUMENTS = "Tensor[] features, Tensor[] spatial_logits, Tensor[] channel_logits"
_op = registration.define(f"progressive_fusion({_ARGUMENTS}) -> Tensor out", _allocate, _prepare)
_backward_op = registration.define(
    f"progressive_fusion_backward(Tensor grad, {_ARGUMENTS}, bool[] needed) -> Tensor[] grads",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(_op, _backward_op, of=("features", "spatial_logits", "channel_logits"))
