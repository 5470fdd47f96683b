"""Whole stages of the networks against the official composition: an attentive fusion, an up-path, a fusion of levels.

A training step has the gradients of the maps and of the parameters; a forward pass is one in evaluation mode.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from afa_kernels import models
from afa_kernels.nn import AttentiveFusion
from afa_kernels.testing import Case
from benchmarks import official
from benchmarks.networks import CHANNELS
from benchmarks.ops import _bytes
from benchmarks.ops._shapes import LAYOUTS, Shape, name
from benchmarks.workload import Workload

Composition = Callable[[Any, list[Tensor]], Any]


class Composed(nn.Module):
    """A module called with a list of maps by `composition`, which has its children to call."""

    def __init__(self, module: nn.Module, composition: Composition) -> None:
        super().__init__()
        self.net, self.composition = copy.deepcopy(module), composition

    def forward(self, levels: Sequence[Tensor]) -> Any:
        return self.composition(self.net, list(levels))


# Each stage's module by the shapes of its maps, how it is called, and the official composition of its children.
STAGES: dict[str, tuple[Callable[[list[Shape]], nn.Module], Composition, Composition]] = {
    "nn.AttentiveFusion": (
        lambda shapes: AttentiveFusion(shapes[0][1]),
        lambda net, levels: net(*levels),
        lambda net, levels: official.attentive(net.sa, net.ca, *levels),
    ),
    "models.AFADLAUp": (
        lambda shapes: models.AFADLAUp([s[1] for s in shapes], [2**i for i in range(len(shapes))]),
        lambda net, levels: net(levels),
        official.upward,
    ),
    "models.AFALevelFusion": (
        lambda shapes: models.AFALevelFusion([s[1] for s in shapes]),
        lambda net, levels: net(levels),
        official.fused,
    ),
}


class Stage(Workload):
    def types(self) -> torch.dtype:
        return self.dtype

    def inputs(self) -> tuple[Any, ...]:
        arguments = self.case.inputs(self.dtype, self.device)
        for level in arguments[0]:
            level.requires_grad_(self.training)
        return arguments

    def composed(self, which: int) -> nn.Module:
        """Return the module with the same parameters as ever, called by that of its compositions."""
        make, *compositions = STAGES[self.case.op]
        torch.manual_seed(0)
        layout = torch.channels_last if self.case.layouts == ("channels_last",) else torch.contiguous_format
        net = make(self.case.shapes[0]).train(self.training)  # type: ignore[arg-type]
        return Composed(net, compositions[which]).to(self.dtype).to(memory_format=layout)  # type: ignore[call-overload]

    def ours(self) -> nn.Module:
        return self.composed(0)

    def eager(self) -> nn.Module:
        net = self.composed(1)
        for module in net.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True
        return net

    def compiled(self, **how: Any) -> Callable[..., Any]:
        torch.compiler.reset()
        return torch.compile(self.eager(), dynamic=False, **how)

    def others(self) -> dict[str, Callable[..., Any]]:
        return {}

    def exact(self) -> nn.Module:
        return dataclasses.replace(self, dtype=torch.float64).eager()

    def plain(self) -> nn.Module:
        return self.eager()

    def by_norm(self) -> bool:
        return True

    def least(self, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> dict[str, int]:
        """Return the bytes of maps and parameters, each once; what lies between the layers is not counted."""
        return _bytes.once(self.case, [*arguments, list(self.ours().parameters())], outputs)

    def moved_bytes(self, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> None:
        return None


# The size of a trunk's image, and the channels of its levels: none in the headline, which is of operations alone.
IMAGES: dict[str, tuple[tuple[int, int], ...]] = {
    "tiny": ((32, 64),),
    "quick": ((64, 128),),
    "headline": (),
    "full": ((512, 1024), (480, 480), (416, 416)),
}
SMALL = (16, 24, 32)


def calls(size: str, images: int) -> list[tuple[str, list[Shape]]]:
    """Return stages and the shapes of their maps: of every level the first stage, of all levels the others."""
    found: list[tuple[str, list[Shape]]] = []
    for height, width in IMAGES[size]:
        channels = CHANNELS if size == "full" else SMALL
        levels: list[Shape] = [(images, c, height >> (i + 1), width >> (i + 1)) for i, c in enumerate(channels)]
        found += [("nn.AttentiveFusion", [level, level]) for level in levels[:-1]]
        found += [("models.AFADLAUp", levels), ("models.AFALevelFusion", levels[2::-1])]
    return found


def stages(size: str) -> list[Workload]:
    """Return the stages of one of the SIZES; in training of two images, which is the least that has statistics."""
    return [
        Stage(Case(stage, f"{name(shapes[0])}, {len(shapes)} maps", (shapes,), layouts=(layout,)), training)
        for layout in LAYOUTS
        for training in (False, True)
        for stage, shapes in calls(size, 2 if training else 1)
    ]
