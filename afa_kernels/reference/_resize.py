"""Bilinear resizing, align_corners=False, no antialias; in programs for every size too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`x` itself where it has that size."""
    if same_size((x.shape[2], x.shape[3]), size):
        return x
    if x.shape[1] == 0:  # which F.interpolate refuses
        return x[..., :1, :1].expand(*x.shape[:2], *size)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def same_size(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are the same; where a program for every size is made, whether they are so always."""
    if not torch.compiler.is_compiling():
        return one == other
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(one[0] == other[0]) and statically_known_true(one[1] == other[1])
