"""resized_cross_entropy: the loss of logits resized to the target, without the resized logits or their softmax."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from afa_kernels import backends, checks, dtypes, layout
from afa_kernels.ops import _cross_entropy as cross_entropy
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import resized_cross_entropy as reference


@registration.public
def resized_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross-entropy of logits resized bilinearly to their target: the last step of a segmentation network.

    With `up` the bilinear resize to the target's size (align_corners=False, no antialias), the resized logits
    r = up(logits) of a pixel, its target t, the class weights u_c (1 without `weight`) and the label smoothing s:

        loss = -(1 - s) u_t log_softmax(r)_t - s / C sum_c u_c log_softmax(r)_c
        mean = sum of the losses / sum of the u_t

    over the pixels whose target is not `ignore_index`: as torch.nn.functional.cross_entropy computes it of
    torch.nn.functional.interpolate. The resized logits, their softmax and their gradient are nowhere stored.

    Args:
        logits: (N, C, h, w), of any resolution, with at least one class.
        target: (N, H, W), the class of every pixel, in int64, int32 or uint8.
        weight: (C,), the weight of each class, without a gradient; None for 1.
        ignore_index: the target of pixels that do not count. Many datasets use 255.
        reduction: "mean", "sum", or "none" for the loss of every pixel.
        label_smoothing: from 0 to 1, the share of the target that is spread over all classes.

    Returns:
        A scalar, or (N, H, W) with reduction="none", in float32 (float64 if the logits are). Where every pixel is
        ignored the mean is NaN. The logits have a gradient; backward saves the arguments and log(sum exp(r)),
        (N, H, W), and resizes once more.

    Raises:
        TypeError: an argument is no dense tensor of a fitting type.
        ValueError: a number, a shape or a device does not match, an option is unknown, or (on the CPU, outside
            torch.compile) a target is no class. Elsewhere the loss of a pixel with such a target is NaN, but in
            the reference on a GPU, where PyTorch asserts.

    Source: the head of most networks for segmentation, e.g. Long et al., "Fully Convolutional Networks for Semantic
    Segmentation", CVPR 2015.

    >>> import torch, afa_kernels
    >>> logits, target = torch.randn(2, 19, 32, 64, requires_grad=True), torch.randint(19, (2, 128, 256))
    >>> loss = afa_kernels.resized_cross_entropy(logits, target, label_smoothing=0.1)
    >>> loss.backward()
    >>> loss.shape, logits.grad.shape
    (torch.Size([]), torch.Size([2, 19, 32, 64]))
    """
    checks.floating("logits", logits)
    checks.pixels("logits", logits)
    cross_entropy.check_target(target)
    ignore_index, label_smoothing = cross_entropy.check_options(
        target, weight, ignore_index, reduction, label_smoothing, "logits", logits
    )
    backend = backends.choose("resized_cross_entropy", logits.device.type)
    if backend == "reference":
        cross_entropy.check_classes(target, logits.shape[1], ignore_index)
        return reference.resized_cross_entropy(logits, target, weight, ignore_index, reduction, label_smoothing)
    rows = cross_entropy.rows(weight, label_smoothing, logits)
    losses, _ = _op(logits, target, *rows, ignore_index, backend)
    return cross_entropy.reduce(losses, target, weight, ignore_index, reduction)


def _allocate(logits: Tensor, target: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    dtype = dtypes.arithmetic(logits)
    return target.new_empty(target.shape, dtype=dtype), target.new_empty(target.shape, dtype=dtype)


def _prepare(
    logits: Tensor, target: Tensor, weight: Tensor | None, smoothing: Tensor | None, ignore_index: int
) -> tuple[Any, ...]:
    cross_entropy.check_classes(target, logits.shape[1], ignore_index)
    x = layout.as_map(logits, layout.memory_format(logits))
    return x, target.contiguous(), *cross_entropy.contiguous(weight, smoothing), ignore_index


def _allocate_backward(grad: Tensor, logits: Tensor, *rest: Any) -> Tensor:
    return layout.empty(logits.shape, logits)


def _prepare_backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    smoothing: Tensor | None,
    lse: Tensor,
    ignore_index: int,
) -> tuple[Any, ...]:
    x = layout.as_map(logits, layout.memory_format(logits))
    rows = cross_entropy.contiguous(weight, smoothing)
    return grad.contiguous(), x, target.contiguous(), *rows, lse.contiguous(), ignore_index


_INPUTS = "Tensor logits, Tensor target, Tensor? weight, Tensor? smoothing"
_op = registration.define(
    f"resized_cross_entropy({_INPUTS}, int ignore_index) -> (Tensor losses, Tensor lse)", _allocate, _prepare
)
_backward_op = registration.define(
    f"resized_cross_entropy_backward(Tensor grad, {_INPUTS}, Tensor lse, int ignore_index) -> Tensor grad_logits",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(_op, _backward_op, of=("logits",))
