"""Cases of scale_space_weights."""

from __future__ import annotations

from typing import Any

import torch

from afa_kernels.testing import DTYPES, Case, Shape
from cases._values import FLOAT32, HALVES, MANY_MAPS, NON_FINITE, SATURATED


def call(covers: str, logits: Shape | list[Shape], phi: str = "abs", background: str = "none", **rest: Any) -> Case:
    return Case("scale_space_weights", covers, (logits,), {"phi": phi, "background": background}, **rest)


CASES: tuple[Case, ...] = (
    call("three scales, prime sizes", (2, 3, 11, 13), thorough=True),
    call("three scales in channels_last", (2, 3, 11, 13), layouts=("channels_last",), thorough=True),
    call("dense, height and width exchanged", (2, 3, 11, 13), layouts=("permuted",), thorough=True),
    *(
        call(f"few values, {phi}, background {background}", (2, 3, 2, 3), phi, background)
        for phi in ("abs", "relu", "softplus", "exp")
        for background in ("none", "last")
    ),
    call("many pixels in several blocks", (2, 2, 61, 67), dtypes=FLOAT32),
    call("one scale", (2, 1, 5, 7)),
    call("one opaque scale", (2, 1, 5, 7), background="last", dtypes=FLOAT32),
    call("sixteen scales", (2, 16, 5, 7), dtypes=FLOAT32),
    call("one element", (1, 1, 1, 1), dtypes=FLOAT32),
    call("a list of one size", [(2, 1, 5, 7)] * 3, dtypes=FLOAT32),
    call("a list of three sizes", [(2, 1, 3, 4), (2, 1, 6, 8), (2, 1, 5, 7)], dtypes=DTYPES),
    call("a list of mixed element types", [(2, 1, 5, 7)] * 3, dtypes=(HALVES, (torch.float32, torch.bfloat16))),
    call("empty batch", (0, 3, 4, 5)),
    call("no pixels", (2, 3, 0, 5), dtypes=FLOAT32),
    call("slices along every axis", (2, 3, 11, 13), layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    call("slices along the scales", (2, 3, 11, 13), layouts=("sliced_channels",), dtypes=FLOAT32),
    call("slices of channels_last", (2, 3, 11, 13), layouts=("sliced_channels_last",), dtypes=FLOAT32),
    call("every second pixel", (2, 3, 11, 13), layouts=("every_second",), dtypes=FLOAT32),
    call("one image expanded over the batch", (2, 3, 11, 13), layouts=("expanded",), dtypes=FLOAT32),
    *(
        call(f"saturated logits and zeros, {phi}", (1, 3, 2, 3), phi, dtypes=DTYPES, planted={0: SATURATED})
        for phi in ("abs", "relu", "softplus", "exp")
    ),
    *(
        call(f"NaN and infinity, {phi}", (1, 3, 2, 3), phi, dtypes=FLOAT32, planted={0: NON_FINITE})
        for phi in ("abs", "relu", "softplus", "exp")
    ),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    call("sizes divide by 16", (1, 5, 512, 1024), thorough=True),
    call("odd sizes", (3, 3, 129, 253), thorough=False),
    call("softplus, the last opaque", (1, 3, 512, 1024), "softplus", "last", thorough=True),
    call("sixteen scales", (1, 16, 512, 1024), thorough=True),
)

MANY_IMAGES = Case("scale_space_weights", "many images", (MANY_MAPS,))
