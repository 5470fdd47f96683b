"""progressive_fusion: of three inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels.testing import Case, tensors
from benchmarks.ops._bytes import once as least
from benchmarks.ops._bytes import size
from benchmarks.ops._shapes import LAYOUTS, MAPS, ODD, SMALL, Shape, gpu_maps, name

__all__ = ["MOST", "ODD_CALL", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]


def eager(features: Sequence[Tensor], spatial_logits: Sequence[Tensor], channel_logits: Sequence[Tensor]) -> Tensor:
    a = [torch.sigmoid(s) for s in spatial_logits]
    b = [torch.sigmoid(q) for q in channel_logits]
    out = a[0] * b[0] * features[0]
    for i in range(1, len(features)):
        out = a[i] * b[i] * features[i] + (1 - a[i]) * (1 - b[i]) * out
    return out


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    """Two values for every logit, written first and read back for each channel, which counts once."""
    return (2 if training else 1) * 4 * size(tensors(arguments[1:]))


def call(shape: Shape, layout: str, covers: str = "", inputs: int = 3) -> Case:
    n, c, h, w = shape
    shapes = tuple([each] * inputs for each in (shape, (n, 1, h, w), (n, c, 1, 1)))
    return Case("progressive_fusion", covers or f"{name(shape)}, {inputs} inputs", shapes, layouts=(layout,))


def workloads(size: str) -> list[tuple[Case, bool]]:
    return [(call(s, layout), training) for layout in LAYOUTS for training in (False, True) for s in MAPS[size]]


def gpu(quick: bool) -> list[Case]:
    return [call(shape, layout) for layout in LAYOUTS for shape in gpu_maps(quick)]


ODD_CALL = call(ODD, "contiguous")
TRAFFIC = (call(SMALL, "contiguous", "three inputs, NCHW"),)
# Of the traffic: backward adds its partial sums and reads them back.
MOST = {"backward": 1.02 + 2 / 256}
