"""Cases of resized_fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from afa_kernels.testing import DTYPES, Case
from cases._values import (
    FLOAT32,
    HALVES,
    MANY,
    MANY_MAPS,
    MANY_ROWS,
    MIXED,
    NAN,
    NON_FINITE,
    SATURATED,
    SCALES,
    SIXTEEN,
    SIXTEEN_LARGE,
)

OUT = (7, 23)  # of no level, and no multiple of any


def call(
    covers: str,
    sizes: Sequence[tuple[int, int]],
    size: tuple[int, int] = SCALES[-1],
    batch: int = 2,
    channels: int = 3,
    **details: Any,
) -> Case:
    shapes = (
        [(batch, channels, *each) for each in sizes],
        [(batch, 1, *size)] * len(sizes),
        [(batch, channels, 1, 1)] * len(sizes),
    )
    return Case("resized_fusion", covers, shapes, **{"dtypes": FLOAT32, **details})


CASES: tuple[Case, ...] = (
    call("two levels, NCHW", ((2, 3), (4, 7)), (4, 7), batch=1, thorough=True),
    call("three levels, prime sizes, NCHW", SCALES, dtypes=DTYPES),
    call("three levels in channels_last", SCALES, dtypes=DTYPES, layouts=("channels_last",), thorough=True),
    call("dense, height and width exchanged", SCALES, layouts=("permuted",), thorough=True),
    call("few values in NCHW", ((1, 2), (2, 3)), (2, 3), batch=1, channels=2, dtypes=DTYPES),
    call("few values in channels_last", ((1, 2), (2, 3)), (2, 3), batch=1, dtypes=DTYPES, layouts=("channels_last",)),
    call("every level smaller than the output", SCALES, OUT, dtypes=DTYPES),
    call("every level smaller, in channels_last", SCALES, OUT, layouts=("channels_last",)),
    call("by whole factors", ((2, 5), (4, 10), (8, 20)), (8, 20)),
    call("every level larger than the output", SCALES, (2, 4)),
    call("every level of the output's size", SCALES[-1:] * 3, dtypes=DTYPES),
    call("every level of the output's size in channels_last", SCALES[-1:] * 2, layouts=("channels_last",)),
    call("wider but lower than the output", ((2, 40), (9, 3)), (5, 11)),
    call("one pixel everywhere", ((1, 1),) * 2, (1, 1)),
    call("one pixel enlarged", ((1, 1), (5, 6)), (5, 6)),
    call("one pixel enlarged in channels_last", ((1, 1), (5, 6)), (5, 6), layouts=("channels_last",)),
    call("one row and one column", ((1, 9), (4, 1)), (3, 8)),
    call("one level", ((3, 7),), (5, 8), dtypes=DTYPES),
    call("sixteen levels", SIXTEEN, (3, 7), batch=1),
    call("rows of several blocks", ((1, 150), (3, 521)), (3, 521), channels=2, batch=1),
    call("several blocks in channels_last", ((1, 150), (3, 521)), (3, 521), layouts=("channels_last",)),
    call("many rows", ((37, 3), (140, 4)), (140, 4), channels=2, batch=1),
    call("many channels in NCHW", SCALES, channels=37, batch=1),
    call("many channels in channels_last", SCALES, channels=37, batch=1, layouts=("channels_last",)),
    call("more channels than a tile of logits", ((1, 1), (1, 2)), (1, 2), channels=2053, batch=1),
    call("one channel, where both memory formats coincide", SCALES, channels=1, layouts=("channels_last",)),
    call("empty batch", SCALES, batch=0, dtypes=DTYPES),
    call("no channels", SCALES, channels=0),
    call("mixed element types", SCALES, dtypes=(MIXED, MIXED[::-1], (torch.float16, *HALVES))),
    call("slices along every axis", SCALES, layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    call("slices along the channels", SCALES, layouts=("sliced_channels",)),
    call("slices of channels_last", SCALES, layouts=("sliced_channels_last",)),
    call("one image expanded over the batch", SCALES, layouts=("expanded",)),
    call("NCHW beside channels_last", SCALES[1:], layouts=("contiguous", "channels_last")),
    call("a layout of its own for each", SCALES, layouts=("sliced", "permuted", "every_second", "sliced_channels")),
    call("saturated logits", SCALES, planted={k: SATURATED for k in range(3, 9)}, dtypes=DTYPES),
    call("NaN in a feature and in the logits", SCALES, planted={1: NAN, 4: NAN, 7: NAN}),
    call("NaN and infinity at equal sizes", SCALES[-1:] * 2, planted={0: NON_FINITE, 1: NON_FINITE[::-1]}),
)

# Sizes of real networks.
LEVELS = ((32, 64), (64, 128), (128, 256), (256, 512))
LARGE_CASES: tuple[Case, ...] = (
    *(
        call(
            f"sizes divide by 16, {layout}",
            LEVELS,
            LEVELS[-1],
            channels=64,
            dtypes=DTYPES,
            layouts=(layout,),
            thorough=True,
        )
        for layout in ("contiguous", "channels_last")
    ),
    *(
        call(
            f"odd sizes, {layout}",
            ((33, 64), (65, 127), (129, 253)),
            (129, 253),
            channels=67,
            dtypes=DTYPES,
            layouts=(layout,),
        )
        for layout in ("contiguous", "channels_last")
    ),
    call("sixteen levels", SIXTEEN_LARGE, SIXTEEN_LARGE[-1], channels=32, batch=1),
)

MANY_IMAGES = Case("resized_fusion", "many images", ([MANY_MAPS] * 2, [MANY_ROWS] * 2, [(MANY, 2, 1, 1)] * 2))
