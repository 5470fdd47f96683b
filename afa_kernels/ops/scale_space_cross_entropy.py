"""scale_space_cross_entropy: the loss of scale-space rendering, without the rendering or its softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.ops.scale_space_render import check, walkable
from afa_kernels.ops.scale_space_weights import promoted_type
from afa_kernels.reference import scale_space_cross_entropy as reference

REDUCTION = ("mean", "sum", "none")
TARGET_DTYPES = (torch.uint8, torch.int32, torch.int64)


def scale_space_cross_entropy(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    phi: str = "abs",
    background: str = "none",
    resize: str = "weights",
) -> Tensor:
    """The cross-entropy of `scale_space_render` against a target; neither the rendering nor its softmax is stored.

    With the rendered scores r_c of a pixel, its target t and the class weights u (1 without `weight`):

        loss = -u_t log_softmax(r)_t        mean = sum of the losses / sum of the u_t

    over the pixels whose target is not `ignore_index`: as torch.nn.functional.cross_entropy computes it.

    Args:
        predictions, logits, phi, background, resize: as in `scale_space_render`; predictions have at least one channel.
        target: (N, H, W), the class of every pixel, in int64, int32 or uint8. Its size is that of the rendering.
        weight: (C,), the weight of each class, without a gradient; None for 1.
        ignore_index: the target of pixels that do not count. Many datasets use 255.
        reduction: "mean", "sum", or "none" for the loss of every pixel.

    Returns:
        A scalar, or (N, H, W) with reduction="none", in float32 (float64 if a prediction is). Where every pixel is
        ignored the mean is NaN. Predictions and logits have a gradient, as in `scale_space_render`; backward saves the
        arguments and log(sum exp(r)), (N, H, W), and renders once more.

    Raises:
        TypeError: an argument is no dense tensor of a fitting type.
        ValueError: a number, a shape or a device does not match, an option is unknown, or (on the CPU, outside
            torch.compile) a target is no class. Elsewhere the loss of a pixel with such a target is NaN.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, section 3.3.

    >>> import torch, afa_kernels
    >>> predictions = [torch.randn(2, 19, 16, 32), torch.randn(2, 19, 32, 64)]
    >>> target = torch.randint(19, (2, 128, 256))
    >>> afa_kernels.scale_space_cross_entropy(predictions, torch.randn(2, 2, 32, 64), target).shape
    torch.Size([])
    """
    checks.integral("target", target, TARGET_DTYPES, dim=3)
    if 0 in target.shape[1:]:
        raise ValueError(f"target must have at least one pixel, got shape {tuple(target.shape)}")
    logits, size = check(predictions, logits, (target.shape[1], target.shape[2]), phi, background, resize)
    first = predictions[0]
    channels = first.shape[1]
    if channels < 1:
        raise ValueError(f"predictions must have at least one channel, got shape {tuple(first.shape)}")
    checks.shape("target", target, (first.shape[0], *size), "predictions[0]", first)
    checks.same_device("target", target, "predictions[0]", first)
    if weight is not None:
        checks.floating("weight", weight, dim=1)
        checks.shape("weight", weight, (channels,), "predictions[0]", first)
        checks.same_device("weight", weight, "predictions[0]", first)
        if weight.requires_grad:
            raise ValueError("weight must not require a gradient, which it does not get")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index must be an integer, got {ignore_index!r}")
    checks.one_of("reduction", reduction, REDUCTION)
    if backends.choose(first.device.type) == "reference":
        if not torch.compiler.is_compiling():
            _check_classes(target, channels, ignore_index)
        return reference.scale_space_cross_entropy(
            predictions, logits, target, weight, ignore_index, reduction, phi, background, resize
        )
    promoted = promoted_type(predictions)
    predictions = [prediction.to(promoted) for prediction in predictions]
    options = phi, background == "last", resize == "opacities"
    losses, _ = _op(predictions, logits, target, weight, ignore_index, *options)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    counted = target != ignore_index
    if weight is None:
        return losses.sum() / counted.sum()
    weights = weight.to(losses.dtype)[torch.where(counted, target, 0).long()]
    return losses.sum() / torch.where(counted, weights, 0).sum()


def _check_classes(target: Tensor, channels: int, ignore_index: int) -> None:
    """Raise for a target that is no class. Not on a GPU, which would have to wait for the answer."""
    if target.device.type != "cpu":
        return
    wrong = (target != ignore_index) & ((target < 0) | (target >= channels))
    if bool(wrong.any()):
        raise ValueError(
            f"target must hold classes from 0 to {channels - 1} or ignore_index {ignore_index}, "
            f"got {target[wrong][0].item()}"
        )


def _forward(
    predictions: list[Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
) -> tuple[Tensor, Tensor]:
    if not torch.compiler.is_compiling():
        _check_classes(target, predictions[0].shape[1], ignore_index)
    options = phi, opaque_last, resize_opacities
    losses, lse = _fake_forward(predictions, logits, target, weight, ignore_index, *options)
    if losses.numel() > 0:
        launch = backends.launcher("scale_space_cross_entropy_forward", logits.device.type)
        classes = target.contiguous(), _as_losses(weight, losses), ignore_index
        launch(*walkable(predictions, logits), *classes, *options, losses, lse)
    return losses, lse


def _fake_forward(
    predictions: list[Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(predictions[0].dtype, torch.float32)
    return target.new_empty(target.shape, dtype=dtype), target.new_empty(target.shape, dtype=dtype)


def _backward(
    grad: Tensor,
    predictions: list[Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    lse: Tensor,
    ignore_index: int,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    needed: list[bool],
) -> list[Tensor]:
    options = phi, opaque_last, resize_opacities
    grads = _fake_backward(grad, predictions, logits, target, weight, lse, ignore_index, *options, needed)
    if grad.numel() == 0:
        return [t.zero_() for t in grads]
    *predictions_needed, logits_needed = needed
    launch = backends.launcher("scale_space_cross_entropy_backward", logits.device.type)
    launch(
        grad.contiguous(),
        *walkable(predictions, logits),
        target.contiguous(),
        _as_losses(weight, lse),
        lse,
        ignore_index,
        *options,
        grads[: sum(predictions_needed)],
        predictions_needed,
        grads[-1] if logits_needed else None,
    )
    return grads


def _fake_backward(
    grad: Tensor,
    predictions: list[Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    lse: Tensor,
    ignore_index: int,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    needed: list[bool],
) -> list[Tensor]:
    grads = [layout.empty(prediction.shape, predictions[0]) for prediction in predictions]
    grads.append(logits.new_empty(logits.shape))
    return [t for t, wanted in zip(grads, needed) if wanted]


def _as_losses(weight: Tensor | None, losses: Tensor) -> Tensor | None:
    return None if weight is None else weight.to(losses.dtype).contiguous()


_op = registration.define(
    "scale_space_cross_entropy(Tensor[] predictions, Tensor logits, Tensor target, Tensor? weight, int ignore_index, "
    "str phi, bool opaque_last, bool resize_opacities) -> (Tensor, Tensor)",
    _forward,
    _fake_forward,
)
_backward_op = registration.define(
    "scale_space_cross_entropy_backward(Tensor grad, Tensor[] predictions, Tensor logits, Tensor target, "
    "Tensor? weight, Tensor lse, int ignore_index, str phi, bool opaque_last, bool resize_opacities, bool[] needed) "
    "-> Tensor[]",
    _backward,
    _fake_backward,
)


class ScaleSpaceCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, below: Callable[..., tuple[Tensor, Tensor]], *inputs: Any) -> tuple[Tensor, Tensor]:
        *predictions, logits, target, weight, ctx.ignore_index, ctx.phi, ctx.opaque_last, ctx.resize_opacities = inputs
        losses, lse = below(*inputs)
        ctx.save_for_backward(*predictions, logits, target, weight, lse)
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)  # for what has no gradient no zeros are made
        return losses, lse

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        *predictions, logits, target, weight, lse = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[1 : len(predictions) + 2])
        options = ctx.ignore_index, ctx.phi, ctx.opaque_last, ctx.resize_opacities
        grads = iter(_backward_op(grad, predictions, logits, target, weight, lse, *options, needed))
        return None, *(next(grads) if wanted else None for wanted in needed), *6 * [None]


registration.differentiate(_op, ScaleSpaceCrossEntropy)
registration.differentiable_once(_backward_op, "scale_space_cross_entropy")
