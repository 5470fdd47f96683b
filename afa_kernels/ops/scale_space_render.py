"""scale_space_render: predictions of several scales, resized and composited by their scale-space weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, dtypes, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.ops import _scale_space as scale_space
from afa_kernels.reference import scale_space_render as reference


@registration.public
def scale_space_render(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    size: tuple[int, int] | None = None,
    *,
    phi: str = "abs",
    background: str = "none",
    resize: str = "weights",
) -> Tensor:
    """Fuse the predictions of K scales by scale-space rendering (SSR), each read at its own resolution.

    With the weights w_k of `scale_space_weights`, and `up` the bilinear resize to the output (align_corners=False, no
    antialias, as F.interpolate):

        out = sum_k up(w_k) up(prediction_k)

    With resize="opacities" the opacity alpha_k = 1 - exp(-d_k) is resized in place of the weight, and composited at the
    output's resolution: w_k = up(alpha_k) prod_{j<k} (1 - up(alpha_j)). No resized map is stored on the way.

    Args:
        predictions: K tensors (N, C, h_k, w_k), coarse to fine, 1 <= K <= 16; log-probabilities or class scores. The
            first is in front. Their sizes may be any, and so tell no order: a prediction may have been resized, or
            cropped. (`ScaleSpaceRenderer`, which runs networks scale by scale, refuses a prediction of fewer pixels.)
        logits: (N, K, h, w), or K tensors (N, 1, h, w), which are first resized to the size of the one with the most
            pixels where their sizes differ.
        size: (H, W) of the output; by default that of the prediction with the most pixels.
        phi: the optical depth of a logit: "abs" (the paper), "relu", "softplus" or "exp".
        background: "none", or "last" to make the last scale opaque.
        resize: "weights" (the paper's code), or "opacities" (the order of hierarchical multi-scale attention).

    Returns:
        (N, C, H, W) in the promoted type of the predictions (under autocast in float32) and the memory format of the
        first. Arithmetic is float64 if that promoted type is float64, else float32. Every prediction and the logits
        have a gradient, collected by each low-resolution pixel from the outputs that used it: deterministic. Backward
        saves nothing but the arguments (of a list of logits, the one tensor made of it).

    Raises:
        TypeError: an argument is no dense floating tensor, or `size` no pair of integers.
        ValueError: a number, a shape or a device does not match, or an option is unknown.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, section 3.3.

    >>> import torch, afa_kernels
    >>> predictions = [torch.randn(2, 19, 16, 32), torch.randn(2, 19, 32, 64)]
    >>> afa_kernels.scale_space_render(predictions, torch.randn(2, 2, 32, 64), size=(128, 256)).shape
    torch.Size([2, 19, 128, 256])
    """
    height, width = scale_space.check(predictions, logits, size, phi, background, resize)
    logits, _ = scale_space.joined(logits)
    promoted = dtypes.promoted(predictions)
    dtype = dtypes.result_type(promoted, logits.device.type)
    backend = backends.choose("scale_space_render", logits.device.type)
    if backend == "reference":
        return reference.scale_space_render(predictions, logits, (height, width), phi, background, resize, dtype)
    predictions = [prediction.to(promoted) for prediction in predictions]
    return _op(predictions, logits, height, width, phi, background == "last", resize == "opacities", dtype, backend)


def _allocate(
    predictions: list[Tensor], logits: Tensor, height: int, width: int, phi: str, opaque_last: bool,
    resize_opacities: bool, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    return layout.empty((*predictions[0].shape[:2], height, width), predictions[0], dtype)


def _prepare(predictions: list[Tensor], logits: Tensor, height: int, width: int, *options: Any) -> tuple[Any, ...]:
    return *scale_space.as_maps(predictions, logits), *options[:-1]


def _allocate_backward(grad: Tensor, predictions: list[Tensor], logits: Tensor, *options: Any) -> list[Tensor]:
    return registration.gradients(options[-1], predictions, [logits])


def _prepare_backward(grad: Tensor, predictions: list[Tensor], logits: Tensor, *options: Any) -> tuple[Any, ...]:
    grad = layout.as_map(grad, layout.memory_format(predictions[0]))
    return grad, *scale_space.as_maps(predictions, logits), *options


_OPTIONS = "str phi, bool opaque_last, bool resize_opacities"
_op = registration.define(
    f"scale_space_render(Tensor[] predictions, Tensor logits, SymInt height, SymInt width, {_OPTIONS}, "
    "ScalarType dtype) -> Tensor out",
    _allocate,
    _prepare,
)
_backward_op = registration.define(
    f"scale_space_render_backward(Tensor grad, Tensor[] predictions, Tensor logits, {_OPTIONS}, bool[] needed) -> "
    "Tensor[] grads",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(_op, _backward_op, of=("predictions", "logits"))
