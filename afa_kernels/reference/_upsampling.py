"""A depthwise transposed convolution: every channel upsampled for itself."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels.reference.bn_relu_project import autocasts


def upsampled(deep: Tensor, weight: Tensor) -> Tensor:
    """Of a weight (C, 1, 2 f, 2 f): strides of f and a padding of f/2, f times as high and as wide.

    In the type of both, also under autocast, which would convolve in another.
    """
    batch, channels, height, width = deep.shape
    factor = weight.shape[-1] // 2
    if deep.numel() == 0:  # of which PyTorch convolves none
        nothing = deep.sum() * weight.sum()
        return nothing.expand(batch, channels, factor * height, factor * width)
    device = deep.device.type
    with torch.autocast(device, enabled=False) if autocasts(device) else contextlib.nullcontext():
        return F.conv_transpose2d(deep, weight, stride=factor, padding=factor // 2, groups=channels)
