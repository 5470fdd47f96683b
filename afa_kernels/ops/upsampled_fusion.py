"""upsampled_fusion: AFA of a shallow map and a deep one that a transposed convolution upsamples first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, dtypes, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.ops import _upsampling as upsampling
from afa_kernels.reference import upsampled_fusion as reference


@registration.public
def upsampled_fusion(
    shallow: Tensor, deep: Tensor, weight: Tensor, spatial_logits: Tensor, channel_logits: Tensor
) -> Tensor:
    """`attentive_fusion` of a deep map that a depthwise transposed convolution upsamples first.

    With f = 2, 4 or 8, a = sigmoid(spatial_logits) and b = sigmoid(channel_logits):

        up  = conv_transpose2d(deep, weight, stride=f, padding=f/2, groups=C)
        out = a (1 - b) shallow + (1 - a) b up

    `up` is stored nowhere, neither for backward: each of its values is made of four of `deep` where it is used.

    Args:
        shallow: (N, C, f H, f W), the feature map of high resolution.
        deep: (N, C, H, W), the feature map of strong semantics, at its own resolution.
        weight: (C, 1, 2 f, 2 f), of the transposed convolution, in any floating type.
        spatial_logits: (N, 1, f H, f W), predicted from `shallow`; attention before the sigmoid.
        channel_logits: (N, C, 1, 1), predicted from `up` (`upsampled_pool`); attention before the sigmoid.

    Returns:
        (N, C, f H, f W) in the promoted type of the two feature maps and the memory format of `shallow`. Arithmetic is
        float64 if that type is float64, else float32. All five arguments have a gradient, and only they are saved.

    Raises:
        TypeError: an argument is no dense floating tensor.
        ValueError: a shape or a device does not match `shallow`'s, or f is another factor.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, equation 3, behind the
    upsampling of its up-paths.

    >>> import torch, afa_kernels
    >>> shallow, deep, weight = torch.randn(2, 16, 32, 64), torch.randn(2, 16, 16, 32), torch.randn(16, 1, 4, 4)
    >>> spatial_logits, channel_logits = torch.zeros(2, 1, 32, 64), torch.zeros(2, 16, 1, 1)
    >>> afa_kernels.upsampled_fusion(shallow, deep, weight, spatial_logits, channel_logits).shape
    torch.Size([2, 16, 32, 64])
    """
    checks.floating("shallow", shallow)
    checks.floating("deep", deep)
    factor = upsampling.check(deep, weight)
    batch, channels, height, width = deep.shape
    checks.like("shallow", shallow, (batch, channels, factor * height, factor * width), f"{factor} times deep", deep)
    checks.like("spatial_logits", spatial_logits, (batch, 1, *shallow.shape[2:]), "shallow", shallow)
    checks.like("channel_logits", channel_logits, (batch, channels, 1, 1), "shallow", shallow)
    backend = backends.choose("upsampled_fusion", shallow.device.type)
    if backend == "reference":
        return reference.upsampled_fusion(shallow, deep, weight, spatial_logits, channel_logits)
    dtype = dtypes.promoted((shallow, deep))
    return _op(shallow.to(dtype), deep.to(dtype), weight, spatial_logits, channel_logits, backend)


def _allocate(shallow: Tensor, *rest: Any) -> Tensor:
    return layout.empty(shallow.shape, shallow)


def _prepare(
    shallow: Tensor, deep: Tensor, weight: Tensor, spatial_logits: Tensor, channel_logits: Tensor
) -> tuple[Tensor, ...]:
    format = layout.memory_format(shallow)
    return (
        layout.as_map(shallow, format),
        layout.as_map(deep, format),
        upsampling.as_taps(weight, shallow),
        layout.as_map(spatial_logits, torch.contiguous_format),
        channel_logits,
    )


def _allocate_backward(
    grad: Tensor,
    shallow: Tensor,
    deep: Tensor,
    weight: Tensor,
    spatial_logits: Tensor,
    channel_logits: Tensor,
    needed: list[bool],
) -> list[Tensor]:
    maps, of_weight, logits = needed[:2], needed[2], needed[3:]
    return [
        *registration.gradients(maps, (shallow, deep), ()),
        *([layout.empty_parameter(weight)] if of_weight else []),
        *registration.gradients(logits, (), (spatial_logits, channel_logits)),
    ]


def _prepare_backward(grad: Tensor, shallow: Tensor, *rest: Any) -> tuple[Any, ...]:
    *inputs, needed = rest
    return layout.as_map(grad, layout.memory_format(shallow)), *_prepare(shallow, *inputs), needed


_ARGUMENTS = "Tensor shallow, Tensor deep, Tensor weight, Tensor spatial_logits, Tensor channel_logits"
_op = registration.define(f"upsampled_fusion({_ARGUMENTS}) -> Tensor out", _allocate, _prepare)
_backward_op = registration.define(
    f"upsampled_fusion_backward(Tensor grad, {_ARGUMENTS}, bool[] needed) -> Tensor[] grads",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(_op, _backward_op, of=("shallow", "deep", "weight", "spatial_logits", "channel_logits"))
