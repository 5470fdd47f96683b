"""resized_labels: the most likely class of every pixel of resized logits, without the resized logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends, checks, layout
from afa_kernels.ops import _labels as labels
from afa_kernels.ops import _registration as registration
from afa_kernels.reference import resized_labels as reference


@registration.public
def resized_labels(logits: Tensor, size: tuple[int, int], *, dtype: torch.dtype = torch.int64) -> Tensor:
    """The argmax over the classes of logits resized bilinearly, which are nowhere stored.

        labels[p] = argmax over c of up(logits)[c, p]

    with `up` the bilinear resize to `size`, as torch.nn.functional.interpolate computes it (align_corners=False, no
    antialias).

    Args:
        logits: (N, C, h, w), of any resolution, with at least one class.
        size: the height and the width of the labels.
        dtype: of the labels: torch.int64 as torch.argmax has it, torch.int32, or torch.uint8, which takes an eighth of
            the memory and holds up to 256 classes.

    Returns:
        labels (N, H, W). The first of equal logits wins, and NaN beats every number, as in torch.argmax. No gradient.

    Raises:
        TypeError: the logits are no dense floating tensor, or `size` no pair of integers.
        ValueError: the logits have no pixels, no channels or too many for `dtype`, or `dtype` is another one.

    Source: the last step of most networks for segmentation, e.g. Long et al., "Fully Convolutional Networks for
    Semantic Segmentation", CVPR 2015.

    >>> import torch, afa_kernels
    >>> labels = afa_kernels.resized_labels(torch.randn(2, 19, 32, 64), size=(128, 256), dtype=torch.uint8)
    >>> labels.shape, labels.dtype
    (torch.Size([2, 128, 256]), torch.uint8)
    """
    checks.floating("logits", logits)
    checks.pixels("logits", logits)
    height, width = checks.size("size", size)
    labels.check("logits", logits, dtype)
    with torch.no_grad():
        backend = backends.choose("resized_labels", logits.device.type)
        if backend == "reference":
            return reference.resized_labels(logits, (height, width), dtype)
        return _op(logits, height, width, dtype, backend)


def _allocate(logits: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    return logits.new_empty((logits.shape[0], height, width), dtype=dtype)


def _prepare(logits: Tensor, *options: Any) -> tuple[Any, ...]:
    return (layout.as_map(logits, layout.memory_format(logits)),)


_op = registration.define(
    "resized_labels(Tensor logits, SymInt height, SymInt width, ScalarType dtype) -> Tensor labels",
    _allocate,
    _prepare,
)
