"""Memory formats: what a result's is, and what a kernel may assume of its inputs.

To a kernel a (N, C, H, W) tensor is a map with three strides, of the batch, the channel and the pixel. That covers NCHW
and channels_last tensors and slices of them along N or C. Any other stride pattern is copied into the format first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last where the channels of a pixel lie side by side, else contiguous (NCHW)."""
    if x.is_contiguous() or x.shape[1] == 1 or x.stride(1) != 1:
        return torch.contiguous_format
    if x.shape[2] * x.shape[3] == 1 or strides(x)[2] == 1:  # its pixels lie side by side too
        return torch.contiguous_format
    return torch.channels_last


def empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A dense tensor of `shape` on the device and in the memory format of `like`, and in its type if in no other."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format(like))


def empty_parameter(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor with the shape and, if `x` is dense, the strides of `x`, as an optimiser and DDP want a gradient."""
    return torch.empty_like(x, dtype=dtype, memory_format=torch.preserve_format)


def as_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """`grad` in the shape, the type and the strides of the parameter `x`, itself where it has them."""
    if grad.shape != x.shape:
        grad = grad.view(x.shape)
    if grad.dtype == x.dtype and grad.stride() == x.stride():
        return grad
    return empty_parameter(x).copy_(grad)


def as_map(x: Tensor, format: torch.memory_format) -> Tensor:
    """`x` itself where three strides reach its elements in `format`, else a copy that allows it."""
    channels, height, width = x.shape[1:]
    pixels_at_one_stride = height == 1 or width == 1 or x.stride(2) == width * x.stride(3)
    if format == torch.channels_last:
        contiguous = channels == 1 or x.stride(1) == 1
    else:
        contiguous = height * width == 1 or x.stride(3 if width > 1 else 2) == 1
    return x if pixels_at_one_stride and contiguous else x.contiguous(memory_format=format)


def strides(x: Tensor) -> tuple[int, int, int]:
    """The strides of the batch, the channel and the pixel of a map."""
    of_image, of_channel, of_row, of_pixel = x.stride()
    return of_image, of_channel, of_pixel if x.shape[3] > 1 else of_row
