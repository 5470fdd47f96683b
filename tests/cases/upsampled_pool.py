"""Cases of upsampled_pool."""

from __future__ import annotations

from typing import Any

import torch

from afa_kernels.testing import Case, Shape
from cases._values import FLOAT32, LARGE, MANY, MIXED, NON_FINITE, ODD

# What comes before values that are planted where PyTorch's convolution multiplies them by no padding, of which it makes
# NaN in some types and not in others: the first row of a map (1, 3, 5, 7).
INSIDE = 8 * (1.0,)


def call(covers: str, shape: Shape, factor: int = 2, **details: Any) -> Case:
    return Case("upsampled_pool", covers, (shape, (shape[1], 1, 2 * factor, 2 * factor)), **details)


CASES: tuple[Case, ...] = (
    call("NCHW, prime sizes", (2, 3, 5, 7), thorough=True),
    call("channels_last, prime sizes", (2, 3, 5, 7), layouts=("channels_last",), thorough=True),
    call("dense, height and width exchanged", (2, 3, 5, 7), layouts=("permuted",), thorough=True),
    call("few values in NCHW", (2, 3, 2, 2)),
    call("few values in channels_last", (2, 3, 2, 2), layouts=("channels_last",)),
    call("one row, four times", (1, 2, 1, 2), 4, dtypes=FLOAT32),
    call("four times", (2, 5, 3, 5), 4, dtypes=FLOAT32),
    call("eight times", (1, 3, 3, 2), 8, dtypes=FLOAT32),
    call("many pixels in several tiles", (1, 2, 45, 49), dtypes=FLOAT32),
    call("many pixels in several tiles of channels_last", (1, 3, 45, 49), layouts=("channels_last",), dtypes=FLOAT32),
    call("many channels in NCHW", (1, 131, 3, 4), dtypes=FLOAT32),
    call("many channels in channels_last", (1, 131, 3, 4), layouts=("channels_last",), dtypes=FLOAT32),
    call("sixteen channels in channels_last", (1, 16, 16, 17), layouts=("channels_last",)),
    call("one pixel", (3, 5, 1, 1), dtypes=FLOAT32),
    call("one channel, where both memory formats coincide", (2, 1, 5, 7), layouts=("channels_last",)),
    call("one column in channels_last", (2, 3, 11, 1), layouts=("channels_last",), dtypes=FLOAT32),
    call("empty batch", (0, 3, 4, 5)),
    call("no channels", (2, 0, 4, 5), dtypes=FLOAT32),
    call("mixed element types", ODD, dtypes=(MIXED, MIXED[::-1])),
    call("slices along every axis", ODD, layouts=("sliced", "contiguous"), dtypes=(torch.float32, torch.bfloat16)),
    call("slices of channels_last", ODD, layouts=("sliced_channels_last", "contiguous"), dtypes=FLOAT32),
    call("every second pixel", ODD, layouts=("every_second", "contiguous"), dtypes=FLOAT32),
    call("one image expanded over the batch", ODD, layouts=("expanded", "contiguous"), dtypes=FLOAT32),
    call("NaN and infinity", (1, 3, 5, 7), planted={0: INSIDE + NON_FINITE}),
    call(
        "NaN and infinity in channels_last",
        (1, 3, 5, 7),
        layouts=("channels_last",),
        planted={0: INSIDE + NON_FINITE},
    ),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    *(
        call(f"{name}, {layout}", (n, c, h // 2, w // 2), layouts=(layout,), thorough=name == "sizes divide by 16")
        for name, (n, c, h, w) in LARGE
        for layout in ("contiguous", "channels_last")
    ),
    call("sizes divide by 16, four times", (2, 64, 64, 128), 4, dtypes=FLOAT32),
)

MANY_IMAGES = call("many images", (MANY, 2, 1, 1))
