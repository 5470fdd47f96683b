"""The gates of the fusions."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gate(logits, mask, arithmetic: tl.constexpr):
    """Return sigmoid(z) and 1 - sigmoid(z) = sigmoid(-z), accurate where sigmoid(z) rounds to 1."""
    z = tl.load(logits, mask=mask, other=0.0).to(arithmetic)
    return 1.0 / (1.0 + tl.exp(-z)), 1.0 / (1.0 + tl.exp(z))
