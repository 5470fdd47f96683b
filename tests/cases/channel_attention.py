"""Cases of channel_attention."""

from __future__ import annotations

from typing import Any

import torch

from afa_kernels.testing import Case, Shape
from cases._values import FLOAT32, HALVES, MANY_MAPS, NON_FINITE


def call(
    covers: str,
    shape: Shape,
    outputs: int = 16,
    hidden: int = 3,
    layout: str = "contiguous",
    running: bool = True,
    slope: float = 0.0,
    abs_weight: bool = False,
    training: bool | None = None,
    **details: Any,
) -> Case:
    """In evaluation mode; or in training, without running statistics to move, or moving them."""
    options = {
        "running_mean": torch.linspace(-1, 1, hidden) if running else None,
        "running_var": torch.linspace(0.5, 2, hidden) if running else None,
        "training": not running if training is None else training,
        "activation_slope": slope,
        "abs_weight": abs_weight,
    }
    shapes = (shape, (hidden, shape[1], 1, 1), (hidden,), (hidden,), (outputs, hidden, 1, 1))
    names = ("x", "conv1_weight", "weight", "bias", "conv2_weight")
    layouts = (layout, *4 * ("contiguous",))
    return Case("channel_attention", covers, shapes, options, layouts, names=names, **details)


CASES: tuple[Case, ...] = (
    call("NCHW", (2, 5, 3, 4), thorough=True),
    call("channels_last, InPlaceABN", (2, 5, 3, 4), 7, 2, "channels_last", True, 0.01, True, thorough=True),
    call("few values", (1, 2, 2, 2), 2, 2),
    call("few values in channels_last", (2, 3, 2, 2), 3, 1, "channels_last", True, 0.01),
    call("statistics of the batch", (5, 3, 2, 3), 4, 2, running=False),
    call("statistics of the batch, InPlaceABN", (5, 3, 2, 3), 4, 2, "channels_last", False, 0.01, True),
    call("running statistics moved", (5, 3, 2, 3), 4, 2, training=True, dtypes=FLOAT32),
    call("several blocks along every axis", (2, 67, 2, 3), 71, 19, dtypes=FLOAT32),
    call("sizes a multiple of every block", (2, 64, 4, 4), 64, 16, dtypes=FLOAT32),
    call("more images and channels than a program takes at once", (19, 131, 1, 2), 133, 17, dtypes=FLOAT32),
    call("statistics of more than it takes at once", (70, 131, 1, 2), 133, 17, running=False, dtypes=FLOAT32),
    call("statistics of more images than a block has threads", (300, 2, 1, 1), 3, 2, running=False, dtypes=FLOAT32),
    call("one channel, one unit, one pixel", (3, 1, 1, 1), 1, 1),
    call("empty batch", (0, 3, 4, 5)),
    call("mixed element types", (2, 5, 3, 4), dtypes=((torch.float32, *HALVES, torch.float64, torch.float32),)),
    call("slices along every axis", (2, 5, 3, 4), layout="sliced", dtypes=FLOAT32),
    call("NaN and infinity", (2, 3, 2, 3), 4, 2, planted={0: NON_FINITE}),
    call("NaN and infinity, statistics of the batch", (3, 3, 2, 3), 4, 2, running=False, planted={0: NON_FINITE}),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    *(
        call(f"{name}, {layout}", shape, outputs, hidden, layout, thorough=name == "sizes divide by 16")
        for name, shape, outputs, hidden in (
            ("sizes divide by 16", (2, 512, 64, 128), 512, 32),
            ("odd sizes", (2, 67, 129, 253), 131, 9),
        )
        for layout in ("contiguous", "channels_last")
    ),
    call("sizes divide by 16, statistics of the batch", (16, 512, 16, 16), 512, 32, running=False),
    call("odd sizes, statistics of the batch", (35, 67, 9, 13), 131, 9, running=False),
    call("odd sizes, running statistics moved", (35, 67, 9, 13), 131, 9, training=True),
)

MANY_IMAGES = Case(
    "channel_attention",
    "many images",
    (MANY_MAPS, (1, 2, 1, 1), (1,), (1,), (2, 1, 1, 1)),
    options={"running_mean": torch.zeros(1), "running_var": torch.ones(1), "training": False},
    names=("x", "conv1_weight", "weight", "bias", "conv2_weight"),
)
