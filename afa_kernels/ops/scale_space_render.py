"""scale_space_render: predictions of several scales, resized and composited by their scale-space weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.ops.scale_space_weights import BACKGROUND, MOST_SCALES, PHI, join, promoted_type, result_type
from afa_kernels.reference import scale_space_render as reference

RESIZE = ("weights", "opacities")


def scale_space_render(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    size: tuple[int, int] | None = None,
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
        predictions: K tensors (N, C, h_k, w_k), coarse to fine, 1 <= K <= 16; log-probabilities or class scores.
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
        saves nothing but the arguments.

    Raises:
        TypeError: an argument is no dense floating tensor, or `size` no pair of integers.
        ValueError: a number, a shape or a device does not match, or an option is unknown.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, section 3.3.

    >>> import torch, afa_kernels
    >>> predictions = [torch.randn(2, 19, 16, 32), torch.randn(2, 19, 32, 64)]
    >>> afa_kernels.scale_space_render(predictions, torch.randn(2, 2, 32, 64), size=(128, 256)).shape
    torch.Size([2, 19, 128, 256])
    """
    logits, (height, width) = check(predictions, logits, size, phi, background, resize)
    first = predictions[0]
    promoted = promoted_type(predictions)
    dtype = result_type(promoted, first.device.type)
    if backends.choose(first.device.type) == "reference":
        return reference.scale_space_render(predictions, logits, (height, width), phi, background, resize, dtype)
    predictions = [prediction.to(promoted) for prediction in predictions]
    return _op(predictions, logits, height, width, phi, background == "last", resize == "opacities", dtype)


def check(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    size: tuple[int, int] | None,
    phi: str,
    background: str,
    resize: str,
) -> tuple[Tensor, tuple[int, int]]:
    """Raise where an argument is wrong; the logits as one tensor, and the size of the output."""
    checks.one_of("phi", phi, PHI)
    checks.one_of("background", background, BACKGROUND)
    checks.one_of("resize", resize, RESIZE)
    checks.sequence("predictions", predictions)
    checks.count("predictions", len(predictions), MOST_SCALES)
    first = largest = predictions[0]
    for k, prediction in enumerate(predictions):
        name = f"predictions[{k}]"
        checks.floating(name, prediction)
        checks.pixels(name, prediction)
        checks.shape(name, prediction, (*first.shape[:2], *prediction.shape[2:]), "predictions[0]", first)
        checks.same_device(name, prediction, "predictions[0]", first)
        if prediction.shape[2] * prediction.shape[3] > largest.shape[2] * largest.shape[3]:
            largest = prediction
    logits, _ = join(logits)
    checks.shape("logits", logits, (first.shape[0], len(predictions), *logits.shape[2:]), "predictions[0]", first)
    checks.same_device("logits", logits, "predictions[0]", first)
    checks.pixels("logits", logits)
    if size is None:
        return logits, (largest.shape[2], largest.shape[3])
    checks.size("size", size)
    return logits, (size[0], size[1])


def _forward(
    predictions: list[Tensor],
    logits: Tensor,
    height: int,
    width: int,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    dtype: torch.dtype,
) -> Tensor:
    out = _fake_forward(predictions, logits, height, width, phi, opaque_last, resize_opacities, dtype)
    if out.numel() > 0:
        launch = backends.launcher("scale_space_render_forward", logits.device.type)
        launch(*walkable(predictions, logits), phi, opaque_last, resize_opacities, out)
    return out


def _fake_forward(
    predictions: list[Tensor],
    logits: Tensor,
    height: int,
    width: int,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    dtype: torch.dtype,
) -> Tensor:
    first = predictions[0]
    shape = (*first.shape[:2], height, width)
    return torch.empty(shape, dtype=dtype, device=first.device, memory_format=layout.memory_format(first))


def _backward(
    grad: Tensor,
    predictions: list[Tensor],
    logits: Tensor,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    needed: list[bool],
) -> list[Tensor]:
    grads = _fake_backward(grad, predictions, logits, phi, opaque_last, resize_opacities, needed)
    if grad.numel() == 0:
        return [t.zero_() for t in grads]
    *predictions_needed, logits_needed = needed
    launch = backends.launcher("scale_space_render_backward", logits.device.type)
    launch(
        layout.walkable(grad, layout.memory_format(predictions[0])),
        *walkable(predictions, logits),
        phi,
        opaque_last,
        resize_opacities,
        grads[: sum(predictions_needed)],
        predictions_needed,
        grads[-1] if logits_needed else None,
    )
    return grads


def _fake_backward(
    grad: Tensor,
    predictions: list[Tensor],
    logits: Tensor,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    needed: list[bool],
) -> list[Tensor]:
    grads = [layout.empty(prediction.shape, predictions[0]) for prediction in predictions]
    grads.append(logits.new_empty(logits.shape))
    return [t for t, wanted in zip(grads, needed) if wanted]


def walkable(predictions: list[Tensor], logits: Tensor) -> tuple[list[Tensor], Tensor]:
    format = layout.memory_format(predictions[0])
    return [layout.walkable(p, format) for p in predictions], layout.walkable(logits, torch.contiguous_format)


_op = registration.define(
    "scale_space_render(Tensor[] predictions, Tensor logits, SymInt height, SymInt width, str phi, bool opaque_last, "
    "bool resize_opacities, ScalarType dtype) -> Tensor",
    _forward,
    _fake_forward,
)
_backward_op = registration.define(
    "scale_space_render_backward(Tensor grad, Tensor[] predictions, Tensor logits, str phi, bool opaque_last, "
    "bool resize_opacities, bool[] needed) -> Tensor[]",
    _backward,
    _fake_backward,
)


class ScaleSpaceRender(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, below: Callable[..., Tensor], *inputs: Any) -> Tensor:
        *predictions, logits, _, _, ctx.phi, ctx.opaque_last, ctx.resize_opacities, _ = inputs
        ctx.save_for_backward(*predictions, logits)
        return below(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *predictions, logits = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[1 : len(predictions) + 2])
        options = ctx.phi, ctx.opaque_last, ctx.resize_opacities
        grads = iter(_backward_op(grad, predictions, logits, *options, needed))
        return None, *(next(grads) if wanted else None for wanted in needed), *6 * [None]


registration.differentiate(_op, ScaleSpaceRender)
registration.differentiable_once(_backward_op, "scale_space_render")
