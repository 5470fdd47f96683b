"""hierarchical_fusion: hierarchical multi-scale attention (HMA), the predictions of K scales blended by attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels import backends, checks, dtypes, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.ops import _scale_space as scale_space
from afa_kernels.reference import hierarchical_fusion as reference

VARIANT = ("afa", "nvidia")


@registration.public
def hierarchical_fusion(
    predictions: Sequence[Tensor],
    attentions: Sequence[Tensor],
    scales: Sequence[float],
    size: tuple[int, int] | None = None,
    *,
    variant: str = "afa",
) -> Tensor:
    """Blend the predictions of K scales by attention, from the finest scale to the coarsest.

    With `up` the bilinear resize (align_corners=False, no antialias, as F.interpolate), p starts as the prediction of
    the finest scale; then for each coarser scale s with attention a and prediction f:

        variant="afa"       p = up(a) up(f) + (1 - up(a)) p           all at the output's size (dla-afa)
        variant="nvidia"    p = a f + (1 - a) up(p)                   s >= 1, at the size of f
                            p = up(a f) + (1 - up(a)) p               s < 1, at the size of p

    The two differ in value. "afa" equals `scale_space_render` with phi="softplus", background="last" and
    resize="opacities" on the logits of the attentions. dla-afa first resizes every attention to the size of scale
    1.0's: the same where that is the output's. "nvidia" is NVIDIA/semantic-segmentation's; its result has the size of
    the finest prediction of a scale s >= 1 that was last, and is resized to `size` if that is another.

    The auxiliary loss of dla-afa's HMA keeps that of the lowest scale alone, as its loop overwrites the others; nothing
    here does so: fuse auxiliary predictions by a call of their own.

    Args:
        predictions: K tensors (N, C, h_k, w_k), in the order of `scales`, 1 <= K <= 16.
        attentions: K tensors (N, 1, h, w) in [0, 1], already activated, each of any size ("nvidia": of its
            prediction's). That of the finest scale is not used and may be left out.
        scales: K numbers, ascending, coarse to fine.
        size: (H, W) of the output; by default that of the prediction of scale 1.0.
        variant: "afa" or "nvidia".

    Returns:
        (N, C, H, W) in the promoted type of the predictions (under autocast in float32) and the memory format of the
        first. Arithmetic is float64 if that type is float64, else float32. Every prediction has a gradient, and every
        attention that is used; both are collected by each low-resolution pixel: deterministic. "afa" saves nothing for
        backward but the arguments; "nvidia" besides, in the type of the arithmetic, the products a f of the scales
        below 1, at their own size, and p at the size of each scale from 1 on but the last.

    Raises:
        TypeError: an argument is no dense floating tensor, a scale no number, or `size` no pair of integers.
        ValueError: a number, an order, a shape or a device does not match, or the variant is unknown.

    Source: Tao et al., "Hierarchical Multi-Scale Attention for Semantic Segmentation", arXiv 2005.10821.

    >>> import torch, afa_kernels
    >>> predictions = [torch.randn(2, 19, 16, 32), torch.randn(2, 19, 32, 64)]
    >>> attention = torch.rand(2, 1, 16, 32)
    >>> afa_kernels.hierarchical_fusion(predictions, [attention], scales=(0.5, 1.0)).shape
    torch.Size([2, 19, 32, 64])
    """
    scales, size = _check(predictions, attentions, scales, size, variant)
    attentions = attentions[: len(predictions) - 1]
    first = predictions[0]
    promoted = dtypes.promoted(predictions)
    dtype = dtypes.result_type(promoted, first.device.type)
    backend = backends.choose("hierarchical_fusion", first.device.type)
    if backend == "reference":
        return reference.hierarchical_fusion(predictions, attentions, scales, variant, size, dtype)
    if variant == "afa":
        return _op([p.to(promoted) for p in predictions], attentions, *size, False, dtype, backend)
    # What is between two steps stays in the type of the arithmetic.
    arithmetic = torch.promote_types(promoted, torch.float32)
    predictions, attentions = ([t.to(arithmetic) for t in given] for given in (predictions, attentions))
    fused, given = predictions[-1], predictions[-1]
    coarse = sum(scale < 1 for scale in scales[:-1])
    for k in reversed(range(coarse, len(predictions) - 1)):
        at = predictions[k].shape[2:]
        fused = _op([predictions[k], fused], [attentions[k]], *at, False, arithmetic, backend)
    if coarse > 0:
        products = [a * f for a, f in zip(attentions[:coarse], predictions)]
        fused = _op([*products, fused], attentions[:coarse], *fused.shape[2:], True, arithmetic, backend)
    if tuple(fused.shape[2:]) != tuple(size):
        if fused.shape[1] == 0:
            return fused.new_empty((*fused.shape[:2], *size), dtype=dtype)
        fused = F.interpolate(fused, size, mode="bilinear", align_corners=False)
    return fused.to(dtype, copy=fused is given)


def _check(
    predictions: Sequence[Tensor],
    attentions: Sequence[Tensor],
    scales: Sequence[float],
    size: tuple[int, int] | None,
    variant: str,
) -> tuple[tuple[float, ...], tuple[int, int]]:
    """Raise where an argument is wrong. Returns the scales and the size of the output."""
    checks.one_of("variant", variant, VARIANT)
    scale_space.check_predictions(predictions)
    checks.sequence("attentions", attentions)
    scales = checks.ascending("scales", scales, len(predictions))
    first = predictions[0]
    if len(attentions) not in (len(predictions) - 1, len(predictions)):
        raise ValueError(
            f"attentions must have one tensor for each of the {len(predictions)} scales, the finest one's optional, "
            f"got {len(attentions)}"
        )
    for k, attention in enumerate(attentions[: len(predictions) - 1]):
        name, prediction = f"attentions[{k}]", predictions[k]
        checks.floating(name, attention)
        checks.pixels(name, attention)
        at = (prediction if variant == "nvidia" else attention).shape[2:]
        checks.shape(name, attention, (first.shape[0], 1, *at), f"predictions[{k}]", prediction)
        checks.same_device(name, attention, "predictions[0]", first)
    if size is not None:
        return scales, checks.size("size", size)
    for prediction, scale in zip(predictions, scales):
        if scale == 1:
            return scales, (prediction.shape[2], prediction.shape[3])
    raise ValueError(f"size must be given where no scale is 1.0, got scales {tuple(scales)}")


def _allocate(
    predictions: list[Tensor],
    attentions: list[Tensor],
    height: int,
    width: int,
    premultiplied: bool,
    dtype: torch.dtype,
) -> Tensor:
    return layout.empty((*predictions[0].shape[:2], height, width), predictions[0], dtype)


def _prepare(predictions: list[Tensor], attentions: list[Tensor], *options: Any) -> tuple[Any, ...]:
    _, _, premultiplied, _ = options
    return *_as_maps(predictions, attentions), premultiplied


def _allocate_backward(
    grad: Tensor, predictions: list[Tensor], attentions: list[Tensor], premultiplied: bool, needed: list[bool]
) -> list[Tensor]:
    return registration.gradients(needed, predictions, attentions)


def _prepare_backward(
    grad: Tensor, predictions: list[Tensor], attentions: list[Tensor], premultiplied: bool, needed: list[bool]
) -> tuple[Any, ...]:
    grad = layout.as_map(grad, layout.memory_format(predictions[0]))
    return grad, *_as_maps(predictions, attentions), premultiplied, needed


def _as_maps(predictions: list[Tensor], attentions: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    format = layout.memory_format(predictions[0])
    return (
        [layout.as_map(prediction, format) for prediction in predictions],
        [layout.as_map(attention, torch.contiguous_format) for attention in attentions],
    )


_MAPS = "Tensor[] predictions, Tensor[] attentions"
_op = registration.define(
    f"hierarchical_fusion({_MAPS}, SymInt height, SymInt width, bool premultiplied, ScalarType dtype) -> Tensor out",
    _allocate,
    _prepare,
)
_backward_op = registration.define(
    f"hierarchical_fusion_backward(Tensor grad, {_MAPS}, bool premultiplied, bool[] needed) -> Tensor[] grads",
    _allocate_backward,
    _prepare_backward,
)
registration.differentiate(_op, _backward_op, of=("predictions", "attentions"))
