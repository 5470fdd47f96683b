"""The mean and the maximum over the pixels; the maximum's gradient goes to the first pixel that has it."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad


def global_avg_max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.numel() == 0:
        empty = x.sum((2, 3), keepdim=True)
        return empty, empty.clone()
    y = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    mean = F.adaptive_avg_pool2d(y, 1)
    # The pooling finds the first pixel, and takes up to four times as long for it.
    largest = F.adaptive_max_pool2d(y, 1) if _differentiable() else y.amax((2, 3), keepdim=True)
    return mean.to(x.dtype), largest.to(x.dtype)


def _differentiable() -> bool:
    """Whether a derivative may be asked for, of this call or of a program that is made of it."""
    of_a_call = torch.is_grad_enabled() or forward_ad._current_level >= 0
    return of_a_call or torch.jit.is_tracing() or torch.compiler.is_exporting()
