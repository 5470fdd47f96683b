"""Ways a tensor of four axes can lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def _inside(x: Tensor, margins: Sequence[int], memory_format: torch.memory_format) -> Tensor:
    """Return `x` as a slice of a larger tensor of NaN, `margins` wider at both ends of each axis."""
    shape = [size + 2 * margin for size, margin in zip(x.shape, margins, strict=True)]
    large = torch.full(shape, torch.nan, dtype=x.dtype, device=x.device).contiguous(memory_format=memory_format)
    view = large[tuple(slice(margin, margin + size) for size, margin in zip(x.shape, margins, strict=True))]
    return view.copy_(x)


def _every_second(x: Tensor) -> Tensor:
    large = torch.full((*x.shape[:3], 2 * x.shape[3]), torch.nan, dtype=x.dtype, device=x.device)
    return large[..., 1::2].copy_(x)


# Each gives a tensor laid out as its name says. The values stay, but for "expanded", which repeats the first image.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),  # dense, in neither memory format
    "batch_inside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),  # dense, the batch inside the channels
    "sliced": lambda x: _inside(x, (1, 1, 1, 1), torch.contiguous_format),
    "sliced_channels": lambda x: _inside(x, (0, 1, 0, 0), torch.contiguous_format),
    "sliced_channels_last": lambda x: _inside(x, (1, 1, 0, 0), torch.channels_last),
    "every_second": _every_second,
    "expanded": lambda x: x[:1].expand(x.shape),
}
