"""global_avg_max_pool: the two poolings of channel attention in one read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import global_avg_max_pool as reference


@registration.public
def global_avg_max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the maximum of every channel of every image, from one read of the feature map.

        avg = 1/(H W) sum over p of x[p]        max = max over p of x[p]

    Args:
        x: (N, C, H, W), a feature map with at least one pixel.

    Returns:
        avg and max, (N, C, 1, 1) each, in the type of `x`. Sums are float64 for float64, else float32 (in C++ float64
        beyond a tile). Both have a gradient; that of max goes to one pixel, the first maximum in
        row-major order. NaN propagates to both. Saved for backward: where the maxima are; not `x`. Deterministic.

    Raises:
        TypeError: `x` is no dense floating tensor.
        ValueError: `x` has not 4 dimensions, or no pixel.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, section 3.1; equal to
    `nn.AdaptiveAvgPool2d(1)` beside `nn.AdaptiveMaxPool2d(1)`.

    >>> import torch, afa_kernels
    >>> avg, max = afa_kernels.global_avg_max_pool(torch.tensor([1.0, 5.0, 3.0, 3.0]).view(1, 1, 2, 2))
    >>> avg.item(), max.item()
    (3.0, 5.0)
    """
    checks.floating("x", x)
    checks.pixels("x", x, "pooled")
    backend = backends.choose("global_avg_max_pool", x.device.type)
    if backend == "reference":
        return reference.global_avg_max_pool(x)
    avg, max, _ = _op(x, backend)
    return avg, max


# The op also returns the index of each maximum among the pixels, for the backward pass.
def allocate_pooled(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*x.shape[:2], 1, 1)
    return layout.empty(shape, x), layout.empty(shape, x), x.new_empty(shape, dtype=torch.int64)


def _prepare(x: Tensor) -> tuple[Tensor]:
    return (layout.as_map(x, layout.memory_format(x)),)


def _allocate_backward(
    grad_avg: Tensor | None, grad_max: Tensor | None, index: Tensor, size: Sequence[int], channels_last: bool
) -> Tensor:
    given = grad_max if grad_avg is None else grad_avg
    assert given is not None
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=given.dtype, device=given.device, memory_format=memory_format)


def _prepare_backward(
    grad_avg: Tensor | None, grad_max: Tensor | None, index: Tensor, size: Sequence[int], channels_last: bool
) -> tuple[Tensor | None, ...]:
    return tuple(None if t is None else t.contiguous() for t in (grad_avg, grad_max, index))


_op = registration.define(
    "global_avg_max_pool(Tensor x) -> (Tensor avg, Tensor max, Tensor index)", allocate_pooled, _prepare
)
_backward_op = registration.define(
    "global_avg_max_pool_backward(Tensor? grad_avg, Tensor? grad_max, Tensor index, SymInt[] size, "
    "bool channels_last) -> Tensor grad_x",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(
    _op,
    _backward_op,
    of=("x",),
    keep=lambda x: {"size": x.shape, "channels_last": layout.memory_format(x) == torch.channels_last},
)
