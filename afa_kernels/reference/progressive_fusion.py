"""out = sum_i w_i F_i with w_i = a_i b_i prod_{j>i} (1-a_j) (1-b_j): a later input occludes the earlier ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def progressive_fusion(
    features: Sequence[Tensor], spatial_logits: Sequence[Tensor], channel_logits: Sequence[Tensor]
) -> Tensor:
    dtype = features[0].dtype
    for feature in features:
        dtype = torch.promote_types(dtype, feature.dtype)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    out: Tensor | None = None
    for feature, s, q in zip(features, spatial_logits, channel_logits, strict=True):
        x, s, q = (t.to(arithmetic) for t in (feature, s, q))
        seen = s.sigmoid() * q.sigmoid() * x
        out = seen if out is None else seen + (-s).sigmoid() * (-q).sigmoid() * out
    assert out is not None
    return out.to(dtype)
