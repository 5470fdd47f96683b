"""attentive_fusion: AFA with two inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import attentive_fusion as reference


def attentive_fusion(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> Tensor:
    """Fuse a shallow and a deep feature map by spatial and channel attention.

    With a = sigmoid(spatial_logits) and b = sigmoid(channel_logits), broadcast over channels and pixels:

        out = a (1 - b) shallow + (1 - a) b deep

    Args:
        shallow: (N, C, H, W), the feature map of high resolution.
        deep: (N, C, H, W), the feature map of strong semantics, already resized to `shallow`'s size.
        spatial_logits: (N, 1, H, W), predicted from `shallow`; attention before the sigmoid.
        channel_logits: (N, C, 1, 1), predicted from `deep`; attention before the sigmoid.

    Returns:
        (N, C, H, W) in the promoted type of the two feature maps and the memory format of `shallow`. Arithmetic is
        float64 if that type is float64, else float32. All four arguments have a gradient; backward is one pass, and
        saves nothing but the arguments.

    Raises:
        TypeError: an argument is no dense floating tensor.
        ValueError: a shape or a device does not match `shallow`'s.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, equation 3.

    >>> import torch, afa_kernels
    >>> shallow, deep = torch.randn(2, 16, 32, 64), torch.randn(2, 16, 32, 64)
    >>> afa_kernels.attentive_fusion(shallow, deep, torch.zeros(2, 1, 32, 64), torch.zeros(2, 16, 1, 1)).shape
    torch.Size([2, 16, 32, 64])
    """
    checks.floating("shallow", shallow)
    batch, channels, height, width = shallow.shape
    for name, value, expected in (
        ("deep", deep, (batch, channels, height, width)),
        ("spatial_logits", spatial_logits, (batch, 1, height, width)),
        ("channel_logits", channel_logits, (batch, channels, 1, 1)),
    ):
        checks.floating(name, value)
        checks.shape(name, value, expected, "shallow", shallow)
        checks.same_device(name, value, "shallow", shallow)
    if backends.choose(shallow.device.type) == "reference":
        return reference.attentive_fusion(shallow, deep, spatial_logits, channel_logits)
    dtype = torch.promote_types(shallow.dtype, deep.dtype)
    return _op(shallow.to(dtype), deep.to(dtype), spatial_logits, channel_logits)


def _forward(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> Tensor:
    out = _fake_forward(shallow, deep, spatial_logits, channel_logits)
    if out.numel() > 0:
        inputs = _walkable(shallow, deep, spatial_logits, channel_logits)
        backends.launcher("attentive_fusion_forward", shallow.device.type)(*inputs, out)
    return out


def _fake_forward(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> Tensor:
    return layout.empty(shallow.shape, shallow)


def _backward(
    grad: Tensor, shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor, needed: list[bool]
) -> list[Tensor]:
    grads = _fake_backward(grad, shallow, deep, spatial_logits, channel_logits, needed)
    if shallow.numel() == 0:
        return [t.zero_() for t in grads]
    inputs = _walkable(shallow, deep, spatial_logits, channel_logits)
    outputs = iter(grads)
    launch = backends.launcher("attentive_fusion_backward", shallow.device.type)
    launch(
        layout.walkable(grad, layout.memory_format(shallow)),
        *inputs,
        *(next(outputs) if wanted else None for wanted in needed),
    )
    return grads


def _fake_backward(
    grad: Tensor, shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor, needed: list[bool]
) -> list[Tensor]:
    grads = (
        layout.empty(shallow.shape, shallow),
        layout.empty(deep.shape, shallow),
        spatial_logits.new_empty(spatial_logits.shape),
        channel_logits.new_empty(channel_logits.shape),
    )
    return [t for t, wanted in zip(grads, needed) if wanted]


def _walkable(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> tuple[Tensor, ...]:
    format = layout.memory_format(shallow)
    return (
        layout.walkable(shallow, format),
        layout.walkable(deep, format),
        layout.walkable(spatial_logits, torch.contiguous_format),
        channel_logits,
    )


_ARGUMENTS = "Tensor shallow, Tensor deep, Tensor spatial_logits, Tensor channel_logits"
_op = registration.define(f"attentive_fusion({_ARGUMENTS}) -> Tensor", _forward, _fake_forward)
_backward_op = registration.define(
    f"attentive_fusion_backward(Tensor grad, {_ARGUMENTS}, bool[] needed) -> Tensor[]", _backward, _fake_backward
)


class AttentiveFusion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, below: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return below(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = list(ctx.needs_input_grad[1:])
        grads = iter(_backward_op(grad, *ctx.saved_tensors, needed))
        return None, *(next(grads) if wanted else None for wanted in needed)


registration.differentiate(_op, AttentiveFusion)
registration.differentiable_once(_backward_op, "attentive_fusion")
