"""Cases of progressive_fusion."""

from __future__ import annotations

from typing import Any

import torch

from afa_kernels.testing import Case, Shape
from cases._values import FLOAT32, HALVES, LARGE, MANY, MANY_MAPS, MANY_ROWS, MIXED, NAN, NON_FINITE, ODD, SATURATED


def call(covers: str, inputs: int, shape: Shape, **details: Any) -> Case:
    batch, channels, height, width = shape
    shapes = [[size] * inputs for size in (shape, (batch, 1, height, width), (batch, channels, 1, 1))]
    return Case("progressive_fusion", covers, tuple(shapes), **details)


CASES: tuple[Case, ...] = (
    call("two inputs in NCHW", 2, (2, 3, 5, 7), thorough=True),
    call("two inputs in channels_last", 2, (2, 3, 5, 7), layouts=("channels_last",), thorough=True),
    call("dense, height and width exchanged", 2, (2, 3, 5, 7), layouts=("permuted",), thorough=True),
    call("three inputs, prime sizes, two blocks along every axis", 3, ODD),
    call("three inputs in channels_last", 3, ODD, layouts=("channels_last",)),
    call("few values in NCHW", 3, (2, 3, 2, 3)),
    call("few values in channels_last", 2, (2, 3, 2, 3), layouts=("channels_last",)),
    call("one input", 1, (2, 3, 5, 7)),
    call("sixteen inputs", 16, (1, 2, 3, 5)),
    call("many pixel blocks, summed in several steps", 2, (1, 3, 89, 97), dtypes=FLOAT32),
    call("many channels in channels_last", 2, (1, 131, 5, 7), layouts=("channels_last",), dtypes=FLOAT32),
    call("more channels than a tile of logits", 2, (1, 2053, 1, 2), layouts=("channels_last",), dtypes=FLOAT32),
    call("one element", 2, (1, 1, 1, 1)),
    call("one channel, where both memory formats coincide", 2, (2, 1, 5, 7), layouts=("channels_last",)),
    call("one pixel", 3, (3, 5, 1, 1), dtypes=FLOAT32),
    call("one column", 2, (2, 3, 11, 1), layouts=("channels_last",), dtypes=FLOAT32),
    call("empty batch", 2, (0, 3, 4, 5)),
    call("no channels", 2, (2, 0, 4, 5), dtypes=FLOAT32),
    call("no pixels", 2, (2, 3, 0, 5), dtypes=FLOAT32),
    call("mixed element types", 2, ODD, dtypes=(MIXED, MIXED[::-1], (torch.float16, *HALVES))),
    call("slices along every axis", 2, ODD, layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    call("slices along the channels", 2, ODD, layouts=("sliced_channels",), dtypes=FLOAT32),
    call("slices of channels_last", 2, ODD, layouts=("sliced_channels_last",), dtypes=FLOAT32),
    call("one image expanded over the batch", 2, ODD, layouts=("expanded",), dtypes=FLOAT32),
    call("NCHW beside channels_last", 2, ODD, layouts=("contiguous", "channels_last"), dtypes=FLOAT32),
    call(
        "a layout of its own for each",
        3,
        ODD,
        layouts=("sliced", "permuted", "every_second", "sliced_channels"),
        dtypes=FLOAT32,
    ),
    call("saturated logits", 3, ODD, planted={k: SATURATED for k in range(3, 9)}),
    call("NaN and infinity in the features", 2, (2, 3, 5, 7), planted={0: NON_FINITE, 1: NON_FINITE[::-1]}),
    call("NaN in the logits", 2, (2, 3, 5, 7), planted={2: NAN, 5: NAN}),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    *(
        call(f"{name}, {layout}", 3, shape, layouts=(layout,), thorough=name == "sizes divide by 16")
        for name, shape in LARGE
        for layout in ("contiguous", "channels_last")
    ),
    call("eight inputs", 8, (1, 64, 256, 512)),
    call("sixteen inputs, odd sizes, contiguous", 16, (1, 67, 129, 253)),
    call("sixteen inputs, odd sizes, channels_last", 16, (1, 67, 129, 253), layouts=("channels_last",)),
)

MANY_IMAGES = Case("progressive_fusion", "many images", ([MANY_MAPS] * 2, [MANY_ROWS] * 2, [(MANY, 2, 1, 1)] * 2))
