"""out = a (1-b) x + (1-a) b y, with a = sigmoid(spatial logits) and b = sigmoid(channel logits)."""

import torch
from torch import Tensor


def attentive_fusion(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> Tensor:
    dtype = torch.promote_types(shallow.dtype, deep.dtype)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    x, y, s, q = (t.to(arithmetic) for t in (shallow, deep, spatial_logits, channel_logits))
    out = s.sigmoid() * (-q).sigmoid() * x + (-s).sigmoid() * q.sigmoid() * y
    return out.to(dtype)
