"""The shapes of real networks, from which the operations' files make their calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from afa_kernels.testing import Case

Shape = tuple[int, ...]
Pyramid = tuple[tuple[int, int], tuple[float, ...], tuple[int, int]]  # the image, the scales, the size of the logits

# The four levels of DLA-34 on an image of 1024 x 2048 pixels, and two training crops.
LEVELS: tuple[Shape, ...] = ((1, 32, 512, 1024), (1, 64, 256, 512), (1, 128, 128, 256), (1, 256, 64, 128))
CROPS: tuple[Shape, ...] = ((4, 32, 208, 208), (8, 64, 52, 52))
ODD: Shape = (1, 32, 511, 1023)  # the pixels of a channel are no multiple of 16 bytes
SMALL: Shape = (1, 32, 32, 64)  # for Triton's interpreter, yet blocks and borders cost what they cost at any size
CLASSES = 19
SCALES = (0.5, 1.0, 1.5, 1.75, 2.0)
INFERENCE: Pyramid = ((1024, 2048), SCALES, (512, 1024))
ODD_IMAGE: Pyramid = ((1023, 2047), SCALES[:2], (511, 1023))
TRAINING: Pyramid = ((512, 1024), SCALES[:2], (256, 512))
LAYOUTS = {"contiguous": "NCHW", "channels_last": "channels_last"}  # the names of `afa_kernels.testing.LAYOUTS`


def name(shape: Shape) -> str:
    return "x".join(map(str, shape))


def shrunk(shape: Shape, quick: bool) -> Shape:
    """Return the shape; with `quick` a quarter of its height and width."""
    n, c, h, w = shape
    return (n, c, h // 4, w // 4) if quick else shape


def maps(quick: bool, *, crops: bool = False) -> list[Shape]:
    """Return the levels, and the crops if wanted; with `quick` the first level alone."""
    return [shrunk(shape, quick) for shape in (LEVELS[:1] if quick else LEVELS + CROPS if crops else LEVELS)]


def gpu_maps(quick: bool) -> list[Shape]:
    """Return the levels, the crops, and the levels of eight images; with `quick` one small map of odd sizes."""
    if quick:
        return [(2, 19, 7, 13)]
    return [*LEVELS, *CROPS, *((8, c, h, w) for _, c, h, w in LEVELS)]


def gpu_pyramids(quick: bool) -> list[Pyramid]:
    """Return two sizes of image with two and five scales; with `quick` one of a small image."""
    if quick:
        return [((31, 53), SCALES[:2], (15, 27))]
    return [
        (image, SCALES[:count], (image[0] // 2, image[1] // 2))
        for image in ((1024, 2048), (512, 1024))
        for count in (2, 5)
    ]


def pyramid(op: str, of: Pyramid, layout: str = "contiguous", quick: bool = False, **options: Any) -> Case:
    """Return a call over predictions of half the size of a network's input: s/2 times the image's at scale s."""
    (height, width), scales, attention = of
    shrink = 4 if quick else 1
    height, width = height // shrink, width // shrink
    predictions: list[Shape] = [(1, CLASSES, int(s / 2 * height), int(s / 2 * width)) for s in scales]
    logits: Shape = (1, len(scales), attention[0] // shrink, attention[1] // shrink)
    covers = f"{name((1, CLASSES, height, width))}, {len(scales)} scales"
    shapes: tuple[Shape | list[Shape], ...] = (predictions, logits)
    layouts = (*[layout] * len(scales), "contiguous")
    return Case(op, covers, shapes, {"size": (height, width), **options}, layouts)


def small_pyramid(op: str, **options: Any) -> Case:
    """Return the call over two scales and 8 classes that Triton's interpreter runs."""
    shapes: tuple[Shape | list[Shape], ...] = ([(1, 8, 8, 32), (1, 8, 16, 64)], (1, 2, 8, 32))
    return Case(op, "two scales, 8 classes", shapes, {"size": (16, 64), **options})


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize as a user does, where there is something to resize."""
    return x if tuple(x.shape[2:]) == tuple(size) else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
