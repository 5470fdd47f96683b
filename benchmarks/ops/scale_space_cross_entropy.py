"""scale_space_cross_entropy: of two scales, in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops import scale_space_render
from benchmarks.ops._bytes import once as least
from benchmarks.ops._bytes import size as bytes_of
from benchmarks.ops._shapes import LAYOUTS, TRAINING, Pyramid, gpu_pyramids, layouts, pyramid, small_pyramid

__all__ = ["COUNTED", "MOST", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]

OP = "scale_space_cross_entropy"


def eager(predictions: Sequence[Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """In float32 from the softmax on, as under autocast: in float16 the mean of an image's losses is NaN on a GPU."""
    height, width = target.shape[1:]
    return F.cross_entropy(scale_space_render.eager(predictions, logits, (height, width)).float(), target)


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    """As of scale_space_render, and maps of one value a pixel.

    The losses and log(sum exp), written and read; in backward the upstream gradient, the factor and the class.
    """
    predictions, logits = arguments
    of_a_map = 4 * case.options["target"].numel()
    at_output = 2 * len(predictions) * of_a_map if training else 0
    return (5 if training else 2) * bytes_of([logits]) + at_output + (10 if training else 3) * of_a_map


def with_target(case: Case) -> Case:
    """Replace the option `size` by a target of that size, of every class in turn."""
    height, width = case.options["size"]
    images, classes = case.shapes[0][0][:2]  # type: ignore[index]
    target = torch.arange(images * height * width).remainder(classes).view(images, height, width)
    return dataclasses.replace(case, options={"target": target})


def call(of: Pyramid, layout: str) -> Case:
    return with_target(pyramid(OP, of, layout))


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(of, layout), True) for layout in layouts(size) for of in TRAINING[size]]


def gpu(quick: bool) -> list[Case]:
    return [call(of, layout) for layout in LAYOUTS for of in gpu_pyramids(quick)]


TRAFFIC = (with_target(small_pyramid(OP)),)
COUNTED = (with_target(small_pyramid(OP, "channels_last")),)
# Of the traffic: forward keeps log(sum exp), and its mean reads the losses and the targets once more: of 8 classes a
# lot. Backward first makes the gradient of the rendering, a band of rows at a time, and then sums over its rows.
MOST = {"forward": 1.53, "backward": 3.09}
