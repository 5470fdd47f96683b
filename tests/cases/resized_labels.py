"""Cases of resized_labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from afa_kernels.testing import DTYPES, Case, Dtypes
from cases._values import FLOAT32, LARGE, MANY_MAPS, NAN, NON_FINITE, SATURATED


def call(
    covers: str,
    shape: tuple[int, int, int, int] = (2, 5, 4, 7),
    size: tuple[int, int] = (9, 17),
    dtype: torch.dtype = torch.int64,
    layout: str = "contiguous",
    dtypes: tuple[Dtypes, ...] = FLOAT32,
    planted: Sequence[float] = (),
    thorough: bool = False,
) -> Case:
    options = {"size": size, "dtype": dtype}
    return Case("resized_labels", covers, (shape,), options, (layout,), dtypes, {0: planted}, thorough)


CASES: tuple[Case, ...] = (
    call("four times the size", (1, 3, 3, 5), (12, 20), thorough=True),
    call("prime sizes, NCHW", dtypes=DTYPES),
    call("channels_last", layout="channels_last", dtypes=DTYPES, dtype=torch.uint8, thorough=True),
    call("dense, height and width exchanged", layout="permuted", dtype=torch.int32),
    call("logits larger than the labels", (2, 5, 9, 17), (4, 7)),
    call("logits of the labels' size", size=(4, 7)),
    call("logits of the labels' size, channels_last", size=(4, 7), layout="channels_last"),
    call("one pixel enlarged", (2, 5, 1, 1), (5, 6)),
    call("rows of several tiles", (1, 5, 2, 140), (3, 1041)),
    call("many rows", (1, 5, 17, 2), (70, 3)),
    call("many channels", (2, 37, 4, 7)),
    call("many channels, channels_last", (2, 37, 4, 7), layout="channels_last"),
    call("one channel", (2, 1, 4, 7)),
    call("empty batch", (0, 5, 4, 7)),
    call("slices along every axis", layout="sliced"),
    call("every second", layout="every_second"),
    call("saturated logits", planted=SATURATED),
    call("NaN", planted=NAN),
    call("NaN and infinity at equal sizes", size=(4, 7), planted=NON_FINITE),
)

LARGE_CASES: tuple[Case, ...] = tuple(
    call(
        f"{covers}{', channels_last' if layout == 'channels_last' else ''}",
        (1, 19, shape[2] // 2, shape[3] // 2),
        (2 * shape[2], 2 * shape[3]),
        torch.uint8,
        layout,
        DTYPES[:2],
        thorough=covers.startswith("sizes divide"),
    )
    for covers, shape in LARGE
    for layout in ("contiguous", "channels_last")
)

MANY_IMAGES = Case("resized_labels", "many images", (MANY_MAPS,), options={"size": (3, 2), "dtype": torch.int64})
