"""scale_space_weights: the weight of each scale in scale-space rendering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, dtypes, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.ops import _scale_space as scale_space
from afa_kernels.reference import scale_space_weights as reference


@registration.public
def scale_space_weights(
    logits: Tensor | Sequence[Tensor], *, phi: str = "abs", background: str = "none"
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
        to the logits; backward saves nothing but the logits (of a list, the one tensor made
        of it).

    Raises:
        TypeError: the logits are no dense floating tensors.
        ValueError: their number or a shape is wrong, they are on several devices, or an option is unknown.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, section 3.3.

    >>> import torch, afa_kernels
    >>> weights, transmittance = afa_kernels.scale_space_weights(torch.randn(2, 3, 32, 64))
    >>> torch.allclose(weights.sum(1, keepdim=True) + transmittance, torch.ones(2, 1, 32, 64))
    True
    """
    scale_space.check_options(phi, background)
    scale_space.check_logits(logits)
    logits, dtype = scale_space.joined(logits)
    dtype = dtypes.result_type(dtype, logits.device.type)
    backend = backends.choose("scale_space_weights", logits.device.type)
    if backend == "reference":
        return reference.scale_space_weights(logits, phi, background, dtype)
    return _op(logits, phi, background == "last", dtype, backend)


def _allocate(logits: Tensor, phi: str, opaque_last: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    batch, _, height, width = logits.shape
    return logits.new_empty(logits.shape, dtype=dtype), logits.new_empty((batch, 1, height, width), dtype=dtype)


def _prepare(logits: Tensor, phi: str, opaque_last: bool, dtype: torch.dtype) -> tuple[Any, ...]:
    return layout.as_map(logits, torch.contiguous_format), phi, opaque_last


def _allocate_backward(
    grad_weights: Tensor | None, grad_transmittance: Tensor | None, logits: Tensor, phi: str, opaque_last: bool
) -> Tensor:
    return logits.new_empty(logits.shape)


def _prepare_backward(
    grad_weights: Tensor | None, grad_transmittance: Tensor | None, logits: Tensor, phi: str, opaque_last: bool
) -> tuple[Any, ...]:
    maps = (grad_weights, grad_transmittance, logits)
    return *(None if x is None else layout.as_map(x, torch.contiguous_format) for x in maps), phi, opaque_last


_op = registration.define(
    "scale_space_weights(Tensor logits, str phi, bool opaque_last, ScalarType dtype) -> "
    "(Tensor weights, Tensor transmittance)",
    _allocate,
    _prepare,
)
_backward_op = registration.define(
    "scale_space_weights_backward(Tensor? grad_weights, Tensor? grad_transmittance, Tensor logits, str phi, "
    "bool opaque_last) -> Tensor grad_logits",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(_op, _backward_op, of=("logits",))
