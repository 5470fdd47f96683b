"""T_i = exp(-sum_{j<i} d_j) and w_i = (1 - exp(-d_i)) T_i, with the optical depth d_i = phi(y_i)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scale_space_weights(
    logits: Tensor, phi: str = "abs", background: str = "none", dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    arithmetic = torch.float64 if logits.dtype == torch.float64 else torch.float32
    weights, left = weights_of_scales(logits.to(arithmetic), phi, background)
    dtype = dtype or logits.dtype
    return torch.cat(weights, dim=1).to(dtype), left.to(dtype)


def weights_of_scales(logits: Tensor, phi: str, background: str) -> tuple[list[Tensor], Tensor]:
    """w_1 .. w_K, a map each, and T_{K+1}; in eager PyTorch one by one is the fastest way, and the smallest."""
    depth = optical_depth(logits, phi)
    if background == "last":
        depth = depth.masked_fill(last_of(logits), torch.inf)
    front, *others = depth.split(1, dim=1)
    exponent = -front
    weights = [-torch.expm1(exponent)]
    for scale in others:
        transmittance, minus = exponent.exp(), -scale
        weights.append((torch.expm1(minus) * transmittance).neg_())  # so that only what backward needs is kept
        exponent = exponent + minus
    return weights, exponent.exp()


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
