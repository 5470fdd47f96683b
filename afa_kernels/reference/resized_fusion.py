"""progressive_fusion of features that are resized first, in the arithmetic's type."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from afa_kernels.reference._resize import resized
from afa_kernels.reference.progressive_fusion import progressive_fusion


def resized_fusion(
    features: Sequence[Tensor], spatial_logits: Sequence[Tensor], channel_logits: Sequence[Tensor]
) -> Tensor:
    dtype = features[0].dtype
    for feature in features[1:]:
        dtype = torch.promote_types(dtype, feature.dtype)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    height, width = spatial_logits[0].shape[2:]
    up = [resized(feature.to(arithmetic), (height, width)) for feature in features]
    return progressive_fusion(up, spatial_logits, channel_logits).to(dtype)
