"""When an upsampling is left to the operations that use its result, and what they must be given for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from afa_kernels import backends, dtypes
from afa_kernels.nn import plain
from afa_kernels.ops._upsampling import FACTORS


def weight_where_used(up: Any, x: Tensor) -> Tensor | None:
    """The weight of `up`, a layer to upsample `x`, for `upsampled_fusion`; None where the layer must be called.

    It must be where it is anything but exactly a depthwise transposed convolution by 2, 4 or 8 without a bias, and
    where no kernel runs the operations: plain PyTorch would make the map twice.
    """
    if not plain.is_plain(x) or plain.why_called(up, nn.ConvTranspose2d) is not None or x.dim() != 4:
        return None
    factor = up.stride[0]
    if factor not in FACTORS or up.groups != x.shape[1] or up.bias is not None or up.output_padding != (0, 0):
        return None
    geometry = up.weight.shape[1:], up.stride, up.padding, up.dilation
    if geometry != ((1, 2 * factor, 2 * factor), (factor, factor), (factor // 2, factor // 2), (1, 1)):
        return None
    if up.weight.shape[0] != x.shape[1] or up.weight.device != x.device:
        return None
    every = ("upsampled_fusion", "upsampled_pool")
    return up.weight if all(backends.has_kernel(op, x.device.type) for op in every) else None


def upsampled_shape(x: Tensor, weight: Tensor) -> torch.Size:
    """The shape of what `weight` upsamples `x` to."""
    factor = weight.shape[-1] // 2
    return torch.Size((*x.shape[:2], factor * x.shape[2], factor * x.shape[3]))


def in_type_of_autocast(x: Tensor) -> Tensor:
    """`x` in the type in which the convolution would compute."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if dtypes.autocast(device) and x.dtype != torch.float64 else x
