"""Feature maps at the size of another, in programs for every size too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def size_of(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def resized_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`x` itself where it has that size, else bilinearly, align_corners=False, no antialias."""
    if isinstance(x, Tensor) and _are_same(size_of(x), size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _are_same(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are the same; where a program for every size is made, whether they are so always."""
    if not torch.compiler.is_compiling():
        return one == other
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(one[0] == other[0]) and statically_known_true(one[1] == other[1])
