"""What the operations of scale-space rendering share: their options, and the check of predictions and logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels import checks, dtypes, layout

PHI = ("abs", "relu", "softplus", "exp")
BACKGROUND = ("none", "last")
RESIZE = ("weights", "opacities")
MOST_SCALES = 16


def check_options(phi: str, background: str, resize: str = "weights") -> None:
    checks.one_of("phi", phi, PHI)
    checks.one_of("background", background, BACKGROUND)
    checks.one_of("resize", resize, RESIZE)


def check_predictions(predictions: Sequence[Tensor]) -> None:
    """K predictions with pixels, of one batch and one number of channels, each at its own resolution."""
    checks.sequence("predictions", predictions)
    checks.count("predictions", len(predictions), MOST_SCALES)
    first = predictions[0]
    for k, prediction in enumerate(predictions):
        name = f"predictions[{k}]"
        checks.floating(name, prediction)
        checks.pixels(name, prediction)
        checks.like(name, prediction, (*first.shape[:2], *prediction.shape[2:]), "predictions[0]", first)


def check_logits(logits: Tensor | Sequence[Tensor]) -> tuple[int, ...]:
    """(N, K, h, w), or K tensors (N, 1, h, w) of any size. Returns the shape of all as one tensor."""
    if isinstance(logits, Tensor):
        checks.floating("logits", logits)
        checks.count("logits", logits.shape[1], MOST_SCALES)
        return tuple(logits.shape)
    checks.sequence("logits", logits)
    checks.count("logits", len(logits), MOST_SCALES)
    for i, y in enumerate(logits):
        name = f"logits[{i}]"
        checks.floating(name, y)
        checks.like(name, y, (logits[0].shape[0], 1, *y.shape[2:]), "logits[0]", logits[0])
    if not _of_one_size(logits):
        for i, y in enumerate(logits):
            checks.pixels(f"logits[{i}]", y)
    return logits[0].shape[0], len(logits), *_largest(logits).shape[2:]


def check(
    predictions: Sequence[Tensor],
    logits: Tensor | Sequence[Tensor],
    size: tuple[int, int] | None,
    phi: str,
    background: str,
    resize: str,
) -> tuple[int, int]:
    """Raise where an argument is wrong. Returns the size of the output."""
    check_options(phi, background, resize)
    check_predictions(predictions)
    shape, first = check_logits(logits), predictions[0]
    checks.shape("logits", shape, (first.shape[0], len(predictions), *shape[2:]), "predictions[0]", first)
    one = logits if isinstance(logits, Tensor) else logits[0]
    checks.same_device("logits", one, "predictions[0]", first)
    checks.pixels("logits", one)
    if size is not None:
        return checks.size("size", size)
    largest = _largest(predictions)
    return largest.shape[2], largest.shape[3]


def joined(logits: Tensor | Sequence[Tensor]) -> tuple[Tensor, torch.dtype]:
    """The logits as one (N, K, h, w) tensor, and their own type, which that of resized logits is not."""
    if isinstance(logits, Tensor):
        return logits, logits.dtype
    dtype = dtypes.promoted(logits)
    if _of_one_size(logits):
        return torch.cat([y.to(dtype) for y in logits], dim=1), dtype
    arithmetic = torch.promote_types(dtype, torch.float32)
    size = tuple(_largest(logits).shape[2:])
    resized = [F.interpolate(y.to(arithmetic), size, mode="bilinear", align_corners=False) for y in logits]
    return torch.cat(resized, dim=1), dtype


def _of_one_size(tensors: Sequence[Tensor]) -> bool:
    return all(y.shape[2:] == tensors[0].shape[2:] for y in tensors)


def _largest(tensors: Sequence[Tensor]) -> Tensor:
    """The first of those with the most pixels."""
    largest = tensors[0]
    for x in tensors[1:]:
        if x.shape[2] * x.shape[3] > largest.shape[2] * largest.shape[3]:
            largest = x
    return largest


def as_maps(predictions: list[Tensor], logits: Tensor) -> tuple[list[Tensor], Tensor]:
    format = layout.memory_format(predictions[0])
    return [layout.as_map(p, format) for p in predictions], layout.as_map(logits, torch.contiguous_format)
