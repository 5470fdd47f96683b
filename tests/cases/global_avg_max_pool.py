"""Cases of global_avg_max_pool."""

from __future__ import annotations

from typing import Any

import torch

from afa_kernels.testing import Case, Shape
from cases._values import FLOAT32, LARGE, MANY_MAPS, NON_FINITE, ODD


def call(covers: str, shape: Shape, **details: Any) -> Case:
    return Case("global_avg_max_pool", covers, (shape,), **details)


CASES: tuple[Case, ...] = (
    call("NCHW, prime sizes", (2, 3, 5, 7), thorough=True),
    call("channels_last, prime sizes", (2, 3, 5, 7), layouts=("channels_last",), thorough=True),
    call("dense, height and width exchanged", (2, 3, 5, 7), layouts=("permuted",), thorough=True),
    call("few values in NCHW", (2, 3, 2, 3)),
    call("few values in channels_last", (2, 3, 2, 3), layouts=("channels_last",)),
    call("many pixels in several tiles", (1, 2, 89, 97)),
    call("many pixels in several tiles of channels_last", (1, 3, 89, 97), layouts=("channels_last",)),
    call("many channels in NCHW", (1, 131, 5, 7), dtypes=FLOAT32),
    call("many channels in channels_last", (1, 131, 5, 7), layouts=("channels_last",), dtypes=FLOAT32),
    call("one element", (1, 1, 1, 1)),
    call("one channel, where both memory formats coincide", (2, 1, 5, 7), layouts=("channels_last",)),
    call("one pixel", (3, 5, 1, 1), dtypes=FLOAT32),
    call("one column in channels_last", (2, 3, 11, 1), layouts=("channels_last",), dtypes=FLOAT32),
    call("empty batch", (0, 3, 4, 5)),
    call("no channels", (2, 0, 4, 5), dtypes=FLOAT32),
    call("slices along every axis", ODD, layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    call("slices of channels_last", ODD, layouts=("sliced_channels_last",), dtypes=FLOAT32),
    call("every second pixel", ODD, layouts=("every_second",), dtypes=FLOAT32),
    call("one image expanded over the batch", ODD, layouts=("expanded",), dtypes=FLOAT32),
    call("ties", (2, 3, 5, 7), planted={0: 2 * 35 * (3.0, 3.0, -1.0)}),
    call("ties in channels_last", (2, 3, 5, 7), layouts=("channels_last",), planted={0: 2 * 35 * (3.0, 3.0, -1.0)}),
    call("NaN and infinity", (1, 3, 5, 7), planted={0: NON_FINITE}),
    call("NaN and infinity in channels_last", (1, 3, 5, 7), layouts=("channels_last",), planted={0: NON_FINITE}),
    call("nothing but minus infinity", (1, 1, 5, 7), planted={0: 35 * (-float("inf"),)}),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    *(
        call(f"{name}, {layout}", shape, layouts=(layout,), thorough=name == "sizes divide by 16")
        for name, shape in LARGE
        for layout in ("contiguous", "channels_last")
    ),
)

MANY_IMAGES = Case("global_avg_max_pool", "many images", (MANY_MAPS,))
