"""The softmax over channels that are seen one after the other."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_exp(total, best, score):
    """Return the sum over the channels so far of exp(score - the largest), with one exponential for each.

    `total` is that sum before this score, about `best`. Equal infinities differ by nothing.
    """
    smaller = tl.where(score == best, 1.0, tl.exp(-tl.abs(score - best)))
    return tl.where(score > best, total * smaller + 1.0, total + smaller)
