"""scale_space_weights: of five scales in inference, of two in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import once as least
from benchmarks.ops._shapes import Shape, gpu_pyramids, name, shrunk

__all__ = ["TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]


def eager(logits: Tensor) -> tuple[Tensor, Tensor]:
    depth = logits.abs()
    total = depth.cumsum(1)
    return (1 - torch.exp(-depth)) * torch.exp(depth - total), torch.exp(-total[:, -1:])


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    return 0


def call(shape: Shape, covers: str = "") -> Case:
    return Case("scale_space_weights", covers or name(shape), (shape,))


def workloads(quick: bool) -> list[tuple[Case, bool]]:
    shapes = shrunk((1, 5, 512, 1024), quick), shrunk((1, 2, 256, 512), quick)
    return [(call(shapes[0]), False), (call(shapes[1]), True)]


def gpu(quick: bool) -> list[Case]:
    return [call((1, len(scales), *attention)) for _, scales, attention in gpu_pyramids(quick)]


TRAFFIC = (call((1, 5, 32, 64), "five scales"),)
