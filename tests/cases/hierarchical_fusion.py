"""Cases of hierarchical_fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from afa_kernels.testing import DTYPES, Case, Shape
from cases._values import FLOAT32, HALVES, MANY, MANY_MAPS, MIXED, NAN

EIGHTHS = tuple(k / 8 for k in range(1, 17))


def call(
    covers: str,
    scales: Sequence[float],
    variant: str = "afa",
    full: tuple[int, int] = (4, 6),
    batch: int = 2,
    channels: int = 3,
    attention: tuple[int, int] | None = None,
    **rest: Any,
) -> Case:
    """Predictions at their scale of the `full` size, as are the attentions, of the finest scale none."""
    size = rest.pop("size", None)
    sizes = [(int(s * full[0]), int(s * full[1])) for s in scales]
    predictions: list[Shape] = [(batch, channels, *s) for s in sizes]
    attentions: list[Shape] = [(batch, 1, *(attention or s)) for s in sizes[:-1]]
    options = {"scales": tuple(scales), "variant": variant, "size": size}
    return Case("hierarchical_fusion", covers, (predictions, attentions), options, **rest)


CASES: tuple[Case, ...] = (
    call("two scales", (0.5, 1.0), dtypes=FLOAT32, full=(4, 10), thorough=True),
    *(
        call(f"three scales, {variant}, {layout}", (0.5, 1.0, 2.0), variant, layouts=(layout,))
        for variant in ("afa", "nvidia")
        for layout in ("contiguous", "channels_last")
    ),
    *(
        call(f"few values, {variant}", (0.5, 1.0), variant, (2, 2), batch=1, channels=2)
        for variant in ("afa", "nvidia")
    ),
    *(
        call(f"five scales, {variant}", (0.25, 0.5, 1.0, 1.5, 2.0), variant, (4, 8), dtypes=FLOAT32)
        for variant in ("afa", "nvidia")
    ),
    *(
        call(f"a size of its own, {variant}", (0.5, 2.0), variant, size=(5, 9), dtypes=FLOAT32)
        for variant in ("afa", "nvidia")
    ),
    call("every scale below 1, nvidia", (0.25, 0.5, 0.75), "nvidia", (4, 8), size=(4, 8), dtypes=FLOAT32),
    call("every scale from 1 on, nvidia", (1.0, 1.5, 2.0), "nvidia", dtypes=FLOAT32),
    call("attentions of another size", (0.5, 1.0), attention=(3, 5), dtypes=FLOAT32),
    call("one scale", (1.0,), dtypes=FLOAT32),
    call("rows of several blocks", (0.5, 1.0), full=(2, 521), batch=1, dtypes=FLOAT32),
    call("many rows", (0.5, 1.0), full=(70, 2), batch=1, dtypes=FLOAT32),
    call("many channels in channels_last", (0.5, 1.0), channels=37, layouts=("channels_last",), dtypes=FLOAT32),
    call("many channels in NCHW", (0.5, 1.0), channels=37, dtypes=FLOAT32),
    call("one channel", (0.5, 1.0, 2.0), channels=1, dtypes=FLOAT32),
    call("empty batch", (0.5, 1.0), batch=0, dtypes=FLOAT32),
    call("no channels", (0.5, 1.0), channels=0, dtypes=FLOAT32),
    call("mixed element types", (0.5, 1.0, 2.0), dtypes=(MIXED, HALVES)),
    call("slices along every axis", (0.5, 1.0), layouts=("sliced",), dtypes=FLOAT32),
    call("a layout of its own for each", (0.5, 1.0), layouts=("permuted", "channels_last"), dtypes=FLOAT32),
    call("attention of 0 and 1", (0.5, 1.0, 2.0), planted={3: (0.0, 1.0, 0.0), 4: (1.0, 0.0)}),
    call("NaN in a prediction and an attention", (0.5, 1.0), planted={1: NAN, 2: NAN}, dtypes=FLOAT32),
)

# Sizes of real networks.
LARGE_CASES: tuple[Case, ...] = (
    call("sixteen scales", EIGHTHS, full=(128, 256), batch=1, channels=32, dtypes=DTYPES[:2]),
    *(
        call(f"{name}, {layout}", (0.5, 1.0, 2.0), full=full, channels=channels, layouts=(layout,))
        for name, full, channels in (("sizes divide by 16", (128, 256), 32), ("odd sizes", (131, 253), 19))
        for layout in ("contiguous", "channels_last")
    ),
    call("sizes divide by 16, premultiplied", (0.5, 1.0), "nvidia", (256, 512), channels=32, thorough=True),
)

MANY_IMAGES = Case(
    "hierarchical_fusion",
    "many images",
    ([(MANY, 2, 1, 1), MANY_MAPS], [(MANY, 1, 1, 1)]),
    options={"scales": (0.5, 1.0), "size": (3, 2)},
)
