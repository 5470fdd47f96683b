"""scale_space_cross_entropy: the loss of scale-space rendering, without the rendering or its softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, dtypes
from afa_kernels.ops import _registration as registration
from afa_kernels.ops import _scale_space as scale_space
from afa_kernels.reference import scale_space_cross_entropy as reference

REDUCTION = ("mean", "sum", "none")
TARGET_DTYPES = (torch.uint8, torch.int32, torch.int64)


@registration.public
def scale_space_cross_entropy(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    target: Tensor,
    weight: Tensor | None = None,
    *,
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
    if target.shape[1] == 0 or target.shape[2] == 0:
        raise ValueError(f"target must have at least one pixel, got shape {tuple(target.shape)}")
    size = scale_space.check(predictions, logits, (target.shape[1], target.shape[2]), phi, background, resize)
    first = predictions[0]
    channels = first.shape[1]
    if channels < 1:
        raise ValueError(f"predictions must have at least one channel, got shape {tuple(first.shape)}")
    checks.shape("target", target, (first.shape[0], *size), "predictions[0]", first)
    checks.same_device("target", target, "predictions[0]", first)
    if weight is not None:
        checks.floating("weight", weight, dim=1)
        checks.like("weight", weight, (channels,), "predictions[0]", first)
        if weight.requires_grad:
            raise ValueError("weight must not require a gradient, which it does not get")
    ignore_index = checks.integer("ignore_index", ignore_index)
    checks.one_of("reduction", reduction, REDUCTION)
    logits, _ = scale_space.joined(logits)
    backend = backends.choose("scale_space_cross_entropy", first.device.type)
    if backend == "reference":
        _check_classes(target, channels, ignore_index)
        return reference.scale_space_cross_entropy(
            predictions, logits, target, weight, ignore_index, reduction, phi, background, resize
        )
    promoted = dtypes.promoted(predictions)
    predictions = [prediction.to(promoted) for prediction in predictions]
    options = phi, background == "last", resize == "opacities"
    losses, _ = _op(predictions, logits, target, weight, ignore_index, *options, backend)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    counted = target.long() != ignore_index
    if weight is None:
        return losses.sum() / counted.sum()
    weights = weight.to(losses.dtype)[torch.where(counted, target, 0).long()]
    return losses.sum() / torch.where(counted, weights, 0).sum()


def _check_classes(target: Tensor, channels: int, ignore_index: int) -> None:
    """Raise for a target that is no class, where its values can be read.

    Not on a GPU, which would have to wait for the answer, nor of fake tensors or inside torch.compile and torch.func.
    """
    if target.device.type != "cpu" or not registration.values_are_there(target):
        return
    labels = target.long()
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= channels))
    if bool(wrong.any()):
        raise ValueError(
            f"target must hold classes from 0 to {channels - 1} or ignore_index {ignore_index}, "
            f"got {labels[wrong][0].item()}"
        )


def _allocate(predictions: list[Tensor], logits: Tensor, target: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    dtype = dtypes.arithmetic(predictions[0])
    return target.new_empty(target.shape, dtype=dtype), target.new_empty(target.shape, dtype=dtype)


def _prepare(
    predictions: list[Tensor], logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, *options: Any
) -> tuple[Any, ...]:
    _check_classes(target, predictions[0].shape[1], ignore_index)
    classes = target.contiguous(), _row(weight, predictions[0]), ignore_index
    return *scale_space.as_maps(predictions, logits), *classes, *options


def _allocate_backward(grad: Tensor, predictions: list[Tensor], logits: Tensor, *rest: Any) -> list[Tensor]:
    return registration.gradients(rest[-1], predictions, [logits])


def _prepare_backward(
    grad: Tensor,
    predictions: list[Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    lse: Tensor,
    *options: Any,
) -> tuple[Any, ...]:
    classes = target.contiguous(), _row(weight, predictions[0]), lse.contiguous()
    return grad.contiguous(), *scale_space.as_maps(predictions, logits), *classes, *options


def _row(weight: Tensor | None, prediction: Tensor) -> Tensor | None:
    return None if weight is None else weight.to(dtypes.arithmetic(prediction)).contiguous()


_INPUTS = "Tensor[] predictions, Tensor logits, Tensor target, Tensor? weight"
_OPTIONS = "int ignore_index, str phi, bool opaque_last, bool resize_opacities"
_op = registration.define(
    f"scale_space_cross_entropy({_INPUTS}, {_OPTIONS}) -> (Tensor losses, Tensor lse)", _allocate, _prepare
)
_backward_op = registration.define(
    f"scale_space_cross_entropy_backward(Tensor grad, {_INPUTS}, Tensor lse, {_OPTIONS}, bool[] needed) -> "
    "Tensor[] grads",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(_op, _backward_op, of=("predictions", "logits"))
