"""hierarchical_fusion: in dla-afa's order, five scales in inference, two in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops._bytes import once as least
from benchmarks.ops._bytes import size as bytes_of
from benchmarks.ops._shapes import LAYOUTS, Pyramid, Shape, both, gpu_pyramids, pyramid, resize

__all__ = ["MOST", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]

OP = "hierarchical_fusion"


def eager(
    predictions: Sequence[Tensor], attentions: Sequence[Tensor], scales: Sequence[float], size: tuple[int, int]
) -> Tensor:
    fused = resize(predictions[-1], size)
    for k in reversed(range(len(attentions))):
        attention = resize(attentions[k], size)
        fused = attention * resize(predictions[k], size) + (1 - attention) * fused
    return fused


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    """A copy of the attentions, and in backward their gradients at output resolution."""
    predictions, attentions = arguments
    at_output = 2 * len(predictions) * bytes_of([outputs[0][:, :1]]) if training else 0
    return (4 if training else 2) * bytes_of(attentions) + at_output


def call(of: Pyramid, layout: str) -> Case:
    """Return a call over the predictions of `pyramid`, an attention at the resolution of each but the finest."""
    case = pyramid(OP, of, layout)
    predictions: list[Shape] = case.shapes[0]  # type: ignore[assignment]
    attentions: list[Shape] = [(n, 1, h, w) for n, _, h, w in predictions[:-1]]
    layouts = (*[layout] * len(predictions), *["contiguous"] * len(attentions))
    options = {"scales": of.scales, **case.options}
    return dataclasses.replace(case, shapes=(predictions, attentions), options=options, layouts=layouts)


def workloads(size: str) -> list[tuple[Case, bool]]:
    return both(call, size)


def gpu(quick: bool) -> list[Case]:
    return [call(of, layout) for layout in LAYOUTS for of in gpu_pyramids(quick)]


TRAFFIC = (
    Case(
        OP,
        "two scales, 8 classes",
        ([(1, 8, 8, 32), (1, 8, 16, 64)], [(1, 1, 8, 32)]),
        {"scales": (0.5, 1.0), "size": (16, 64)},
    ),
)
# Of the traffic: backward writes the weights at output resolution, reads the gradient once a scale, and writes and
# reads what its rows are summed up to.
MOST = {"forward": 1.06, "backward": 2.11}
