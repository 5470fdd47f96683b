"""resized_fusion: AFA of any number of inputs, each at a resolution of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from afa_kernels import backends, checks, dtypes, layout
from afa_kernels.ops import _progressive as progressive
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import resized_fusion as reference


@registration.public
def resized_fusion(
    features: Sequence[Tensor], spatial_logits: Sequence[Tensor], channel_logits: Sequence[Tensor]
) -> Tensor:
    """`progressive_fusion` of feature maps that are resized to one size first.

    With a_i = sigmoid(spatial_logits[i]) and b_i = sigmoid(channel_logits[i]), broadcast over channels and pixels, and
    `up` the bilinear resize (align_corners=False, no antialias, as F.interpolate):

        w_i = a_i b_i prod_{j>i} (1 - a_j) (1 - b_j)        out = sum_i w_i up(features[i])

    The resized maps are stored nowhere, neither for backward: each of their values is made of four where it is used.

    Args:
        features: 1 to 16 tensors (N, C, h_i, w_i), each of any size.
        spatial_logits: as many tensors (N, 1, H, W), each predicted from its resized feature map; attention before the
            sigmoid.
        channel_logits: as many tensors (N, C, 1, 1), each predicted from its resized feature map; attention before the
            sigmoid.

    Returns:
        (N, C, H, W) in the promoted type of the feature maps and the memory format of the first. Arithmetic is float64
        if that type is float64, else float32. All arguments have a gradient, exact also where an attention is 0 or 1:
        nothing is divided. Those of the features are collected by each of their pixels: deterministic. Backward saves
        nothing but the arguments.

    Raises:
        TypeError: an argument is no list or tuple of dense floating tensors.
        ValueError: there are no or more than 16 feature maps, a map has no pixels, the lists differ in length, or a
            shape or a device does not match the first feature map's or the first spatial logits'.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, equation 5, behind the resize
    of its fusion of levels.

    >>> import torch, afa_kernels
    >>> features = [torch.randn(2, 16, 32 // f, 64 // f) for f in (4, 2, 1)]
    >>> spatial, channel = 3 * [torch.zeros(2, 1, 32, 64)], 3 * [torch.zeros(2, 16, 1, 1)]
    >>> afa_kernels.resized_fusion(features, spatial, channel).shape
    torch.Size([2, 16, 32, 64])
    """
    first = progressive.check_lists(features, spatial_logits, channel_logits)
    for i, feature in enumerate(features):
        checks.floating(f"features[{i}]", feature)
        checks.pixels(f"features[{i}]", feature)
        checks.like(f"features[{i}]", feature, (*first.shape[:2], *feature.shape[2:]), "features[0]", first)
    checks.floating("spatial_logits[0]", spatial_logits[0])
    checks.pixels("spatial_logits[0]", spatial_logits[0], "resized to")
    progressive.check_logits(spatial_logits, channel_logits, spatial_logits[0].shape[2:], first)
    backend = backends.choose("resized_fusion", first.device.type)
    if backend == "reference":
        return reference.resized_fusion(features, spatial_logits, channel_logits)
    dtype = dtypes.promoted(features)
    return _op([feature.to(dtype) for feature in features], spatial_logits, channel_logits, backend)


def _allocate(features: list[Tensor], spatial_logits: list[Tensor], channel_logits: list[Tensor]) -> Tensor:
    return layout.empty((*features[0].shape[:2], *spatial_logits[0].shape[2:]), features[0])


_op = registration.define(f"resized_fusion({progressive.ARGUMENTS}) -> Tensor out", _allocate, progressive.prepare)
_backward_op = registration.define(
    f"resized_fusion_backward(Tensor grad, {progressive.ARGUMENTS}, bool[] needed) -> Tensor[] grads",
    progressive.allocate_backward,
    progressive.prepare_backward,
)
registration.differentiate(_op, _backward_op, of=progressive.OF)
