"""The shapes of real networks, from which the operations' files make their calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from afa_kernels.testing import Case

Shape = tuple[int, ...]


class Pyramid(NamedTuple):
    """Predictions of an image at several scales, and the size of the logits by which they are fused."""

    image: tuple[int, int]
    scales: tuple[float, ...]
    attention: tuple[int, int]
    classes: int = 19
    images: int = 1


# How much is measured: what overhead shows at, a smoke run, a telling shape of each pass, everything.
SIZES = ("tiny", "quick", "headline", "full")

# The four levels of DLA-34 on an image of 1024 x 2048 pixels, and two training crops.
LEVELS: tuple[Shape, ...] = ((1, 32, 512, 1024), (1, 64, 256, 512), (1, 128, 128, 256), (1, 256, 64, 128))
CROPS: tuple[Shape, ...] = ((4, 32, 208, 208), (8, 64, 52, 52))
# Levels of networks on the images of data sets, the finest and the coarsest of a trunk among them.
REAL: tuple[Shape, ...] = (
    *LEVELS,
    *((1, 16, 1024, 2048), (1, 128, 256, 512), (1, 512, 64, 128), (1, 1024, 32, 64)),  # DLA-102x, Cityscapes
    *((1, 32, 360, 640), (2, 256, 90, 160)),  # DLA-169, BDD100K
    *((2, 32, 240, 240), (16, 256, 30, 30)),  # DLA-34, NYUDv2
    *(*CROPS, (16, 128, 52, 52)),  # DLA-34, BSDS500
)
MAPS: dict[str, tuple[Shape, ...]] = {
    "tiny": ((1, 32, 16, 16),),
    "quick": ((1, 32, 128, 256),),
    "headline": LEVELS[1:2],  # which no cache holds, and of which three processes are done in minutes
    "full": REAL,
}
ODD: Shape = (1, 32, 511, 1023)  # the pixels of a channel are no multiple of 16 bytes
SMALL: Shape = (1, 32, 32, 64)  # for Triton's interpreter, yet blocks and borders cost what they cost at any size

# Scores of every class for images: Cityscapes, BDD100K, boundaries of BSDS500, Mapillary Vistas and ADE20K.
CLASSES = 19
SCORES: dict[str, tuple[Shape, ...]] = {
    "tiny": ((1, CLASSES, 16, 16),),
    "quick": ((1, CLASSES, 256, 512),),
    "headline": ((1, CLASSES, 512, 1024),),
    "full": (
        (1, CLASSES, 512, 1024),
        (1, CLASSES, 1024, 2048),
        (1, CLASSES, 720, 1280),
        (16, 2, 416, 416),
        (2, 65, 512, 1024),
        (2, 150, 512, 512),
    ),
}

# The same images at several scales.
SCALES = (0.5, 1.0, 1.5, 1.75, 2.0)
INFERENCE: dict[str, tuple[Pyramid, ...]] = {
    "tiny": (Pyramid((16, 16), SCALES, (8, 8)),),
    "quick": (Pyramid((256, 512), SCALES, (128, 256)),),
    "headline": (Pyramid((512, 1024), SCALES, (256, 512)),),
    "full": (
        Pyramid((512, 1024), SCALES, (256, 512)),
        *(Pyramid((1024, 2048), SCALES[:count], (512, 1024)) for count in (2, 3, 4, 5)),
        Pyramid((720, 1280), SCALES, (360, 640)),
        Pyramid((416, 416), SCALES[:3], (208, 208), classes=2, images=4),
        Pyramid((512, 1024), SCALES[:3], (256, 512), classes=65),
        Pyramid((512, 512), SCALES, (256, 256), classes=150),
    ),
}
ODD_IMAGE = Pyramid((1023, 2047), SCALES[:2], (511, 1023))
TRAINING: dict[str, tuple[Pyramid, ...]] = {
    "tiny": (Pyramid((16, 16), SCALES[:2], (8, 8)),),
    "quick": (Pyramid((128, 256), SCALES[:2], (64, 128)),),
    "headline": (Pyramid((512, 1024), SCALES[:2], (256, 512)),),
    "full": (
        *(Pyramid((512, 1024), SCALES[:count], (256, 512)) for count in (2, 3, 4, 5)),
        Pyramid((416, 416), SCALES[:3], (208, 208), classes=2, images=16),
        Pyramid((512, 512), SCALES[:2], (256, 256), classes=65, images=2),
        Pyramid((512, 512), SCALES[:2], (256, 256), classes=150),
    ),
}
LAYOUTS = {"contiguous": "NCHW", "channels_last": "channels_last"}  # the names of `afa_kernels.testing.LAYOUTS`


def name(shape: Shape) -> str:
    return "x".join(map(str, shape))


def layouts(size: str) -> tuple[str, ...]:
    """Return the layouts that are measured: in the headline NCHW alone, but for fusions, which have all LAYOUTS."""
    return ("contiguous",) if size == "headline" else tuple(LAYOUTS)


def gpu_maps(quick: bool) -> list[Shape]:
    """Return the levels, the crops, and the levels of eight images; with `quick` one small map of odd sizes."""
    if quick:
        return [(2, 19, 7, 13)]
    return [*LEVELS, *CROPS, *((8, c, h, w) for _, c, h, w in LEVELS)]


def gpu_pyramids(quick: bool) -> list[Pyramid]:
    """Return two sizes of image with two and five scales; with `quick` one of a small image."""
    if quick:
        return [Pyramid((31, 53), SCALES[:2], (15, 27))]
    return [
        Pyramid(image, SCALES[:count], (image[0] // 2, image[1] // 2))
        for image in ((1024, 2048), (512, 1024))
        for count in (2, 5)
    ]


def pyramid(op: str, of: Pyramid, layout: str = "contiguous", **options: Any) -> Case:
    """Return a call over predictions of half the size of a network's input: s/2 times the image's at scale s."""
    height, width = of.image
    predictions: list[Shape] = [(of.images, of.classes, int(s / 2 * height), int(s / 2 * width)) for s in of.scales]
    logits: Shape = (of.images, len(of.scales), *of.attention)
    covers = f"{name((of.images, of.classes, height, width))}, {len(of.scales)} scales"
    shapes: tuple[Shape | list[Shape], ...] = (predictions, logits)
    of_each = (*[layout] * len(of.scales), "contiguous")
    return Case(op, covers, shapes, {"size": of.image, **options}, of_each)


def both(of: Callable[[Pyramid, str], Case], size: str) -> list[tuple[Case, bool]]:
    """Return the forward passes of inference and the training steps of a call over pyramids."""
    passes = (INFERENCE[size], False), (TRAINING[size], True)
    return [
        (of(pyramid, layout), training)
        for layout in layouts(size)
        for pyramids, training in passes
        for pyramid in pyramids
    ]


def small_pyramid(op: str, layout: str = "contiguous", **options: Any) -> Case:
    """Return the call over two scales and 8 classes that Triton's interpreter runs."""
    shapes: tuple[Shape | list[Shape], ...] = ([(1, 8, 8, 32), (1, 8, 16, 64)], (1, 2, 8, 32))
    covers = "two scales, 8 classes" + (", channels_last" if layout == "channels_last" else "")
    return Case(op, covers, shapes, {"size": (16, 64), **options}, (layout, layout, "contiguous"))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize as a user does, where there is something to resize."""
    return x if tuple(x.shape[2:]) == tuple(size) else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
