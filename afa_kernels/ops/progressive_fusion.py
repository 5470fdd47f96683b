"""progressive_fusion: AFA with any number of inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.ops.scale_space_weights import promoted_type
from afa_kernels.reference import progressive_fusion as reference

MOST_INPUTS = 16


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
    if not 1 <= len(features) <= MOST_INPUTS:
        raise ValueError(f"features must have 1 to {MOST_INPUTS} tensors, got {len(features)}")
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
            checks.floating(f"{name}[{i}]", value)
            checks.shape(f"{name}[{i}]", value, expected, "features[0]", features[0])
            checks.same_device(f"{name}[{i}]", value, "features[0]", features[0])
    if backends.choose(features[0].device.type) == "reference":
        return reference.progressive_fusion(features, spatial_logits, channel_logits)
    dtype = promoted_type(features)
    return _op([feature.to(dtype) for feature in features], spatial_logits, channel_logits)


def _forward(features: list[Tensor], spatial_logits: list[Tensor], channel_logits: list[Tensor]) -> Tensor:
    out = _fake_forward(features, spatial_logits, channel_logits)
    if out.numel() > 0:
        launch = backends.launcher("progressive_fusion_forward", out.device.type)
        launch(*_walkable(features, spatial_logits, channel_logits), out)
    return out


def _fake_forward(features: list[Tensor], spatial_logits: list[Tensor], channel_logits: list[Tensor]) -> Tensor:
    return layout.empty(features[0].shape, features[0])


def _backward(
    grad: Tensor,
    features: list[Tensor],
    spatial_logits: list[Tensor],
    channel_logits: list[Tensor],
    needed: list[bool],
) -> list[Tensor]:
    grads = _fake_backward(grad, features, spatial_logits, channel_logits, needed)
    if grad.numel() == 0:
        return [t.zero_() for t in grads]
    launch = backends.launcher("progressive_fusion_backward", grad.device.type)
    launch(
        layout.walkable(grad, layout.memory_format(features[0])),
        *_walkable(features, spatial_logits, channel_logits),
        grads,
        needed,
    )
    return grads


def _fake_backward(
    grad: Tensor,
    features: list[Tensor],
    spatial_logits: list[Tensor],
    channel_logits: list[Tensor],
    needed: list[bool],
) -> list[Tensor]:
    grads = [layout.empty(feature.shape, features[0]) for feature in features]
    grads += [logits.new_empty(logits.shape) for logits in (*spatial_logits, *channel_logits)]
    return [t for t, wanted in zip(grads, needed) if wanted]


def _walkable(
    features: list[Tensor], spatial_logits: list[Tensor], channel_logits: list[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    format = layout.memory_format(features[0])
    return (
        [layout.walkable(feature, format) for feature in features],
        [layout.walkable(logits, torch.contiguous_format) for logits in spatial_logits],
        channel_logits,
    )


_ARGUMENTS = "Tensor[] features, Tensor[] spatial_logits, Tensor[] channel_logits"
_op = registration.define(f"progressive_fusion({_ARGUMENTS}) -> Tensor", _forward, _fake_forward)
_backward_op = registration.define(
    f"progressive_fusion_backward(Tensor grad, {_ARGUMENTS}, bool[] needed) -> Tensor[]", _backward, _fake_backward
)


class ProgressiveFusion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, below: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return below(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs = len(saved) // 3
        needed = list(ctx.needs_input_grad[1:])
        grads = iter(_backward_op(grad, saved[:inputs], saved[inputs : 2 * inputs], saved[2 * inputs :], needed))
        return None, *(next(grads) if wanted else None for wanted in needed)


registration.differentiate(_op, ProgressiveFusion)
registration.differentiable_once(_backward_op, "progressive_fusion")
