"""Cases of resized_cross_entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from afa_kernels.testing import DTYPES, Case, Dtypes
from cases._values import FLOAT32, LARGE, MANY, MANY_MAPS, NAN, NON_FINITE, SATURATED


def call(
    covers: str,
    shape: tuple[int, int, int, int] = (2, 3, 4, 7),
    size: tuple[int, int] = (9, 17),
    ignored: int = -100,
    dtype: torch.dtype = torch.int64,
    weighted: bool = False,
    layout: str = "contiguous",
    dtypes: tuple[Dtypes, ...] = FLOAT32,
    planted: Sequence[float] = (),
    thorough: bool = False,
    **options: Any,
) -> Case:
    """A target of every class and, where there are pixels enough, some to ignore."""
    batch, channels = shape[:2]
    classes = torch.arange(batch * size[0] * size[1]).mul(7).remainder(channels + 1).view(batch, *size)
    options["target"] = torch.where(classes == channels, ignored, classes).to(dtype)
    options["ignore_index"] = ignored
    if weighted:
        options["weight"] = torch.linspace(0.5, 2, channels)
    return Case("resized_cross_entropy", covers, (shape,), options, (layout,), dtypes, {0: planted}, thorough)


CASES: tuple[Case, ...] = (
    call("four times the size", (1, 3, 3, 5), (12, 20), thorough=True),
    call("prime sizes, NCHW", dtypes=DTYPES),
    call("channels_last, class weights, smooth labels", layout="channels_last", dtypes=DTYPES, weighted=True,
         label_smoothing=0.1, thorough=True),
    call("dense, height and width exchanged", layout="permuted"),
    *(
        call(f"few values, {reduction}, smoothing {s}", (1, 2, 2, 1), (2, 3), dtypes=DTYPES, reduction=reduction,
             label_smoothing=s, weighted=weighted)
        for reduction, s, weighted in (("mean", 0.0, False), ("sum", 0.25, False), ("none", 1.0, True))
    ),
    call("class weights", weighted=True, dtypes=DTYPES),
    call("smooth labels", label_smoothing=0.1, dtypes=DTYPES),
    call("an unreduced loss", reduction="none", weighted=True, label_smoothing=0.2),
    call("targets of 8 bits that ignore 255", ignored=255, dtype=torch.uint8),
    call("targets of 32 bits that ignore a class", ignored=1, dtype=torch.int32),
    call("logits larger than the target", (2, 3, 9, 17), (4, 7), thorough=True),
    call("logits wider and lower than the target", (2, 3, 4, 17), (9, 7)),
    call("logits of the target's size", size=(4, 7), thorough=True),
    call("logits of the target's size, channels_last", size=(4, 7), layout="channels_last"),
    call("one pixel enlarged", (2, 3, 1, 1), (5, 6)),
    call("rows of several tiles", (1, 3, 2, 70), (3, 521)),
    call("many rows", (1, 3, 37, 2), (150, 3)),
    call("many channels", (2, 37, 4, 7), weighted=True),
    call("many channels, channels_last", (2, 37, 4, 7), layout="channels_last"),
    call("one channel", (2, 1, 4, 7)),
    call("empty batch", (0, 3, 4, 7), reduction="none"),
    call("slices along every axis", layout="sliced"),
    call("slices of channels_last", layout="sliced_channels_last"),
    call("saturated logits", planted=SATURATED, dtypes=DTYPES),
    call("saturated logits, smooth labels", planted=SATURATED, label_smoothing=0.1),
    call("NaN", planted=NAN),
    call("NaN and infinity, smooth labels", planted=NON_FINITE, label_smoothing=0.1, reduction="none"),
    call("NaN and infinity at equal sizes", size=(4, 7), planted=NON_FINITE, reduction="none"),
)  # fmt: skip

# Heads at a quarter of the image's resolution.
LARGE_CASES: tuple[Case, ...] = tuple(
    call(
        f"{covers}{', channels_last' if layout == 'channels_last' else ''}",
        (1, 19, shape[2] // 2, shape[3] // 2),
        (2 * shape[2], 2 * shape[3]),
        weighted=True,
        label_smoothing=0.1 if layout == "channels_last" else 0.0,
        layout=layout,
        dtypes=DTYPES,
        thorough=covers.startswith("sizes divide"),
    )
    for covers, shape in LARGE
    for layout in ("contiguous", "channels_last")
)

MANY_IMAGES = Case(
    "resized_cross_entropy", "many images", (MANY_MAPS,), options={"target": torch.zeros(MANY, 3, 2, dtype=torch.int64)}
)
