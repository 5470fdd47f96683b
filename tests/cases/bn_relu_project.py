"""Cases of bn_relu_project."""

from __future__ import annotations

from typing import Any

import torch

from afa_kernels.testing import Case, Shape
from cases._values import FLOAT32, LARGE, MANY_MAPS, MIXED, NAN, NON_FINITE, ODD


def call(
    covers: str,
    shape: Shape,
    layout: str = "contiguous",
    running: bool = False,
    slope: float = 0.0,
    abs_weight: bool = False,
    training: bool | None = None,
    **details: Any,
) -> Case:
    """In training, without running statistics to move; or in evaluation mode by `running` ones; or moving these."""
    channels = shape[1]
    options = {
        "running_mean": torch.linspace(-1, 1, channels) if running else None,
        "running_var": torch.linspace(0.5, 2, channels) if running else None,
        "training": not running if training is None else training,
        "activation_slope": slope,
        "abs_weight": abs_weight,
    }
    layouts = (layout, *3 * ("contiguous",))
    names = ("hidden", "weight", "bias", "project_weight")
    shapes = (shape, (channels,), (channels,), (1, channels, 1, 1))
    return Case("bn_relu_project", covers, shapes, options, layouts, names=names, **details)


CASES: tuple[Case, ...] = (
    call("NCHW in training", (2, 5, 3, 5), thorough=True),
    call("channels_last in training, InPlaceABN", (2, 5, 3, 5), "channels_last", False, 0.01, True, thorough=True),
    call("running statistics", (2, 5, 3, 5), running=True, thorough=True),
    call("running statistics moved", (2, 5, 3, 5), running=True, training=True, dtypes=FLOAT32),
    call("few values in NCHW", (2, 3, 2, 3)),
    call("few values in channels_last", (2, 3, 2, 3), "channels_last", slope=0.01),
    call("few values, running statistics", (2, 3, 2, 3), running=True, abs_weight=True),
    call("few values in channels_last, running statistics", (2, 3, 2, 3), "channels_last", True, 0.01, True),
    call("prime sizes, several blocks along every axis", ODD),
    call("prime sizes in channels_last", ODD, "channels_last"),
    call("prime sizes, running statistics", ODD, running=True, slope=0.01),
    call("prime sizes in channels_last, running statistics", ODD, "channels_last", running=True),
    call("many pixel blocks, summed in several steps", (1, 2, 67, 71), dtypes=FLOAT32),
    call("many pixel blocks in channels_last", (1, 2, 67, 71), "channels_last", dtypes=FLOAT32),
    call("sizes a multiple of every block", (1, 16, 16, 64), dtypes=FLOAT32),
    call("many channels", (1, 131, 3, 5), dtypes=FLOAT32),
    call("many channels in channels_last", (1, 131, 3, 5), "channels_last", dtypes=FLOAT32),
    call("three values a channel", (1, 4, 1, 3), dtypes=FLOAT32),
    call("one pixel, several images", (7, 4, 1, 1), dtypes=FLOAT32),
    call("one pixel, running statistics", (1, 4, 1, 1), running=True),
    call("one channel", (2, 1, 5, 7)),
    call("one row", (2, 3, 1, 7), dtypes=FLOAT32),
    call("one column in channels_last", (2, 3, 7, 1), "channels_last", dtypes=FLOAT32),
    call("empty batch, running statistics", (0, 3, 4, 5), running=True),
    call("no pixels, running statistics", (2, 3, 0, 5), running=True, dtypes=FLOAT32),
    call("mixed element types", (2, 5, 3, 5), dtypes=(MIXED, (torch.bfloat16, *3 * FLOAT32))),
    *(
        call(f"{layout} of its own", (2, 5, 3, 5), layout, slope=0.01, dtypes=(torch.float32, torch.bfloat16))
        for layout in ("permuted", "batch_inside", "sliced", "sliced_channels", "sliced_channels_last", "every_second")
    ),
    call("one image expanded over the batch", (2, 5, 3, 5), "expanded", dtypes=FLOAT32),
    call("NaN and infinity", (2, 3, 2, 3), running=True, planted={0: NON_FINITE}, dtypes=FLOAT32),
    call("NaN and infinity, leaky", (2, 3, 2, 3), "channels_last", True, 0.01, planted={0: NON_FINITE}),
    call("NaN in training", (2, 3, 2, 3), planted={0: NAN}, dtypes=FLOAT32),
    call("zero and negative weights", (2, 5, 3, 5), abs_weight=True, planted={1: (0.0, -1.0, 1.0, -0.5, 0.5)}),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    *(
        call(f"{name}, {layout}", shape, layout, thorough=name == "sizes divide by 16")
        for name, shape in LARGE
        for layout in ("contiguous", "channels_last")
    ),
    call("odd sizes, running statistics moved", (2, 67, 9, 13), running=True, training=True),
)

MANY_IMAGES = Case(
    "bn_relu_project",
    "many images",
    (MANY_MAPS, (2,), (2,), (1, 2, 1, 1)),
    options={"running_mean": None, "running_var": None, "training": True},
    names=("hidden", "weight", "bias", "project_weight"),
)
