"""What `python -m afa_kernels --check` runs: one small call of every operation on every backend that is here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from afa_kernels import backends
from afa_kernels.testing import Case, Shape, both_passes, check, differentiable, tensors

MAP: Shape = (2, 5, 7, 9)
SMALL: Shape = (2, 3, 7, 9)
WIDE: Shape = (2, 3, 14, 18)
SPATIAL: Shape = (2, 1, 7, 9)
WIDE_SPATIAL: Shape = (2, 1, 14, 18)
CHANNEL: Shape = (2, 5, 1, 1)
FEW_CHANNELS: Shape = (2, 3, 1, 1)
_NORM: dict[str, Any] = {"running_mean": None, "running_var": None, "training": True}
_PREDICTIONS: list[Shape] = [SMALL, WIDE]
_TARGET = torch.arange(2 * 20 * 30).remainder(3).view(2, 20, 30)

# By operation. Where an operation is missing, tests/test_selfcheck.py fails.
CASES: dict[str, Case] = {
    case.op: case
    for case in (
        Case("attentive_fusion", "small", (MAP, MAP, SPATIAL, CHANNEL)),
        Case("progressive_fusion", "small", (3 * [MAP], 3 * [SPATIAL], 3 * [CHANNEL])),
        Case("resized_fusion", "small", (_PREDICTIONS, 2 * [WIDE_SPATIAL], 2 * [FEW_CHANNELS])),
        Case("global_avg_max_pool", "small", (MAP,)),
        Case("upsampled_fusion", "small", ((2, 5, 14, 18), MAP, (5, 1, 4, 4), (2, 1, 14, 18), CHANNEL)),
        Case("upsampled_pool", "small", (MAP, (5, 1, 4, 4))),
        Case(
            "channel_attention", "small", ((4, 5, 7, 9), (3, 5, 1, 1), (3,), (3,), (6, 3, 1, 1)), _NORM,
            names=("x", "conv1_weight", "weight", "bias", "conv2_weight"),
        ),
        Case(
            "bn_relu_conv2d", "small", (MAP, (5,), (5,), (4, 5, 3, 3)), _NORM | {"padding": 1},
            names=("hidden", "weight", "bias", "conv_weight"),
        ),
        Case(
            "bn_relu_project", "small", (MAP, (5,), (5,), (1, 5, 1, 1)), _NORM,
            names=("hidden", "weight", "bias", "project_weight"),
        ),
        Case("scale_space_weights", "small", ((2, 3, 7, 9),)),
        Case("scale_space_render", "small", (_PREDICTIONS, (2, 2, 7, 9)), {"size": (20, 30)}),
        Case("scale_space_labels", "small", (_PREDICTIONS, (2, 2, 7, 9)), {"size": (20, 30), "value": "score"}),
        Case("scale_space_cross_entropy", "small", (_PREDICTIONS, (2, 2, 7, 9)), {"target": _TARGET}),
        Case("resized_cross_entropy", "small", (SMALL,), {"target": _TARGET}),
        Case("resized_labels", "small", (SMALL,), {"size": (20, 30)}),
        Case("scale_space_accumulate", "small", (WIDE, (2, 1, 14, 18), SMALL, SPATIAL), {"first": False}),
        Case("hierarchical_fusion", "small", (_PREDICTIONS, [SPATIAL]), {"scales": (0.5, 1.0)}),
    )
}  # fmt: skip
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Outcome:
    """Of one operation on one backend: the largest difference from the reference, and what is wrong, if anything."""

    op: str
    backend: str
    device: str
    forward: float
    backward: float | None  # None where there is no gradient
    fault: str | None

    def __str__(self) -> str:
        backward = "none" if self.backward is None else f"{self.backward:.1e}"
        told = f"{self.op:28}{self.backend:10} on {self.device:5} forward {self.forward:.1e}  backward {backward:8}"
        return told + ("" if self.fault is None else f"  WRONG: {self.fault}")


def outcomes() -> Iterator[Outcome]:
    """Run every case in float32, forward and backward, on the backends of every device that is here."""
    for device in DEVICES:
        if device == "cpu" or torch.cuda.is_available():
            for case in CASES.values():
                for backend in backends.available(case.op, device):
                    if backend != "reference":
                        yield outcome(case, backend, device)


def outcome(case: Case, backend: str, device: str) -> Outcome:
    arguments = case.inputs(torch.float32, device)
    wanted = [differentiable(case.op)] * len(tensors(arguments))
    try:
        check(case, arguments, backend)
        fault = None
    except Exception as error:  # whatever goes wrong is what the user asked for
        fault = f"{type(error).__name__}: {error}"
        if not isinstance(error, AssertionError):
            return Outcome(case.op, backend, device, float("nan"), None, fault)

    def run(on: str) -> tuple[list[Tensor], list[Tensor]]:
        return both_passes(lambda a: case.outputs(a, on), arguments, wanted=wanted)

    (outputs, gradients), (expected, expected_gradients) = run(backend), run("reference")
    backward = _largest_difference(gradients, expected_gradients) if gradients else None
    return Outcome(case.op, backend, device, _largest_difference(outputs, expected), backward, fault)


def _largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs))
