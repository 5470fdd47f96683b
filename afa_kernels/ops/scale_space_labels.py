"""scale_space_labels: the most likely class of every rendered pixel, without the rendering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from afa_kernels import backends, checks, dtypes
from afa_kernels.ops import _labels as labels_of
from afa_kernels.ops import _registration as registration
from afa_kernels.ops import _scale_space as scale_space
from afa_kernels.reference import scale_space_labels as reference

VALUE = ("score", "probability")


@overload
def scale_space_labels(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    size: tuple[int, int] | None = ...,
    *,
    phi: str = ...,
    background: str = ...,
    resize: str = ...,
    value: None = ...,
    dtype: torch.dtype = ...,
) -> Tensor: ...
@overload
def scale_space_labels(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    size: tuple[int, int] | None = ...,
    *,
    phi: str = ...,
    background: str = ...,
    resize: str = ...,
    value: Literal["score", "probability"],
    dtype: torch.dtype = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def scale_space_labels(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    size: tuple[int, int] | None = ...,
    *,
    phi: str = ...,
    background: str = ...,
    resize: str = ...,
    value: str | None,
    dtype: torch.dtype = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...
@registration.public
def scale_space_labels(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    size: tuple[int, int] | None = None,
    *,
    phi: str = "abs",
    background: str = "none",
    resize: str = "weights",
    value: str | None = None,
    dtype: torch.dtype = torch.int64,
) -> Tensor | tuple[Tensor, Tensor]:
    """The argmax over the channels of `scale_space_render`, which is nowhere stored.

        labels[p] = argmax over c of rendered[c, p]

    Args:
        predictions, logits, size, phi, background, resize: as in `scale_space_render`, with at least one channel.
        value: None; "score" for the largest rendered score too; or "probability" for its softmax over the channels.
        dtype: of the labels: torch.int64 as torch.argmax has it, torch.int32, or torch.uint8, which takes an eighth of
            the memory and holds up to 256 classes.

    Returns:
        labels (N, H, W); with `value` a pair of these and the values, (N, H, W) in float32 (float64 if a prediction
        is). The first of equal scores wins, and NaN beats every number, as in torch.argmax. No gradient.

    Raises:
        TypeError: an argument is no dense floating tensor, or `size` no pair of integers.
        ValueError: a number, a shape or a device does not match, there are no channels or too many for `dtype`, or an
            option is unknown.

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, section 3.3.

    >>> import torch, afa_kernels
    >>> predictions = [torch.randn(2, 19, 16, 32), torch.randn(2, 19, 32, 64)]
    >>> labels = afa_kernels.scale_space_labels(predictions, torch.randn(2, 2, 32, 64), size=(128, 256))
    >>> labels.shape, labels.dtype
    (torch.Size([2, 128, 256]), torch.int64)
    """
    height, width = scale_space.check(predictions, logits, size, phi, background, resize)
    if value is not None:
        checks.one_of("value", value, VALUE)
    labels_of.check("predictions", predictions[0], dtype)
    with torch.no_grad():
        logits, _ = scale_space.joined(logits)
        backend = backends.choose("scale_space_labels", logits.device.type)
        if backend == "reference":
            size = height, width
            return reference.scale_space_labels(predictions, logits, size, phi, background, resize, value, dtype)
        promoted = dtypes.promoted(predictions)
        predictions = [prediction.to(promoted) for prediction in predictions]
        options = phi, background == "last", resize == "opacities", value or "none"
        labels, *values = _op(predictions, logits, height, width, *options, dtype, backend)
    return (labels, values[0]) if values else labels


def _allocate(
    predictions: list[Tensor], logits: Tensor, height: int, width: int, phi: str, opaque_last: bool,
    resize_opacities: bool, value: str, dtype: torch.dtype,
) -> list[Tensor]:  # fmt: skip
    first = predictions[0]
    shape = first.shape[0], height, width
    labels = first.new_empty(shape, dtype=dtype)
    return [labels] if value == "none" else [labels, first.new_empty(shape, dtype=dtypes.arithmetic(first))]


def _prepare(predictions: list[Tensor], logits: Tensor, height: int, width: int, *options: Any) -> tuple[Any, ...]:
    return *scale_space.as_maps(predictions, logits), *options[:-1]


_op = registration.define(
    "scale_space_labels(Tensor[] predictions, Tensor logits, SymInt height, SymInt width, str phi, bool opaque_last, "
    "bool resize_opacities, str value, ScalarType dtype) -> Tensor[] outputs",
    _allocate,
    _prepare,
)
