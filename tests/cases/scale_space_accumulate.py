"""Cases of scale_space_accumulate, whose rendering and transmittance are what an earlier scale has left."""

from __future__ import annotations

from typing import Any

import torch

from afa_kernels.testing import DTYPES, Case, Dtypes
from cases._values import MANY_MAPS, MANY_ROWS, NAN, NON_FINITE

KINDS: tuple[Dtypes, ...] = (
    torch.float32,
    *((torch.float32, torch.float32, dtype, torch.float32) for dtype in DTYPES[1:3]),
)
KINDS_WITHOUT: tuple[Dtypes, ...] = (torch.float32, *((torch.float32, dtype, torch.float32) for dtype in DTYPES[1:3]))


def call(
    covers: str,
    size: tuple[int, int] = (5, 21),
    of_prediction: tuple[int, int] = (3, 9),
    of_weight: tuple[int, int] | None = None,
    batch: int = 2,
    channels: int = 3,
    layout: str = "contiguous",
    of_given: str | None = None,
    transmittance: bool = True,
    first: bool = False,
    dtypes: tuple[Dtypes, ...] = (torch.float32,),
    **rest: Any,
) -> Case:
    """A rendering in `layout`, a prediction and a weight in that or in `of_given`, with a transmittance or without."""
    given = ((batch, channels, *of_prediction), (batch, 1, *(of_weight or of_prediction)))
    layouts = (of_given or layout, "contiguous")
    if transmittance:
        shapes = ((batch, channels, *size), (batch, 1, *size), *given)
        layouts = (layout, "contiguous", *layouts)
        return Case("scale_space_accumulate", covers, shapes, {"first": first}, layouts, dtypes, **rest)
    shapes = ((batch, channels, *size), *given)
    options = {"transmittance": None, "first": first}
    names = ("rendered", "prediction", "weight")
    return Case("scale_space_accumulate", covers, shapes, options, (layout, *layouts), dtypes, names=names, **rest)


CASES: tuple[Case, ...] = (
    call("a second scale, prime sizes", dtypes=(*KINDS, torch.float64), thorough=True),
    call("a second scale in channels_last", layout="channels_last", dtypes=(*KINDS, torch.float64), thorough=True),
    call("few values", (2, 3), (1, 2), batch=1, channels=2),
    call("a first scale, over whatever is there", first=True, planted={0: NON_FINITE, 1: NAN}, dtypes=KINDS),
    call("without transmittance", transmittance=False, dtypes=(*KINDS_WITHOUT, torch.float64)),
    call("a first scale without transmittance", transmittance=False, first=True, planted={0: NON_FINITE}),
    call("without transmittance in channels_last", transmittance=False, layout="channels_last"),
    call("a weight of another size", of_weight=(2, 4)),
    call("of the output's size", (3, 9)),
    call("larger than the output", (3, 4), (6, 21)),
    call("one pixel enlarged", (5, 6), (1, 1)),
    call("one output pixel", (1, 1)),
    call("rows of several blocks", (3, 521), (2, 263), batch=1),
    call("many rows", (70, 3), (20, 1), batch=1),
    call("many channels in NCHW", channels=37),
    call("many channels in channels_last", channels=37, layout="channels_last"),
    call("one channel", channels=1),
    call("empty batch", batch=0),
    call("slices along every axis", of_given="sliced", dtypes=KINDS[:2]),
    call("slices of channels_last", layout="channels_last", of_given="sliced_channels_last"),
    call("NCHW beside channels_last", of_given="channels_last"),
    call("channels_last beside NCHW", layout="channels_last", of_given="contiguous"),
    call("dense, height and width exchanged", of_given="permuted"),
    call("NaN and infinity at equal sizes", (3, 9), planted={2: NON_FINITE, 3: NAN}),
)

LARGE_CASES: tuple[Case, ...] = tuple(
    call(
        f"{name}, {layout}",
        size,
        half,
        channels=channels,
        layout=layout,
        dtypes=KINDS,
        thorough=name == "sizes divide by 16",
    )
    for name, channels, size, half in (
        ("sizes divide by 16", 32, (512, 1024), (256, 512)),
        ("odd sizes", 19, (259, 507), (129, 253)),
    )
    for layout in ("contiguous", "channels_last")
)

MANY_IMAGES = Case(
    "scale_space_accumulate", "many images", (MANY_MAPS, MANY_ROWS, MANY_MAPS, MANY_ROWS), options={"first": False}
)
