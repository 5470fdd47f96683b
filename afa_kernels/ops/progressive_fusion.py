"""progressive_fusion: AFA with any number of inputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from afa_kernels import backends, checks, dtypes, layout
from afa_kernels.ops import _progressive as progressive
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import progressive_fusion as reference


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
    first = progressive.check_lists(features, spatial_logits, channel_logits)
    for i, feature in enumerate(features):
        checks.like(f"features[{i}]", feature, tuple(first.shape), "features[0]", first)
    progressive.check_logits(spatial_logits, channel_logits, first.shape[2:], first)
    backend = backends.choose("progressive_fusion", first.device.type)
    if backend == "reference":
        return reference.progressive_fusion(features, spatial_logits, channel_logits)
    dtype = dtypes.promoted(features)
    return _op([feature.to(dtype) for feature in features], spatial_logits, channel_logits, backend)


def _allocate(features: list[Tensor], spatial_logits: list[Tensor], channel_logits: list[Tensor]) -> Tensor:
    return layout.empty(features[0].shape, features[0])


_op = registration.define(f"progressive_fusion({progressive.ARGUMENTS}) -> Tensor out", _allocate, progressive.prepare)
_backward_op = registration.define(
    f"progressive_fusion_backward(Tensor grad, {progressive.ARGUMENTS}, bool[] needed) -> Tensor[] grads",
    progressive.allocate_backward,
    progressive.prepare_backward,
)
registration.differentiate(_op, _backward_op, of=progressive.OF)
