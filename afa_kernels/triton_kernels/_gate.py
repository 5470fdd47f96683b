"""The gates of the fusions."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gate(logits, mask, arithmetic: tl.constexpr):
    """Load logits and return their `gates`."""
    return gates(tl.load(logits, mask=mask, other=0.0), arithmetic)


@triton.jit
def gates(z, arithmetic: tl.constexpr):
    """Return sigmoid(z) and 1 - sigmoid(z) = sigmoid(-z), accurate where sigmoid(z) rounds to 1."""
    z = z.to(arithmetic)
    e = tl.exp(-tl.abs(z))
    larger = 1.0 / (1.0 + e)
    smaller = e * larger
    return tl.where(z < 0.0, smaller, larger), tl.where(z < 0.0, larger, smaller)
