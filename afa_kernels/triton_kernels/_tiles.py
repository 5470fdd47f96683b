"""How much of a tensor one program takes: small heuristics in place of autotuning."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from afa_kernels import layout


def channels_last(x: Tensor) -> bool:
    return layout.memory_format(x) == torch.channels_last


def of_map(channels: int, channels_last: bool, itemsize: int) -> dict[str, int]:
    """Return BLOCK_C, BLOCK_P and the warps: 16 bytes or more a thread, and as few registers as spill nothing.

    The longer side lies along the axis that is contiguous in memory. In channels_last every block of pixels leaves a
    row of partial sums, so that blocks are larger there.
    """
    if channels_last:
        block_c = min(max(triton.next_power_of_2(channels), 16), 64 if itemsize == 8 else 128)
        return {"BLOCK_C": block_c, "BLOCK_P": (512 if itemsize == 8 else 2048) // block_c, "num_warps": 8}
    return {"BLOCK_C": 2 if itemsize == 8 else 4, "BLOCK_P": 256, "num_warps": 4}


def of_maps(inputs: int, channels: int, channels_last: bool, itemsize: int, aligned: bool = True) -> dict[str, int]:
    """Return the tile of one map, or a smaller one that spills less.

    Of many inputs, for a thread holds up to three values of each for every element; and in the backward pass of
    channels_last where addresses are not `aligned`.
    """
    tile = of_map(channels, channels_last, itemsize)
    if inputs <= 4:
        return tile if aligned or not channels_last else {**tile, "BLOCK_P": tile["BLOCK_P"] // 2}
    elements = 32 * tile["num_warps"] * (2 if inputs <= 8 else 1)
    if channels_last:
        return {**tile, "BLOCK_C": 16, "BLOCK_P": elements // 16}
    return {**tile, "BLOCK_C": elements // 64, "BLOCK_P": 64}


def of_row(channels: int, width: int, scales: int, channels_last: bool, itemsize: int) -> dict[str, int]:
    """Return BLOCK_C and BLOCK_P: at most 256 elements, or 128 of many scales or of float64, all kept in registers.

    The longer side lies along the axis that is contiguous in memory. `itemsize` is that of the predictions' type.
    """
    most = 256 if scales <= 4 and itemsize < 8 else 128
    whole_c, whole_p = triton.next_power_of_2(channels), triton.next_power_of_2(width)
    if channels_last:
        block_c = min(whole_c, 64)
        return {"BLOCK_C": block_c, "BLOCK_P": min(whole_p, most // block_c)}
    block_p = min(whole_p, most)
    return {"BLOCK_C": min(whole_c, most // block_p), "BLOCK_P": block_p}


def of_pixels(itemsize: int) -> dict[str, int]:
    """Return BLOCK_P and the number of warps: 16 bytes or more of each scale a thread, in types of `itemsize` bytes."""
    return {"BLOCK_P": 1024 // itemsize, "num_warps": 2}
