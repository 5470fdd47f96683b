"""Cases of scale_space_cross_entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from afa_kernels.testing import DTYPES, Case, Dtypes, Shape
from cases._values import HALVES, MANY, MANY_MAPS, MIXED, NAN, NON_FINITE, SATURATED, SCALES, SIXTEEN, SIXTEEN_LARGE


def call(
    covers: str,
    sizes: Sequence[tuple[int, int]],
    size: tuple[int, int],
    attention: tuple[int, int] = (2, 6),
    batch: int = 2,
    channels: int = 3,
    ignored: int = -100,
    dtype: torch.dtype = torch.int64,
    weighted: bool = False,
    layouts: tuple[str, ...] = ("contiguous",),
    dtypes: tuple[Dtypes, ...] = (torch.float32,),
    planted: Mapping[int, Sequence[float]] | None = None,
    thorough: bool = False,
    **options: Any,
) -> Case:
    """A target of every class and, where there are pixels enough, some to ignore."""
    classes = torch.arange(batch * size[0] * size[1]).mul(7).remainder(channels + 1).view(batch, *size)
    options["target"] = torch.where(classes == channels, ignored, classes).to(dtype)
    options["ignore_index"] = ignored
    if weighted:
        options["weight"] = torch.linspace(0.5, 2, channels)
    predictions: list[Shape] = [(batch, channels, *s) for s in sizes]
    shapes = predictions, (batch, len(sizes), *attention)
    return Case("scale_space_cross_entropy", covers, shapes, options, layouts, dtypes, planted or {}, thorough)


CASES: tuple[Case, ...] = (
    call("two scales", ((2, 3), (3, 5)), (4, 13), (2, 3), batch=1, thorough=True),
    call("three scales, prime sizes, NCHW", SCALES, (5, 21), dtypes=DTYPES),
    call("channels_last", SCALES, (5, 21), dtypes=DTYPES, layouts=("channels_last",), thorough=True),
    call("dense, height and width exchanged", SCALES, (4, 13), layouts=("permuted",)),
    *(
        call(
            f"few values, {phi}, {resize}, background {background}, {reduction}",
            ((1, 2), (2, 2)),
            (2, 3),
            (2, 1),
            batch=1,
            dtypes=DTYPES,
            phi=phi,
            resize=resize,
            background=background,
            reduction=reduction,
        )
        for phi, resize, background, reduction in (
            ("abs", "weights", "none", "mean"),
            ("softplus", "opacities", "last", "sum"),
            ("relu", "weights", "last", "none"),
            ("exp", "opacities", "none", "mean"),
        )
    ),
    call("class weights", SCALES, (5, 21), weighted=True, dtypes=DTYPES),
    call("class weights in channels_last", SCALES, (5, 21), weighted=True, layouts=("channels_last",)),
    call("smooth labels", SCALES, (5, 21), label_smoothing=0.1, dtypes=DTYPES),
    call(
        "smooth labels in channels_last",
        SCALES,
        (5, 21),
        weighted=True,
        layouts=("channels_last",),
        label_smoothing=0.1,
    ),
    call("few values, smooth labels", ((1, 2), (2, 2)), (2, 3), (2, 1), batch=1, dtypes=DTYPES, label_smoothing=0.25),
    call("an unreduced loss", SCALES, (5, 21), reduction="none", weighted=True),
    call("targets of 8 bits that ignore 255", SCALES, (5, 21), ignored=255, dtype=torch.uint8),
    call("targets of 32 bits that ignore a class", SCALES, (5, 21), ignored=1, dtype=torch.int32),
    call("every map larger than the output", SCALES, (3, 4), (6, 21)),
    call("every map of the output's size", ((3, 9),) * 3, (3, 9), (3, 9)),
    call("one pixel enlarged", ((1, 1),) * 2, (5, 6), (1, 1)),
    call("one scale", ((3, 7),), (5, 8), (2, 3)),
    call("sixteen scales", SIXTEEN, (3, 7), (2, 5), batch=1),
    call("rows of several blocks", ((1, 150), (2, 263)), (3, 521), (2, 260), batch=1),
    call("many rows", ((9, 2), (20, 1)), (70, 3), (11, 2), batch=1),
    call("many channels in channels_last", SCALES, (5, 21), channels=37, layouts=("channels_last",)),
    call("many channels in NCHW", SCALES, (5, 21), channels=37),
    call("one channel", SCALES, (5, 21), channels=1),
    call("empty batch", SCALES, (5, 21), batch=0, reduction="none"),
    call("mixed element types", SCALES, (5, 21), dtypes=(MIXED, HALVES)),
    call("slices along every axis", SCALES, (5, 21), layouts=("sliced",)),
    call("slices of channels_last", SCALES, (5, 21), layouts=("sliced_channels_last",)),
    call("a layout of its own for each", SCALES, (5, 21), layouts=("channels_last", "permuted", "sliced")),
    call("saturated logits and zeros", SCALES, (5, 21), planted={3: SATURATED}, dtypes=DTYPES),
    call("saturated scores", SCALES, (5, 21), planted={2: SATURATED}),
    call("NaN in a prediction and in the logits", SCALES, (5, 21), planted={1: NAN, 3: NAN}),
    call("NaN and infinity at equal sizes", ((3, 9),) * 2, (3, 9), (3, 9), planted={1: NON_FINITE}),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    call("sixteen scales", SIXTEEN_LARGE, (256, 512), (128, 256), 1, 32, dtypes=DTYPES[:2]),
    *(
        call(
            covers,
            sizes,
            size,
            sizes[-1],
            channels=channels,
            weighted=True,
            layouts=(layout,),
            dtypes=DTYPES,
            thorough=covers.startswith("sizes divide"),
        )
        for covers, channels, sizes, size, layout in (
            ("sizes divide by 16", 32, ((128, 256), (256, 512)), (512, 1024), "contiguous"),
            ("sizes divide by 16, channels_last", 32, ((128, 256), (256, 512)), (512, 1024), "channels_last"),
            ("odd sizes", 19, ((65, 127), (129, 253)), (259, 507), "contiguous"),
        )
    ),
)

MANY_IMAGES = Case(
    "scale_space_cross_entropy",
    "many images",
    ([MANY_MAPS, MANY_MAPS], MANY_MAPS),
    options={"target": torch.zeros(MANY, 3, 2, dtype=torch.int64)},
)
