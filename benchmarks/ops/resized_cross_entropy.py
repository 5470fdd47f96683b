"""resized_cross_entropy: of heads at a quarter of the image's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import once as least
from benchmarks.ops._shapes import CLASSES, LAYOUTS, SCORES, Shape, layouts, name, resize

__all__ = ["MOST", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]


def eager(logits: Tensor, target: Tensor) -> Tensor:
    """In float32 from the softmax on, as under autocast: in float16 the mean of an image's losses is NaN on a GPU."""
    return F.cross_entropy(resize(logits, target.shape[1:]).float(), target)


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    """The losses, written and read, and log(sum exp), written; in backward read, and the upstream gradient made."""
    of_a_map = 4 * case.options["target"].numel()
    return (6 if training else 3) * of_a_map


def head(shape: Shape, layout: str = "contiguous") -> Case:
    """The call for an image of `shape`, with a target of every class in turn."""
    n, classes, height, width = shape
    target = torch.arange(n * height * width).remainder(classes).view(n, height, width)
    logits: Shape = (n, classes, height // 4, width // 4)
    covers = name((n, classes, height, width))
    return Case("resized_cross_entropy", covers, (logits,), {"target": target}, (layout,))


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(head(shape, layout), True) for layout in layouts(size) for shape in SCORES[size]]


def gpu(quick: bool) -> list[Case]:
    shapes: list[Shape] = [(1, CLASSES, 32, 52)] if quick else [*SCORES["headline"], (16, 150, 512, 512)]
    return [head(shape, layout) for layout in LAYOUTS for shape in shapes]


TRAFFIC = (head((1, 8, 32, 64)),)
# Of the traffic: forward keeps log(sum exp), and its mean reads the losses and the targets once more, which at four
# times the resolution are as large as 8 classes of logits. Backward makes the gradient of the resized logits, 16 times
# the size of the logits, a band of rows at a time, and sums over its rows.
MOST = {"forward": 3.25, "backward": 8.75}
