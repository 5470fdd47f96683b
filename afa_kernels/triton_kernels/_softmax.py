"""The softmax over channels that are seen a block at a time."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_exp(total, best, score, largest, counted):
    """Return the sum over the channels so far of exp(score - the larger of `best` and `largest`).

    `total` is that sum before the block `score`, [BLOCK_C, BLOCK_P], about `best`; `largest` is the block's largest.
    Equal infinities differ by nothing.
    """
    both = tl.maximum(best, largest)
    exponential = tl.where(score == both, 1.0, tl.exp(score - both))
    before = tl.where(best == both, total, total * tl.exp(best - both))
    return before + tl.sum(tl.where(counted, exponential, 0.0), axis=0)[None, :]
