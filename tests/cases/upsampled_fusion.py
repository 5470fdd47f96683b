"""Cases of upsampled_fusion."""

from __future__ import annotations

from typing import Any

import torch

from afa_kernels.testing import Case, Shape
from cases._values import FLOAT32, LARGE, MANY, MIXED, NON_FINITE, SATURATED

ODD = (2, 5, 7, 11)
# What comes before values that are planted where PyTorch's convolution multiplies them by no padding, of which it makes
# NaN in some types and not in others: the first row of ODD's deep map, and the weights that an element may have alone.
INSIDE, OF_EVERY_ELEMENT = 12 * (1.0,), 5 * (1.0,)


def call(covers: str, shape: Shape, factor: int = 2, **details: Any) -> Case:
    """`shape` is that of the deep map."""
    batch, channels, height, width = shape
    fine = (batch, channels, factor * height, factor * width)
    weight = (channels, 1, 2 * factor, 2 * factor)
    return Case(
        "upsampled_fusion", covers, (fine, shape, weight, (batch, 1, *fine[2:]), (batch, channels, 1, 1)), **details
    )


def but_weight(layout: str, deep: str | None = None, logits: str | None = None) -> tuple[str, ...]:
    """The layout of all but the weight, a parameter, which is dense; or another of the deep map or the logits."""
    return (layout, deep or layout, "contiguous", logits or layout, logits or layout)


CASES: tuple[Case, ...] = (
    call("NCHW, prime sizes", ODD, thorough=True),
    call("channels_last, prime sizes", ODD, layouts=("channels_last",), thorough=True),
    call("dense, height and width exchanged", ODD, layouts=("permuted",), thorough=True),
    call("few values in NCHW", (2, 3, 2, 2)),
    call("few values in channels_last", (2, 3, 2, 2), layouts=("channels_last",)),
    call("one row, four times", (1, 2, 1, 2), 4, dtypes=FLOAT32),
    call("four times", (2, 5, 3, 5), 4, dtypes=FLOAT32),
    call("four times in channels_last", (2, 5, 3, 5), 4, layouts=("channels_last",), dtypes=FLOAT32),
    call("eight times", (1, 3, 3, 2), 8, dtypes=FLOAT32),
    call("eight times in channels_last", (1, 3, 2, 3), 8, layouts=("channels_last",), dtypes=FLOAT32),
    call("sizes a multiple of every block", (1, 16, 16, 32), dtypes=FLOAT32),
    call("many pixel blocks, summed in several steps", (1, 3, 45, 49), dtypes=FLOAT32),
    call("many pixels in channels_last", (1, 3, 45, 49), layouts=("channels_last",), dtypes=FLOAT32),
    call("many channels in channels_last", (1, 131, 3, 4), layouts=("channels_last",), dtypes=FLOAT32),
    call("sixteen channels in channels_last", (1, 16, 16, 17), layouts=("channels_last",)),
    call("many channels in NCHW", (1, 131, 3, 4), dtypes=FLOAT32),
    call("one pixel", (3, 5, 1, 1), dtypes=FLOAT32),
    call("one channel, where both memory formats coincide", (2, 1, 3, 5), layouts=("channels_last",)),
    call("one row", (2, 3, 1, 7), dtypes=FLOAT32),
    call("one column", (2, 3, 7, 1), layouts=("channels_last",), dtypes=FLOAT32),
    call("empty batch", (0, 3, 4, 5)),
    call("no channels", (2, 0, 4, 5), dtypes=FLOAT32),
    call("no pixels", (2, 3, 0, 5), dtypes=FLOAT32),
    call("mixed element types", ODD, dtypes=(MIXED, MIXED[::-1], (torch.bfloat16, torch.bfloat16, torch.float32))),
    call("slices along every axis", ODD, layouts=but_weight("sliced"), dtypes=(torch.float32, torch.bfloat16)),
    call("slices along the channels", ODD, layouts=but_weight("sliced_channels"), dtypes=FLOAT32),
    call(
        "slices of channels_last",
        ODD,
        layouts=but_weight("sliced_channels_last"),
        dtypes=(torch.float32, torch.float16),
    ),
    call("every second pixel", ODD, layouts=but_weight("every_second"), dtypes=FLOAT32),
    call("one image expanded over the batch", ODD, layouts=but_weight("expanded"), dtypes=FLOAT32),
    call("NCHW beside channels_last", ODD, layouts=but_weight("contiguous", "channels_last"), dtypes=FLOAT32),
    call(
        "channels_last beside NCHW",
        ODD,
        layouts=but_weight("channels_last", "contiguous", "contiguous"),
        dtypes=FLOAT32,
    ),
    call("saturated logits", ODD, planted={3: SATURATED, 4: SATURATED}),
    call("NaN and infinity in the features", ODD, planted={0: NON_FINITE, 1: INSIDE + NON_FINITE[::-1]}),
    call("NaN and infinity in the weight", ODD, planted={2: OF_EVERY_ELEMENT + NON_FINITE[:2]}, dtypes=FLOAT32),
    call("NaN and infinity in the logits", ODD, planted={3: NON_FINITE, 4: NON_FINITE}),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    *(
        call(f"{name}, {layout}", (n, c, h // 2, w // 2), layouts=(layout,), thorough=name == "sizes divide by 16")
        for name, (n, c, h, w) in LARGE
        for layout in ("contiguous", "channels_last")
    ),
    call("sizes divide by 16, four times", (2, 64, 64, 128), 4, dtypes=FLOAT32),
    call("sizes divide by 16, eight times", (2, 64, 32, 64), 8, dtypes=FLOAT32),
)

MANY_IMAGES = call("many images", (MANY, 2, 1, 1))
