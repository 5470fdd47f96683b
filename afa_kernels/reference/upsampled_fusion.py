"""attentive_fusion of a deep map that is upsampled first, in the arithmetic's type."""

import torch
from torch import Tensor

from afa_kernels.reference._upsampling import upsampled
from afa_kernels.reference.attentive_fusion import attentive_fusion


def upsampled_fusion(
    shallow: Tensor, deep: Tensor, weight: Tensor, spatial_logits: Tensor, channel_logits: Tensor
) -> Tensor:
    dtype = torch.promote_types(shallow.dtype, deep.dtype)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    up = upsampled(deep.to(arithmetic), weight.to(arithmetic))
    return attentive_fusion(shallow.to(arithmetic), up, spatial_logits, channel_logits).to(dtype)
