"""Where the values of a tile of maps (N, C, H, W) lie."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl  # noqa: F401  # which the interpreter asks for
from torch import Tensor

from afa_kernels import layout


@triton.jit
def offsets(strides, n, c, p):
    """Return those of the channels c and the pixels p of image n, [BLOCK_C, BLOCK_P]; all three have 64 bits."""
    map_n, map_c, map_p = strides
    return n * map_n + c[:, None] * map_c + p[None, :] * map_p


def strides_of(maps: Sequence[Tensor | None]) -> tuple[tuple[int, int, int], ...]:
    """Return those of image, channel and pixel of every map; zeros where there is none."""
    return tuple((0, 0, 0) if x is None else layout.strides(x) for x in maps)
