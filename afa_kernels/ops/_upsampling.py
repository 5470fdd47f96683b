"""What the operations share that upsample a map themselves: what its weights must be, and how kernels take them."""

from __future__ import annotations

from torch import Tensor

from afa_kernels import checks, dtypes

FACTORS = (2, 4, 8)


def check(deep: Tensor, weight: Tensor) -> int:
    """Raise where `weight` is not that of a depthwise transposed convolution of `deep`. Returns the factor."""
    checks.floating("weight", weight)
    _, of_group, height, width = weight.shape
    if not any(height == width == 2 * factor for factor in FACTORS) or of_group != 1:
        raise ValueError(
            f"weight must have shape (C, 1, 2 f, 2 f) with f one of {', '.join(map(str, FACTORS))}, "
            f"got {tuple(weight.shape)}"
        )
    checks.shape("weight", weight, (deep.shape[1], 1, height, width), "deep", deep)
    checks.same_device("weight", weight, "deep", deep)
    return height // 2


def as_taps(weight: Tensor, like: Tensor) -> Tensor:
    """The weights as kernels take them: (2 f, 2 f, C), the channels of a tap side by side, in the arithmetic's type."""
    return weight[:, 0].permute(1, 2, 0).to(dtypes.arithmetic(like)).contiguous()
