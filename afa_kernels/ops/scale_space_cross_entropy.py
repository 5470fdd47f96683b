"""scale_space_cross_entropy: the loss of scale-space rendering, without the rendering or its softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from afa_kernels import backends, dtypes
from afa_kernels.ops import _cross_entropy as cross_entropy
from afa_kernels.ops import _registration as registration
from afa_kernels.ops import _scale_space as scale_space
from afa_kernels.reference import scale_space_cross_entropy as reference


@registration.public
def scale_space_cross_entropy(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
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
        label_smoothing: from 0 to 1, the share of the target that is spread over all classes.

    Returns:
        A scalar, or (N, H, W) with reduction="none", in float32 (float64 if a prediction is). Where every pixel is
        ignored the mean is NaN. Predictions and logits have a gradient, as in `scale_space_render`; backward saves the
        arguments and log(sum exp(r)), (N, H, W), and renders once more.

    Raises:
        TypeError: an argument is no dense tensor of a fitting type.
        ValueError: a number, a shape or a device does not match, an option is unknown, or (on the CPU, outside
            torch.compile) a target is no class. Elsewhere the loss of a pixel with such a target is NaN, but in
            the reference on a GPU, where PyTorch asserts.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, section 3.3.

    >>> import torch, afa_kernels
    >>> predictions = [torch.randn(2, 19, 16, 32), torch.randn(2, 19, 32, 64)]
    >>> target = torch.randint(19, (2, 128, 256))
    >>> afa_kernels.scale_space_cross_entropy(predictions, torch.randn(2, 2, 32, 64), target).shape
    torch.Size([])
    """
    scale_space.check(predictions, logits, cross_entropy.check_target(target), phi, background, resize)
    first = predictions[0]
    ignore_index, label_smoothing = cross_entropy.check_options(
        target, weight, ignore_index, reduction, label_smoothing, "predictions[0]", first
    )
    logits, _ = scale_space.joined(logits)
    backend = backends.choose("scale_space_cross_entropy", first.device.type)
    if backend == "reference":
        cross_entropy.check_classes(target, first.shape[1], ignore_index)
        return reference.scale_space_cross_entropy(
            predictions, logits, target, weight, ignore_index, reduction, label_smoothing, phi, background, resize
        )
    promoted = dtypes.promoted(predictions)
    predictions = [prediction.to(promoted) for prediction in predictions]
    rows = cross_entropy.rows(weight, label_smoothing, predictions[0])
    options = phi, background == "last", resize == "opacities"
    losses, _ = _op(predictions, logits, target, *rows, ignore_index, *options, backend)
    return cross_entropy.reduce(losses, target, weight, ignore_index, reduction)


def _allocate(predictions: list[Tensor], logits: Tensor, target: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    dtype = dtypes.arithmetic(predictions[0])
    return target.new_empty(target.shape, dtype=dtype), target.new_empty(target.shape, dtype=dtype)


def _prepare(
    predictions: list[Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    smoothing: Tensor | None,
    ignore_index: int,
    *options: Any,
) -> tuple[Any, ...]:
    cross_entropy.check_classes(target, predictions[0].shape[1], ignore_index)
    rows = cross_entropy.contiguous(weight, smoothing)
    return *scale_space.as_maps(predictions, logits), target.contiguous(), *rows, ignore_index, *options


def _allocate_backward(grad: Tensor, predictions: list[Tensor], logits: Tensor, *rest: Any) -> list[Tensor]:
    return registration.gradients(rest[-1], predictions, [logits])


def _prepare_backward(
    grad: Tensor,
    predictions: list[Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    smoothing: Tensor | None,
    lse: Tensor,
    *options: Any,
) -> tuple[Any, ...]:
    maps = scale_space.as_maps(predictions, logits)
    rows = cross_entropy.contiguous(weight, smoothing)
    return grad.contiguous(), *maps, target.contiguous(), *rows, lse.contiguous(), *options


_INPUTS = "Tensor[] predictions, Tensor logits, Tensor target, Tensor? weight, Tensor? smoothing"
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
