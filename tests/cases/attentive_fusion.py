"""Cases of attentive_fusion."""

from __future__ import annotations

from typing import Any

import torch

from afa_kernels.testing import Case, Shape
from cases._values import FLOAT32, LARGE, MANY, MANY_MAPS, MANY_ROWS, MIXED, NON_FINITE, ODD, SATURATED


def call(covers: str, shape: Shape, **details: Any) -> Case:
    batch, channels, height, width = shape
    shapes = (shape, shape, (batch, 1, height, width), (batch, channels, 1, 1))
    return Case("attentive_fusion", covers, shapes, **details)


CASES: tuple[Case, ...] = (
    call("NCHW, prime sizes, two blocks along every axis", ODD, thorough=True),
    call("channels_last, prime sizes", ODD, layouts=("channels_last",), thorough=True),
    call("dense, height and width exchanged", ODD, layouts=("permuted",), thorough=True),
    call("few values in NCHW", (2, 3, 2, 3)),
    call("few values in channels_last", (2, 3, 2, 3), layouts=("channels_last",)),
    call("sizes a multiple of every block", (1, 16, 16, 64), dtypes=FLOAT32),
    call("many pixel blocks, summed in several steps", (1, 3, 89, 97), dtypes=FLOAT32),
    call("many channels in channels_last", (1, 131, 5, 7), layouts=("channels_last",), dtypes=FLOAT32),
    call("many channels in NCHW", (1, 131, 5, 7), dtypes=FLOAT32),
    call("one element", (1, 1, 1, 1)),
    call("one channel, where both memory formats coincide", (2, 1, 5, 7), layouts=("channels_last",)),
    call("one pixel", (3, 5, 1, 1), dtypes=FLOAT32),
    call("one row", (2, 3, 1, 11), dtypes=FLOAT32),
    call("one column", (2, 3, 11, 1), layouts=("channels_last",), dtypes=FLOAT32),
    call("empty batch", (0, 3, 4, 5)),
    call("no channels", (2, 0, 4, 5), dtypes=FLOAT32),
    call("no pixels", (2, 3, 0, 5), dtypes=FLOAT32),
    call("mixed element types", ODD, dtypes=(MIXED, MIXED[::-1], (torch.bfloat16, torch.bfloat16, torch.float32))),
    call("dense, the batch inside the channels", ODD, layouts=("batch_inside",), dtypes=FLOAT32),
    call("slices along every axis", ODD, layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    call("slices along the channels", ODD, layouts=("sliced_channels",), dtypes=FLOAT32),
    call("slices of channels_last", ODD, layouts=("sliced_channels_last",), dtypes=(torch.float32, torch.float16)),
    call("every second pixel", ODD, layouts=("every_second",), dtypes=FLOAT32),
    call("one image expanded over the batch", ODD, layouts=("expanded",), dtypes=FLOAT32),
    call("NCHW beside channels_last", ODD, layouts=("contiguous", "channels_last"), dtypes=FLOAT32),
    call("channels_last beside NCHW", ODD, layouts=("channels_last", "contiguous"), dtypes=FLOAT32),
    call("a layout of its own for each", ODD, layouts=("sliced", "permuted", "every_second", "sliced_channels")),
    call("saturated logits", ODD, planted={2: SATURATED, 3: SATURATED}),
    call("NaN and infinity in the features", ODD, planted={0: NON_FINITE, 1: NON_FINITE[::-1]}),
    call("NaN and infinity in the logits", ODD, planted={2: NON_FINITE, 3: NON_FINITE}),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    *(
        call(f"{name}, {layout}", shape, layouts=(layout,), thorough=name == "sizes divide by 16")
        for name, shape in LARGE
        for layout in ("contiguous", "channels_last")
    ),
)

MANY_IMAGES = Case("attentive_fusion", "many images", (MANY_MAPS, MANY_MAPS, MANY_ROWS, (MANY, 2, 1, 1)))
