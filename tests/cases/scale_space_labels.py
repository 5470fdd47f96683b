"""Cases of scale_space_labels. Those of scale_space_render are gone over in tests/test_scale_space_labels.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from afa_kernels.testing import DTYPES, Case, Dtypes
from cases._values import HALVES, MANY_MAPS, NAN, SATURATED, SCALES, SIXTEEN


def call(
    covers: str,
    sizes: Sequence[tuple[int, int]] = SCALES,
    attention: tuple[int, int] = (2, 6),
    batch: int = 2,
    channels: int = 5,
    layouts: tuple[str, ...] = ("contiguous",),
    dtypes: tuple[Dtypes, ...] = (torch.float32,),
    planted: dict[int, Sequence[float]] | None = None,
    thorough: bool = False,
    **options: Any,
) -> Case:
    shapes = ([(batch, channels, *size) for size in sizes], (batch, len(sizes), *attention))
    return Case("scale_space_labels", covers, shapes, options, layouts, dtypes, planted or {}, thorough)


CASES: tuple[Case, ...] = (
    call("probabilities, prime sizes, NCHW", size=(5, 21), value="probability", dtypes=DTYPES, thorough=True),
    call(
        "scores, channels_last",
        size=(5, 21),
        value="score",
        layouts=("channels_last",),
        dtypes=DTYPES,
        thorough=True,
    ),
    call("labels alone, of 8 bits", size=(5, 21), dtype=torch.uint8, dtypes=DTYPES),
    call("few values", ((1, 2), (2, 2)), (2, 1), batch=1, channels=2, size=(2, 3), value="score"),
    *(
        call(f"{phi}, {resize}, background {background}", phi=phi, resize=resize, background=background, value="score")
        for phi, resize, background in (
            ("relu", "weights", "last"),
            ("softplus", "opacities", "last"),
            ("exp", "opacities", "none"),
        )
    ),
    call("every map larger than the output", SCALES, (6, 21), size=(3, 4), value="score"),
    call("every map of the output's size", ((3, 9),) * 3, (3, 9), value="probability"),
    call("one pixel enlarged", ((1, 1),) * 2, (1, 1), size=(5, 6), value="score"),
    call("one scale", ((3, 7),), (2, 3), size=(5, 8), value="score"),
    call("sixteen scales", SIXTEEN, (2, 5), batch=1, size=(3, 7), value="score"),
    call("rows of several blocks", ((1, 150), (2, 263)), (2, 260), batch=1, size=(3, 521), value="score"),
    call("many rows", ((9, 2), (20, 1)), (11, 2), batch=1, size=(70, 3), value="score"),
    call("many channels in NCHW", channels=37, value="probability"),
    call("many channels in channels_last", channels=37, layouts=("channels_last",), value="probability"),
    call("one channel", channels=1, value="probability"),
    call("empty batch", batch=0, value="score"),
    call("mixed element types", value="score", dtypes=(HALVES, (torch.float32, torch.bfloat16))),
    call("slices along every axis", layouts=("sliced",), value="score"),
    call("a layout of its own for each", layouts=("channels_last", "permuted", "every_second"), value="score"),
    call("saturated logits", planted={3: SATURATED}, value="score"),
    call("saturated scores", planted={0: SATURATED, 1: SATURATED}, value="probability"),
    call("NaN in a prediction and in the logits", planted={1: NAN, 3: NAN}, value="score"),
)

LARGE_CASES: tuple[Case, ...] = tuple(
    call(
        covers,
        sizes,
        sizes[-1],
        channels=channels,
        size=size,
        value="probability",
        layouts=(layout,),
        dtypes=DTYPES[:2],
        thorough=covers.startswith("sizes divide"),
    )
    for covers, channels, sizes, size, layout in (
        ("sizes divide by 16", 32, ((128, 256), (256, 512)), (512, 1024), "contiguous"),
        ("odd sizes, channels_last", 19, ((65, 127), (129, 253)), (259, 507), "channels_last"),
    )
)

MANY_IMAGES = Case(
    "scale_space_labels",
    "many images",
    ([MANY_MAPS, MANY_MAPS], MANY_MAPS),
    options={"size": (3, 2), "dtype": torch.int64},
)
