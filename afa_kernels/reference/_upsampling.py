"""A depthwise transposed convolution: every channel upsampled for itself."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def upsampled(deep: Tensor, weight: Tensor) -> Tensor:
    """Of a weight (C, 1, 2 f, 2 f): strides of f and a padding of f/2, f times as high and as wide."""
    batch, channels, height, width = deep.shape
    factor = weight.shape[-1] // 2
    if deep.numel() == 0:  # of which PyTorch convolves none
        nothing = deep.sum() * weight.sum()
        return nothing.expand(batch, channels, factor * height, factor * width)
    return F.conv_transpose2d(deep, weight, stride=factor, padding=factor // 2, groups=channels)
