"""global_avg_max_pool of a map that is upsampled first, in the arithmetic's type."""

import torch
from torch import Tensor

from afa_kernels.reference._upsampling import upsampled
from afa_kernels.reference.global_avg_max_pool import global_avg_max_pool


def upsampled_pool(deep: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    arithmetic = torch.float64 if deep.dtype == torch.float64 else torch.float32
    avg, max = global_avg_max_pool(upsampled(deep.to(arithmetic), weight.to(arithmetic)))
    return avg.to(deep.dtype), max.to(deep.dtype)
