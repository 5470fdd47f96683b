"""upsampled_pool: the two poolings of channel attention of a map that a transposed convolution upsamples first."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.ops import _upsampling as upsampling
from afa_kernels.ops.global_avg_max_pool import allocate_pooled
from afa_kernels.reference import upsampled_pool as reference


@registration.public
def upsampled_pool(deep: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`global_avg_max_pool` of a map that a depthwise transposed convolution upsamples first.

    With f = 2, 4 or 8:

        up = conv_transpose2d(deep, weight, stride=f, padding=f/2, groups=C)
        avg = 1/(f H f W) sum over p of up[p]        max = max over p of up[p]

    `up` is stored nowhere.

    Args:
        deep: (N, C, H, W), a feature map with at least one pixel.
        weight: (C, 1, 2 f, 2 f), of the transposed convolution, in any floating type.

    Returns:
        avg and max, (N, C, 1, 1) each, in the type of `deep`. Arithmetic is float64 for float64, else float32. Both
        have a gradient, in `deep` and in `weight`; that of max goes to one pixel of `up`, the first maximum in
        row-major order. NaN propagates to both. Saved for backward: the arguments, and where the maxima are.
        Deterministic.

    Raises:
        TypeError: an argument is no dense floating tensor.
        ValueError: `deep` has not 4 dimensions, or no pixel; or `weight` is not that of such a convolution of `deep`.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, section 3.1, behind the
    upsampling of its up-paths.

    >>> import torch, afa_kernels
    >>> deep, nearest = torch.tensor([1.0, 5.0, 3.0, 3.0]).view(1, 1, 2, 2), torch.zeros(1, 1, 4, 4)
    >>> nearest[..., 1:3, 1:3] = 1
    >>> avg, max = afa_kernels.upsampled_pool(deep, nearest)
    >>> avg.item(), max.item()
    (3.0, 5.0)
    """
    checks.floating("deep", deep)
    checks.pixels("deep", deep, "pooled")
    upsampling.check(deep, weight)
    backend = backends.choose("upsampled_pool", deep.device.type)
    if backend == "reference":
        return reference.upsampled_pool(deep, weight)
    avg, max, _ = _op(deep, weight, backend)
    return avg, max


def _allocate(deep: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return allocate_pooled(deep)


def _prepare(deep: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return layout.as_map(deep, layout.memory_format(deep)), upsampling.as_taps(weight, deep)


def _allocate_backward(
    grad_avg: Tensor | None, grad_max: Tensor | None, deep: Tensor, weight: Tensor, index: Tensor, needed: list[bool]
) -> list[Tensor]:
    of_deep, of_weight = needed
    return [
        *registration.gradients([of_deep], (deep,), ()),
        *([layout.empty_parameter(weight)] if of_weight else []),
    ]


def _prepare_backward(
    grad_avg: Tensor | None, grad_max: Tensor | None, deep: Tensor, weight: Tensor, index: Tensor, needed: list[bool]
) -> tuple[Any, ...]:
    grad_avg, grad_max = (None if t is None else t.contiguous() for t in (grad_avg, grad_max))
    return grad_avg, grad_max, *_prepare(deep, weight), index.contiguous(), needed


_op = registration.define(
    "upsampled_pool(Tensor deep, Tensor weight) -> (Tensor avg, Tensor max, Tensor index)", _allocate, _prepare
)
_backward_op = registration.define(
    "upsampled_pool_backward(Tensor? grad_avg, Tensor? grad_max, Tensor deep, Tensor weight, Tensor index, "
    "bool[] needed) -> Tensor[] grads",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(_op, _backward_op, of=("deep", "weight"))
