"""attentive_fusion: AFA with two inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, dtypes, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import attentive_fusion as reference


@registration.public
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
    checks.like("deep", deep, (batch, channels, height, width), "shallow", shallow)
    checks.like("spatial_logits", spatial_logits, (batch, 1, height, width), "shallow", shallow)
    checks.like("channel_logits", channel_logits, (batch, channels, 1, 1), "shallow", shallow)
    backend = backends.choose("attentive_fusion", shallow.device.type)
    if backend == "reference":
        return reference.attentive_fusion(shallow, deep, spatial_logits, channel_logits)
    dtype = dtypes.promoted((shallow, deep))
    return _op(shallow.to(dtype), deep.to(dtype), spatial_logits, channel_logits, backend)


def _allocate(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> Tensor:
    return layout.empty(shallow.shape, shallow)


def _prepare(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> tuple[Tensor, ...]:
    format = layout.memory_format(shallow)
    return (
        layout.as_map(shallow, format),
        layout.as_map(deep, format),
        layout.as_map(spatial_logits, torch.contiguous_format),
        channel_logits,
    )


def _allocate_backward(
    grad: Tensor, shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor, needed: list[bool]
) -> list[Tensor]:
    return registration.gradients(needed, (shallow, deep), (spatial_logits, channel_logits))


def _prepare_backward(grad: Tensor, shallow: Tensor, *rest: Any) -> tuple[Any, ...]:
    *inputs, needed = rest
    return layout.as_map(grad, layout.memory_format(shallow)), *_prepare(shallow, *inputs), needed


_ARGUMENTS = "Tensor shallow, Tensor deep, Tensor spatial_logits, Tensor channel_logits"
_op = registration.define(f"attentive_fusion({_ARGUMENTS}) -> Tensor out", _allocate, _prepare)
_backward_op = registration.define(
    f"attentive_fusion_backward(Tensor grad, {_ARGUMENTS}, bool[] needed) -> Tensor[] grads",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(_op, _backward_op, of=("shallow", "deep", "spatial_logits", "channel_logits"))
