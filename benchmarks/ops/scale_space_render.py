"""scale_space_render: five scales in inference, two in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels.testing import Case
from benchmarks.ops import scale_space_weights
from benchmarks.ops._bytes import once as least
from benchmarks.ops._bytes import size as bytes_of
from benchmarks.ops._shapes import LAYOUTS, ODD_IMAGE, Pyramid, both, gpu_pyramids, pyramid, resize, small_pyramid

__all__ = ["COUNTED", "MOST", "ODD_CALL", "OTHERS", "TRAFFIC", "eager", "gpu", "least", "scratch", "workloads"]

OP = "scale_space_render"


def eager(predictions: Sequence[Tensor], logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The official composition, of weights and predictions resized first."""
    weights, _ = scale_space_weights.eager(logits)
    rendered = resize(weights[:, :1], size) * resize(predictions[0], size)
    for k in range(1, len(predictions)):
        rendered += resize(weights[:, k : k + 1], size) * resize(predictions[k], size)
    return rendered


def nerfacc(predictions: Sequence[Tensor], logits: Tensor, size: tuple[int, int]) -> Tensor:
    """As nerfacc's plain PyTorch: the weights of all samples, and the sum of what they weigh."""
    weights, _ = scale_space_weights.nerfacc(logits)
    samples = torch.stack([resize(prediction, size) for prediction in predictions], 1)
    return (resize(weights, size).unsqueeze(2) * samples).sum(1)


OTHERS = {"nerfacc's way": nerfacc}


def scratch(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor], training: bool) -> int:
    """The weights at attention resolution, written and read back.

    Backward does so again, reads the logits twice, and writes and reads back the weights' gradients at output
    resolution.
    """
    predictions, logits = arguments
    at_output = 2 * len(predictions) * 4 * outputs[0][:, :1].numel() if training else 0
    return (5 if training else 2) * bytes_of([logits]) + at_output


def call(of: Pyramid, layout: str) -> Case:
    return pyramid(OP, of, layout)


def workloads(size: str) -> list[tuple[Case, bool]]:
    return both(call, size)


def gpu(quick: bool) -> list[Case]:
    return [call(of, layout) for layout in LAYOUTS for of in gpu_pyramids(quick)]


ODD_CALL = call(ODD_IMAGE, "contiguous")
TRAFFIC = (small_pyramid(OP),)
COUNTED = (small_pyramid(OP, "channels_last"),)
# Of the traffic: backward writes the weights at output resolution, reads the gradient once a scale, and writes and
# reads what its rows are summed up to.
MOST = {"forward": 1.06, "backward": 2.28}
