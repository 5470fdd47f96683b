"""global_avg_max_pool: the two poolings of channel attention in one read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import global_avg_max_pool as reference


def global_avg_max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the maximum of every channel of every image, from one read of the feature map.

        avg = 1/(H W) sum over p of x[p]        max = max over p of x[p]

    Args:
        x: (N, C, H, W), a feature map with at least one pixel.

    Returns:
        avg and max, (N, C, 1, 1) each, in the type of `x`. The sum is accumulated in float32 (within a tile;
        float64 beyond it and for float64). Both have a gradient; that of max goes to one pixel, the first maximum in
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
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(f"x must have at least one pixel to be pooled, got shape {tuple(x.shape)}")
    if backends.choose(x.device.type) == "reference":
        return reference.global_avg_max_pool(x)
    avg, max, _ = _op(x)
    return avg, max


# The op also returns the index of each maximum among the pixels, for the backward pass.
def _forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _fake_forward(x)
    if x.numel() > 0:
        launch = backends.launcher("global_avg_max_pool_forward", x.device.type)
        launch(layout.walkable(x, layout.memory_format(x)), *outputs)
    return outputs


def _fake_forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*x.shape[:2], 1, 1)
    return layout.empty(shape, x), layout.empty(shape, x), x.new_empty(shape, dtype=torch.int64)


def _backward(
    grad_avg: Tensor | None, grad_max: Tensor | None, index: Tensor, size: Sequence[int], channels_last: bool
) -> Tensor:
    grad = _fake_backward(grad_avg, grad_max, index, size, channels_last)
    if grad.numel() > 0:
        inputs = (None if t is None else t.contiguous() for t in (grad_avg, grad_max))
        backends.launcher("global_avg_max_pool_backward", index.device.type)(*inputs, index, grad)
    return grad


def _fake_backward(
    grad_avg: Tensor | None, grad_max: Tensor | None, index: Tensor, size: Sequence[int], channels_last: bool
) -> Tensor:
    given = grad_max if grad_avg is None else grad_avg
    assert given is not None
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=given.dtype, device=given.device, memory_format=memory_format)


_op = registration.define("global_avg_max_pool(Tensor x) -> (Tensor, Tensor, Tensor)", _forward, _fake_forward)
_backward_op = registration.define(
    "global_avg_max_pool_backward(Tensor? grad_avg, Tensor? grad_max, Tensor index, SymInt[] size, "
    "bool channels_last) -> Tensor",
    _backward,
    _fake_backward,
)


class GlobalAvgMaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, below: Callable[..., Any], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        avg, max, index = below(x)
        ctx.save_for_backward(index)
        ctx.mark_non_differentiable(index)
        ctx.set_materialize_grads(False)
        ctx.size, ctx.channels_last = x.shape, layout.memory_format(x) == torch.channels_last
        return avg, max, index

    @staticmethod
    def backward(ctx: Any, grad_avg: Tensor | None, grad_max: Tensor | None, _: None) -> tuple[None, Tensor | None]:
        if grad_avg is None and grad_max is None:
            return None, None
        (index,) = ctx.saved_tensors
        return None, _backward_op(grad_avg, grad_max, index, ctx.size, ctx.channels_last)


registration.differentiate(_op, GlobalAvgMaxPool)
registration.differentiable_once(_backward_op, "global_avg_max_pool")
