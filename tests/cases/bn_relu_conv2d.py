"""Cases of bn_relu_conv2d, most of them a 3x3 convolution of a map of prime sizes."""

from __future__ import annotations

from typing import Any

import torch

from afa_kernels.testing import Case, Dtypes, Shape
from cases._values import FLOAT32, HALVES, LARGE, MANY_MAPS, NAN, NON_FINITE, ODD


def call(
    covers: str,
    shape: Shape = (2, 4, 5, 7),
    outputs: int = 6,
    kernel: tuple[int, int] = (3, 3),
    layout: str = "contiguous",
    running: bool = False,
    bias: bool = False,
    slope: float = 0.0,
    abs_weight: bool = False,
    dtypes: tuple[Dtypes, ...] = FLOAT32,
    planted: dict[int, tuple[float, ...]] | None = None,
    thorough: bool = False,
    **convolution: Any,
) -> Case:
    """In training, without running statistics to move; or in evaluation mode by `running` ones."""
    channels = shape[1]
    options = {
        "running_mean": torch.linspace(-1, 1, channels) if running else None,
        "running_var": torch.linspace(0.5, 2, channels) if running else None,
        "training": not running,
        "activation_slope": slope,
        "abs_weight": abs_weight,
        **convolution,
    }
    shapes = (shape, (channels,), (channels,), (outputs, channels // convolution.get("groups", 1), *kernel))
    names = ("hidden", "weight", "bias", "conv_weight")
    if bias:
        shapes, names = (*shapes, (outputs,)), (*names, "conv_bias")
    of_weight = "channels_last" if layout == "channels_last" else "contiguous"
    layouts = (layout, "contiguous", "contiguous", of_weight, "contiguous")[: len(shapes)]
    return Case("bn_relu_conv2d", covers, shapes, options, layouts, dtypes, planted or {}, thorough, names)


ALL = (torch.float32, *HALVES, torch.float64)
CASES: tuple[Case, ...] = (
    call("NCHW in training, as wide as before", padding=1, dtypes=ALL, thorough=True),
    call(
        "channels_last, running statistics, InPlaceABN, with a bias",
        layout="channels_last",
        running=True,
        bias=True,
        slope=0.01,
        abs_weight=True,
        padding=1,
        dtypes=ALL,
        thorough=True,
    ),
    call("few values in training", (2, 2, 2, 3), 2, (2, 2)),
    call("few values, InPlaceABN, with a bias", (2, 2, 2, 3), 2, (2, 2), running=True, bias=True, slope=0.01),
    call("few values in channels_last", (2, 2, 2, 3), 2, (1, 2), "channels_last", abs_weight=True, slope=0.01),
    call("steps, edges and gaps of their own", stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    call("in groups", groups=2, stride=2, bias=True),
    call("a convolution of each channel", outputs=4, groups=4, padding=1),
    call("1x1", kernel=(1, 1), running=True),
    call("one channel, one output", (2, 1, 5, 7), 1, padding=1),
    call("one pixel, running statistics", (1, 4, 1, 1), padding=1, running=True),
    call("one pixel, several images", (7, 4, 1, 1), kernel=(1, 1)),
    call("empty batch", (0, 4, 5, 7), padding=1),
    call("empty batch, running statistics", (0, 4, 5, 7), padding=1, running=True),
    call(
        "mixed element types", padding=1, bias=True, dtypes=((torch.float32, *HALVES, torch.bfloat16, torch.float32),)
    ),
    *(
        call(f"{layout} of its own", layout=layout, padding=1)
        for layout in ("permuted", "batch_inside", "sliced", "sliced_channels", "sliced_channels_last", "every_second")
    ),
    call("one image expanded over the batch", layout="expanded", padding=1),
    call("NaN and infinity", running=True, padding=1, planted={0: NON_FINITE}),
    call("NaN in training", padding=1, planted={0: NAN}),
    call("NaN and infinity, leaky", layout="channels_last", running=True, slope=0.01, planted={0: NON_FINITE}),
    call("prime sizes, several blocks along every axis", ODD, 2, padding=1),
    call("prime sizes in channels_last, running statistics", ODD, 2, layout="channels_last", running=True, slope=0.01),
    call("many pixel blocks in channels_last, summed in several steps", (1, 2, 67, 71), 2, layout="channels_last"),
    call("many channels in channels_last", (1, 131, 3, 5), 1, (1, 1), "channels_last"),
    call("zero and negative weights", abs_weight=True, planted={1: (0.0, -1.0, 1.0, -0.5)}),
)

# Sizes of real networks. The convolution is ATen's: the least that there is.
LARGE_CASES: tuple[Case, ...] = (
    *(
        call(f"{name}, {layout}", shape, 1, (1, 1), layout, dtypes=ALL, thorough=name == "sizes divide by 16")
        for name, shape in LARGE
        for layout in ("contiguous", "channels_last")
    ),
)

MANY_IMAGES = call("many images", MANY_MAPS, 1, (1, 1))
