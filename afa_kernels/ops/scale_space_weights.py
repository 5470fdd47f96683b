"""scale_space_weights: the weight of each scale in scale-space rendering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import scale_space_weights as reference

PHI = ("abs", "relu", "softplus", "exp")
BACKGROUND = ("none", "last")
MOST_SCALES = 16


def scale_space_weights(
    logits: Tensor | Sequence[Tensor], phi: str = "abs", background: str = "none"
) -> tuple[Tensor, Tensor]:
    """Weigh K scales by volume rendering along scale space: scale 1, the coarsest, is in front and hides the others.

    With the optical depth d_i = phi(y_i) of the logits y_1, ..., y_K and the transmittance T_i in front of scale i:

        T_i = exp(-sum_{j<i} d_j)        w_i = (1 - exp(-d_i)) T_i

    The weights sum to 1 - T_{K+1}.

    Args:
        logits: (N, K, h, w), coarse to fine, 1 <= K <= 16; or K tensors (N, 1, h, w), which are first resized to the
            size of the one with the most pixels where their sizes differ (bilinear, align_corners=False).
        phi: "abs" (the paper), "relu", "softplus" (the opacity 1 - exp(-d) is then sigmoid(y), as in hierarchical
            multi-scale attention) or "exp" (of min(y, 80)).
        background: "none", or "last" to make the last scale opaque: w_K = T_K, and nothing is left.

    Returns:
        The weights (N, K, h, w) and the transmittance T_{K+1} (N, 1, h, w), contiguous, in the type of the logits
        (under autocast in float32). Arithmetic is float64 if that type is float64, else float32. Both have a gradient
        to the logits; backward saves nothing but the logits.

    Raises:
        TypeError: the logits are no dense floating tensors.
        ValueError: their number or a shape is wrong, they are on several devices, or an option is unknown.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, section 3.3.

    >>> import torch, afa_kernels
    >>> weights, transmittance = afa_kernels.scale_space_weights(torch.randn(2, 3, 32, 64))
    >>> torch.allclose(weights.sum(1, keepdim=True) + transmittance, torch.ones(2, 1, 32, 64))
    True
    """
    checks.one_of("phi", phi, PHI)
    checks.one_of("background", background, BACKGROUND)
    logits, dtype = join(logits)
    dtype = result_type(dtype, logits.device.type)
    if backends.choose(logits.device.type) == "reference":
        return reference.scale_space_weights(logits, phi, background, dtype)
    return _op(logits, phi, background == "last", dtype)


def join(logits: Tensor | Sequence[Tensor]) -> tuple[Tensor, torch.dtype]:
    """The logits as one (N, K, h, w) tensor, and their own type, which that of resized logits is not."""
    if isinstance(logits, Tensor):
        checks.floating("logits", logits)
        checks.count("logits", logits.shape[1], MOST_SCALES)
        return logits, logits.dtype
    checks.sequence("logits", logits)
    checks.count("logits", len(logits), MOST_SCALES)
    finest = logits[0]
    for i, y in enumerate(logits):
        name = f"logits[{i}]"
        checks.floating(name, y)
        checks.shape(name, y, (logits[0].shape[0], 1, *y.shape[2:]), "logits[0]", logits[0])
        checks.same_device(name, y, "logits[0]", logits[0])
        if y.shape[2] * y.shape[3] > finest.shape[2] * finest.shape[3]:
            finest = y
    dtype = promoted_type(logits)
    size = tuple(finest.shape[2:])
    if all(tuple(y.shape[2:]) == size for y in logits):
        return torch.cat([y.to(dtype) for y in logits], dim=1), dtype
    for i, y in enumerate(logits):
        checks.pixels(f"logits[{i}]", y)
    arithmetic = torch.promote_types(dtype, torch.float32)
    resized = [F.interpolate(y.to(arithmetic), size, mode="bilinear", align_corners=False) for y in logits]
    return torch.cat(resized, dim=1), dtype


def promoted_type(tensors: Sequence[Tensor]) -> torch.dtype:
    dtype = tensors[0].dtype
    for t in tensors[1:]:
        dtype = torch.promote_types(dtype, t.dtype)
    return dtype


def result_type(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """`dtype`, or under autocast at least float32."""
    if device_type != "meta" and torch.is_autocast_enabled(device_type):  # autocast knows no meta device
        return torch.promote_types(dtype, torch.float32)
    return dtype


def _forward(logits: Tensor, phi: str, opaque_last: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    outputs = _fake_forward(logits, phi, opaque_last, dtype)
    if logits.numel() > 0:
        launch = backends.launcher("scale_space_weights_forward", logits.device.type)
        launch(layout.walkable(logits, torch.contiguous_format), phi, opaque_last, *outputs)
    return outputs


def _fake_forward(logits: Tensor, phi: str, opaque_last: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    batch, _, height, width = logits.shape
    return logits.new_empty(logits.shape, dtype=dtype), logits.new_empty((batch, 1, height, width), dtype=dtype)


def _backward(
    logits: Tensor, grad_weights: Tensor | None, grad_transmittance: Tensor | None, phi: str, opaque_last: bool
) -> Tensor:
    grad_logits = _fake_backward(logits, grad_weights, grad_transmittance, phi, opaque_last)
    if logits.numel() > 0:
        inputs = (
            None if x is None else layout.walkable(x, torch.contiguous_format)
            for x in (logits, grad_weights, grad_transmittance)
        )
        launch = backends.launcher("scale_space_weights_backward", logits.device.type)
        launch(*inputs, phi, opaque_last, grad_logits)
    return grad_logits


def _fake_backward(
    logits: Tensor, grad_weights: Tensor | None, grad_transmittance: Tensor | None, phi: str, opaque_last: bool
) -> Tensor:
    return logits.new_empty(logits.shape)


_op = registration.define(
    "scale_space_weights(Tensor logits, str phi, bool opaque_last, ScalarType dtype) -> (Tensor, Tensor)",
    _forward,
    _fake_forward,
)
_backward_op = registration.define(
    "scale_space_weights_backward(Tensor logits, Tensor? grad_weights, Tensor? grad_transmittance, str phi, "
    "bool opaque_last) -> Tensor",
    _backward,
    _fake_backward,
)


class ScaleSpaceWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, below: Callable[..., Any], *inputs: Any) -> tuple[Tensor, Tensor]:
        logits, ctx.phi, ctx.opaque_last, _ = inputs
        ctx.save_for_backward(logits)
        ctx.set_materialize_grads(False)
        return below(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, _backward_op(*ctx.saved_tensors, *grads, ctx.phi, ctx.opaque_last), None, None, None


registration.differentiate(_op, ScaleSpaceWeights)
registration.differentiable_once(_backward_op, "scale_space_weights")
