"""Cases of scale_space_render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from afa_kernels.testing import DTYPES, Case, Dtypes, Shape
from cases._values import FLOAT32, HALVES, MANY_MAPS, MIXED, NAN, NON_FINITE, SATURATED, SCALES, SIXTEEN, SIXTEEN_LARGE


def call(
    covers: str,
    sizes: Sequence[tuple[int, int]],
    attention: tuple[int, int] | list[Shape] = (2, 6),
    batch: int = 2,
    channels: int = 3,
    layouts: tuple[str, ...] = ("contiguous",),
    dtypes: tuple[Dtypes, ...] = (torch.float32,),
    planted: Mapping[int, Sequence[float]] | None = None,
    thorough: bool = False,
    **options: Any,
) -> Case:
    predictions: list[Shape] = [(batch, channels, *size) for size in sizes]
    logits: Shape | list[Shape] = attention if isinstance(attention, list) else (batch, len(sizes), *attention)
    return Case("scale_space_render", covers, (predictions, logits), options, layouts, dtypes, planted or {}, thorough)


CASES: tuple[Case, ...] = (
    call("two scales", ((2, 3), (3, 5)), (2, 3), batch=1, size=(4, 7), thorough=True),
    call("three scales, prime sizes, NCHW", SCALES, dtypes=DTYPES, size=(5, 21)),
    call("channels_last", SCALES, dtypes=DTYPES, size=(5, 21), layouts=("channels_last",), thorough=True),
    call("dense, height and width exchanged", SCALES, layouts=("permuted",), thorough=True),
    *(
        call(
            f"few values, {phi}, {resize}, background {background}",
            ((1, 2), (2, 2)),
            (2, 1),
            batch=1,
            channels=2,
            dtypes=DTYPES,
            size=(2, 3),
            phi=phi,
            resize=resize,
            background=background,
        )
        for phi, resize, background in (
            ("abs", "weights", "none"),
            ("abs", "opacities", "none"),
            ("relu", "weights", "last"),
            ("softplus", "opacities", "last"),
            ("exp", "opacities", "none"),
            ("exp", "weights", "last"),
        )
    ),
    call("few values in channels_last", ((1, 2), (2, 3)), (2, 2), batch=1, dtypes=DTYPES, layouts=("channels_last",)),
    call("the size of the largest prediction", SCALES),
    call(
        "opacities at the size of the largest prediction, the last opaque",
        SCALES,
        resize="opacities",
        background="last",
    ),
    call("every map smaller than the output, by whole factors", ((2, 12), (4, 24)), (4, 24), size=(8, 48)),
    call("every map larger than the output", SCALES, (6, 21), size=(3, 4)),
    call("opacities larger than the output", SCALES, (6, 21), size=(3, 4), resize="opacities"),
    call("every map of the output's size", ((3, 9),) * 3, (3, 9)),
    call("wider but lower than the output", ((2, 40), (9, 3)), (2, 31), size=(5, 11)),
    call("one pixel everywhere", ((1, 1),) * 2, (1, 1)),
    call("one pixel enlarged", ((1, 1),) * 2, (1, 1), size=(5, 6)),
    call("one output pixel", SCALES, size=(1, 1)),
    call("one output pixel in channels_last", ((2, 4), (3, 6)), size=(1, 1), layouts=("channels_last",)),
    call("one pixel behind many in channels_last", ((3, 4), (1, 1)), size=(5, 6), layouts=("channels_last",)),
    call("one row and one column", ((1, 9), (4, 1)), (1, 5), size=(3, 8)),
    call("one scale", ((3, 7),), (2, 3), size=(5, 8), dtypes=DTYPES),
    call("sixteen scales", SIXTEEN, (2, 5), batch=1, size=(3, 7)),
    call("sixteen scales by opacities", SIXTEEN, (2, 5), batch=1, resize="opacities"),
    call("rows of several blocks", ((1, 150), (2, 263)), (2, 260), channels=2, batch=1, size=(3, 521)),
    call("several blocks in channels_last", ((1, 150), (2, 263)), (2, 260), size=(3, 521), layouts=("channels_last",)),
    call("many rows", ((7, 3), (5, 2)), (11, 3), channels=2, batch=1, size=(17, 4)),
    call("many channels in channels_last", SCALES, channels=37, batch=1, layouts=("channels_last",)),
    call("many channels in NCHW", SCALES, channels=37, batch=1),
    call("one channel", SCALES, channels=1, dtypes=DTYPES),
    call("empty batch", SCALES, batch=0, dtypes=DTYPES),
    call("no channels", SCALES, channels=0, dtypes=FLOAT32),
    call("a list of logits", SCALES, [(2, 1, 6, 8)] * 3),
    call("a list of logits of three sizes", SCALES, [(2, 1, 2, 4), (2, 1, 3, 8), (2, 1, 3, 7)]),
    call("mixed element types", SCALES, dtypes=(MIXED, HALVES, (torch.float32, torch.bfloat16))),
    call("slices along every axis", SCALES, layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    call("slices along the channels", SCALES, layouts=("sliced_channels",)),
    call("slices of channels_last", SCALES, layouts=("sliced_channels_last",)),
    call("one image expanded over the batch", SCALES, layouts=("expanded",)),
    call("a layout of its own for each", SCALES, layouts=("channels_last", "permuted", "every_second", "sliced")),
    call("saturated logits and zeros", SCALES, dtypes=DTYPES, planted={3: SATURATED}),
    call("saturated opacities and zeros", SCALES, dtypes=DTYPES, planted={3: SATURATED}, resize="opacities"),
    call("NaN in a prediction and in the logits", SCALES, planted={1: NAN, 3: NAN}),
    call("NaN and infinity at equal sizes", ((3, 9),) * 3, (3, 9), planted={1: NON_FINITE, 3: NON_FINITE[::-1]}),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    call(
        "sizes divide by 16",
        ((128, 256), (256, 512), (512, 1024)),
        (256, 512),
        channels=32,
        dtypes=DTYPES,
        thorough=True,
    ),
    call(
        "sizes divide by 16, channels_last",
        ((128, 256), (256, 512), (512, 1024)),
        (256, 512),
        channels=32,
        dtypes=DTYPES,
        layouts=("channels_last",),
        thorough=True,
    ),
    call("odd sizes", ((65, 127), (129, 253)), (65, 127), channels=19, dtypes=DTYPES, size=(259, 507)),
    call("opacities, odd sizes", ((65, 127), (129, 253)), (65, 127), channels=19, dtypes=DTYPES, resize="opacities"),
    call(
        "sixteen scales",
        SIXTEEN_LARGE,
        (128, 256),
        channels=32,
        batch=1,
        dtypes=DTYPES,
    ),
    call(
        "sixteen scales by opacities",
        SIXTEEN_LARGE,
        (128, 256),
        channels=32,
        batch=1,
        dtypes=DTYPES,
        resize="opacities",
    ),
)

MANY_IMAGES = Case("scale_space_render", "many images", ([MANY_MAPS, MANY_MAPS], MANY_MAPS), options={"size": (3, 2)})
