"""scale_space_weights: of five scales in inference, of two in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import once as least
from benchmarks.ops._shapes import INFERENCE, TRAINING, Pyramid, Shape, gpu_pyramids, name

__all__ = ["OTHERS", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]


def eager(logits: Tensor) -> tuple[Tensor, Tensor]:
    depth = logits.abs()
    total = depth.cumsum(1)
    return (1 - torch.exp(-depth)) * torch.exp(depth - total), torch.exp(-total[:, -1:])


def nerfacc(logits: Tensor) -> tuple[Tensor, Tensor]:
    """As nerfacc's plain PyTorch: opacities, and transmittances as exp of the exclusive sum of what absorbs before."""
    depth = logits.abs()
    before = torch.cat((torch.zeros_like(depth[:, :1]), depth[:, :-1]), 1).cumsum(1)
    return torch.exp(-before) * (1 - torch.exp(-depth)), torch.exp(-depth.sum(1, keepdim=True))


OTHERS = {"nerfacc's way": nerfacc}


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    return 0


def of(pyramid: Pyramid) -> Shape:
    return (pyramid.images, len(pyramid.scales), *pyramid.attention)


def call(shape: Shape, covers: str = "") -> Case:
    return Case("scale_space_weights", covers or name(shape), (shape,))


def workloads(size: str) -> list[tuple[Case, bool]]:
    passes = (INFERENCE[size], False), (TRAINING[size], True)
    shapes = {(of(pyramid), training): None for pyramids, training in passes for pyramid in pyramids}
    return [(call(shape), training) for shape, training in shapes]


def gpu(quick: bool) -> list[Case]:
    return [call(of(pyramid)) for pyramid in gpu_pyramids(quick)]


TRAFFIC = (call((1, 5, 32, 64), "five scales"),)
