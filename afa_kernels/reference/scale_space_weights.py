"""T_i = exp(-sum_{j<i} d_j) and w_i = (1 - exp(-d_i)) T_i, with the optical depth d_i = phi(y_i)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scale_space_weights(
    logits: Tensor, phi: str = "abs", background: str = "none", dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    arithmetic = torch.float64 if logits.dtype == torch.float64 else torch.float32
    depth = optical_depth(logits.to(arithmetic), phi)
    if background == "last":
        depth = depth.masked_fill(last_of(logits), torch.inf)
    transmittance = torch.exp(-F.pad(depth.cumsum(1), (0, 0, 0, 0, 1, 0)))  # T_1 .. T_{K+1}
    weights = -torch.expm1(-depth) * transmittance[:, :-1]
    dtype = dtype or logits.dtype
    return weights.to(dtype), transmittance[:, -1:].to(dtype)


def optical_depth(y: Tensor, phi: str) -> Tensor:
    if phi == "abs":
        return y.abs()
    if phi == "relu":
        return y.relu()
    if phi == "softplus":
        return -F.logsigmoid(-y)  # F.softplus is off by 2e-9 at its threshold of 20
    return y.clamp(max=80).exp()  # stays finite, and far above that the scale is opaque anyway


def last_of(logits: Tensor) -> Tensor:
    """A mask of the last scale, to broadcast over (N, K, H, W)."""
    mask = torch.zeros(1, logits.shape[1], 1, 1, dtype=torch.bool, device=logits.device)
    mask[:, -1] = True
    return mask
