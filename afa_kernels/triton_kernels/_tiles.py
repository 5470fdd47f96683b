"""How much of a tensor one program takes: small heuristics in place of autotuning.

None depends on the number of images, so that neither do the values of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afa_kernels import layout

PROGRAMS = 1024  # that keep the memory of a large GPU busy: about eight for each multiprocessor
TOGETHER = 4  # blocks of pixels that a program which only sums reads before it waits for them


def cdiv(a: int, b: int) -> int:
    """Return a / b rounded up, as triton.cdiv does in ten times as long."""
    return -(-a // b)


def power_of_2(n: int) -> int:
    """Return the smallest one that is at least n."""
    return 1 << (n - 1).bit_length()


def channels_last(x: Tensor) -> bool:
    return layout.memory_format(x) == torch.channels_last


def of_map(channels: int, channels_last: bool, itemsize: int) -> dict[str, int]:
    """Return BLOCK_C, BLOCK_P and the warps: two loads of 16 bytes a thread and map.

    The longer side lies along the axis that is contiguous in memory. The other is long enough that what a tile reads
    besides, a value a pixel and one a channel, is little. In float16 the fastest of those tried on an H200.
    """
    widest = 64 if itemsize == 8 else 128
    block_c = min(max(power_of_2(channels), 16), widest) if channels_last else widest // 8
    return {"BLOCK_C": block_c, "BLOCK_P": 4096 // itemsize // block_c, "num_warps": 4}


def of_reduction(channels: int, channels_last: bool, itemsize: int) -> dict[str, int]:
    """Return the tile of a program that only sums: in channels_last of two warps, the fastest tried on an H200."""
    if channels_last:
        tile = of_map(channels, channels_last, itemsize)
        return {**tile, "BLOCK_P": tile["BLOCK_P"] // 2, "num_warps": 2}
    return {"BLOCK_C": 8 if itemsize == 8 else 16, "BLOCK_P": 64, "num_warps": 4}


def of_sums(channels: int, pixels: int, channels_last: bool, itemsize: int, widest: int = 256) -> dict[str, int]:
    """Return the tile of programs that sum over the channels, so that in NCHW one goes through all of them.

    There the tiles of a coarse map are narrow, that its programs be two or more for each multiprocessor; and those of
    a fine one `widest`, where every block of pixels leaves a row of partial sums. In channels_last a tile has all
    channels, if they are not too many, and few elements a thread, for the sums take registers.
    """
    if channels_last:
        most = 64 if itemsize == 8 else 256
        block_c = max(power_of_2(channels), 16) if channels <= most else min(most, 128)
        return {"BLOCK_C": block_c, "BLOCK_P": (256 if itemsize == 8 else 1024) // block_c, "num_warps": 4}
    block_p = next((block for block in (widest, 64) if cdiv(pixels, block) >= PROGRAMS // 4), 32)
    warps = 8 if block_p == 32 else 4
    return {"BLOCK_C": (128 if itemsize == 8 else 256) * warps // block_p, "BLOCK_P": block_p, "num_warps": warps}


def steps(blocks: int, of: int, least: int, together: int = 1) -> int:
    """Return how many of its `blocks` of pixels one program takes, for about PROGRAMS programs of `of` tiles in all.

    At least `least`, so that the row of partial sums that each program leaves is little beside what it has read; and a
    multiple of how many it reads `together`.
    """
    return cdiv(min(max(cdiv(of, PROGRAMS), least), blocks), together) * together


def of_maps(tile: dict[str, int], inputs: int, channels_last: bool, aligned: bool = True) -> dict[str, int]:
    """Return the tile of one map, or a smaller one that spills less.

    Of many inputs, for a thread holds up to three values of each for every element; and in the backward pass of
    channels_last where addresses are not `aligned`.
    """
    if inputs <= 4:
        return tile if aligned or not channels_last else {**tile, "BLOCK_P": tile["BLOCK_P"] // 2}
    elements = 32 * tile["num_warps"] * (2 if inputs <= 8 else 1)
    if channels_last:
        return {**tile, "BLOCK_C": 16, "BLOCK_P": elements // 16}
    block_p = min(tile["BLOCK_P"], 64)
    return {**tile, "BLOCK_C": elements // block_p, "BLOCK_P": block_p}


def of_upsampling(channels: int, channels_last: bool, itemsize: int) -> dict[str, int]:
    """Return the tile of a coarse map of which each pixel has several of the fine one, and weights of its own.

    In NCHW of one channel: the pixels of a fine map that threads read side by side are not neighbours, and Triton 3.6
    would lay its threads along the channels. Of those tried on an H200 the fastest.
    """
    block_c = min(max(power_of_2(channels), 8), 32) if channels_last else 1
    elements = (512 if channels_last else 256) // (2 if itemsize == 8 else 1)
    return {"BLOCK_C": block_c, "BLOCK_P": elements // block_c, "num_warps": 4}


def of_upsampled_sums(channels: int, channels_last: bool, itemsize: int) -> dict[str, int]:
    """Return the tile of a coarse map of which a program keeps sums in registers, of every weight or of what it pools.

    The sums over its pixels are parts of as many weights, and those over its channels of as many fine pixels. Four
    values a thread in channels_last, which have a pixel in common; in NCHW one, of the four channels that Triton 3.6
    lays its threads along. In float64 one. Of those tried on an H200 the fastest, though it spills a little.
    """
    if channels_last:
        block_c = min(max(power_of_2(channels), 8), 32)
        return {"BLOCK_C": block_c, "BLOCK_P": (64 if itemsize == 8 else 256) // block_c, "num_warps": 2}
    return {"BLOCK_C": 4, "BLOCK_P": 32, "num_warps": 4}


def of_row(width: int, scales: int, itemsize: int, pixels: int = 2) -> dict[str, int]:
    """Return BLOCK_P and the warps: two, with two pixels a thread or one, the fastest tried on an H200.

    One pixel of many scales or of float64, so that all is kept in registers. `itemsize` is of the predictions' type.
    """
    if scales > 8 or itemsize == 8:
        pixels = 1
    return {"BLOCK_P": min(power_of_2(width), 64 * pixels), "num_warps": 2}


def channels_of_row(channels: int, rows: int) -> int:
    """Return how many of its channels one program makes of a row, for about four times PROGRAMS programs of two warps.

    At least 8, which share the pixels' weights and neighbours.
    """
    return min(channels, max(8, cdiv(channels * rows, 4 * PROGRAMS)))


def channels_together(scales: int) -> dict[str, int]:
    """Return how many channels of so many scales are read before any is used, as registers allow."""
    return {"TOGETHER": 4 if scales <= 3 else 2 if scales <= 6 else 1}


def of_copy(channels: int) -> dict[str, int]:
    """Return the tile of a copy between NCHW and channels_last: in each of them as many values as a line of memory."""
    block_c = min(power_of_2(channels), 32)
    return {"BLOCK_C": block_c, "BLOCK_P": 2048 // block_c, "num_warps": 4}


def of_gather_down(channels: int) -> dict[str, int]:
    """Return the tile of a gather's first pass: a thread has four pixels of up to four channels, which share weights.

    Four, for channels that are no power of two: of 19 a fifth block has the last three.
    """
    return {"BLOCK_C": min(power_of_2(channels), 4), "BLOCK_P": 128, "num_warps": 1}


def of_gather_along(channels: int) -> dict[str, int]:
    """Return the tile of its second pass: a thread has up to four channels of two pixels, which share their indices."""
    return {"BLOCK_C": min(power_of_2(channels), 4), "BLOCK_P": 64, "num_warps": 1}


def of_pixels(itemsize: int) -> dict[str, int]:
    """Return BLOCK_P and the number of warps: 16 bytes or more of each scale a thread, in types of `itemsize` bytes."""
    return {"BLOCK_P": 1024 // itemsize, "num_warps": 2}
