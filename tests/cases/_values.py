"""Sizes, element types and planted values that the cases of several operations have."""

from __future__ import annotations

import torch

ODD = (2, 13, 17, 19)
SCALES = ((2, 5), (3, 9), (4, 13))  # heights and widths, coarse to fine
SIXTEEN = tuple((1 + k % 3, 3 + k % 7) for k in range(16))
SIXTEEN_LARGE = tuple((16 * k, 32 * k) for k in range(1, 17))
# Of the large cases, by the start of their name: a feature map whose sizes 16 divides, and one whose sizes it does not.
LARGE = (("sizes divide by 16", (2, 64, 256, 512)), ("odd sizes", (2, 67, 129, 253)))

FLOAT32 = (torch.float32,)
HALVES = (torch.bfloat16, torch.float16)
MIXED = (torch.bfloat16, torch.float16, torch.float64, torch.float32)

SATURATED = (1e4, -1e4, 0.0, 20.0, -20.0)
NAN = (float("nan"),)
NON_FINITE = (float("nan"), float("inf"), -float("inf"), 0.0)

MANY = 70000  # images, more than an axis of a grid but the first can have
MANY_MAPS, MANY_ROWS = (MANY, 2, 2, 2), (MANY, 1, 2, 2)
