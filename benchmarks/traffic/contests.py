"""What is counted: every operation, and a whole stage of an up-path."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from unittest import mock

import torch
from torch import Tensor, nn
from torch.func import functional_call

import afa_kernels
from afa_kernels.models import AFAIDAUp
from afa_kernels.ops import _cross_entropy
from afa_kernels.testing import Case, differentiable, listed, tensors, with_tensors
from benchmarks import networks, ops
from benchmarks.workload import Workload


class Contest(Protocol):
    """One function of tensors, computed in two ways."""

    def given(self) -> list[Tensor]:
        """The tensors that the function is of."""

    def wanted(self) -> list[bool]:
        """Of which of them the gradient is computed; without any there is no backward pass."""

    def ours(self, given: Sequence[Tensor]) -> list[Tensor]: ...

    def eager(self, given: Sequence[Tensor]) -> list[Tensor]: ...

    def least(self) -> dict[str, int]:
        """The bytes that a "forward" and a "backward" pass move at least."""


@dataclass(frozen=True)
class Operation:
    """A call of an operation: of its arguments, then of the tensors among its options."""

    case: Case

    def __str__(self) -> str:
        return str(self.case)

    def given(self) -> list[Tensor]:
        options = [o for o in self.case.options.values() if isinstance(o, Tensor)]
        return [*(t.detach() for t in tensors(Workload(self.case, training=False).inputs())), *options]

    def wanted(self) -> list[bool]:
        arguments = len(tensors(self._unfilled))
        return [i < arguments and differentiable(self.case.op) for i in range(len(self.given()))]

    def ours(self, given: Sequence[Tensor]) -> list[Tensor]:
        checks_values = mock.patch.object(_cross_entropy, "check_classes")  # which it does on the CPU alone
        with afa_kernels.use_backend("triton"), checks_values:
            return self._of(ops.ours(self.case.op), given)

    def eager(self, given: Sequence[Tensor]) -> list[Tensor]:
        return self._of(ops.of(self.case.op).eager, given)

    @functools.cached_property
    def _unfilled(self) -> tuple[Any, ...]:
        """Arguments of no values; `wanted` makes them, so that what is counted does not."""
        return self.case.unfilled(torch.float32)

    def _of(self, function: Any, given: Sequence[Tensor]) -> list[Tensor]:
        names = [name for name, o in self.case.options.items() if isinstance(o, Tensor)]
        options = dict(zip(names, given[len(given) - len(names) :], strict=True))
        arguments = with_tensors(self._unfilled, given)
        return listed(replace(self.case, options={**self.case.options, **options}).bind(function, "cpu")(*arguments))

    def least(self) -> dict[str, int]:
        workload = Workload(self.case, training=False)
        arguments = workload.inputs()
        with afa_kernels.use_backend("reference"), torch.no_grad():
            outputs = listed(workload.ours()(*arguments))
        return workload.least(arguments, outputs)


@dataclass(frozen=True)
class Stage:
    """Attentive fusion with all that belongs to it: spatial attention of the shallow map, upsampling of the deep one,
    channel attention of that, and the weighted sum. Eager is the official composition.

    In training by statistics of the batch, without running ones to move, which a compiled graph may not write to.
    """

    training: bool
    shape: tuple[int, int, int, int] = (2, 16, 32, 32)

    def __str__(self) -> str:
        return f"a whole stage of AFAIDAUp: {'training' if self.training else 'evaluation'}, NCHW"

    def given(self) -> list[Tensor]:
        """Both maps, the parameters, and in evaluation mode the running statistics."""
        generator = torch.Generator().manual_seed(0)
        n, c, h, w = self.shape
        maps = [torch.randn(size, generator=generator) for size in (self.shape, (n, c, h // 2, w // 2))]
        return [*maps, *(t.detach() for t in self._state().values())]

    def wanted(self) -> list[bool]:
        maps, parameters = 2, len(list(self._modules["bn"].parameters()))
        return [i < maps + parameters for i in range(maps + len(self._state()))]

    def ours(self, given: Sequence[Tensor]) -> list[Tensor]:
        with afa_kernels.use_backend("triton"):
            return self._of("bn", given)

    def eager(self, given: Sequence[Tensor]) -> list[Tensor]:
        with networks.on("official"):
            return self._of(networks.OfficialNorm, given)

    def _of(self, norm: Any, given: Sequence[Tensor]) -> list[Tensor]:
        shallow, deep, *state = given
        named = dict(zip(self._state(), state, strict=True))
        out, _ = functional_call(self._modules[norm], named, ([shallow, deep],))
        return [out]

    def _state(self) -> dict[str, Tensor]:
        module = self._modules["bn"]
        buffers = {name: b for name, b in module.named_buffers() if b.is_floating_point()}
        return {**dict(module.named_parameters()), **buffers}

    @functools.cached_property
    def _modules(self) -> dict[Any, nn.Module]:
        """By the norm, the same otherwise; `given` makes them, so that what is counted does not."""
        return {norm: self._module(norm) for norm in ("bn", networks.OfficialNorm)}

    def _module(self, norm: Any) -> nn.Module:
        torch.manual_seed(0)
        channels = self.shape[1]
        module = AFAIDAUp(channels, [channels, channels], [1, 2], norm).train(self.training)
        for layer in module.modules():
            if self.training and isinstance(layer, nn.BatchNorm2d):
                layer.track_running_stats = False
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        return module

    def least(self) -> dict[str, int]:
        """Its inputs, its parameters and its outputs once, which no chain of convolutions reaches."""
        shallow, deep, *state = (t.numel() * t.itemsize for t in self.given())
        return {"forward": 2 * shallow + deep + sum(state), "backward": 3 * shallow + 2 * (deep + sum(state))}


def contests() -> list[Contest]:
    return [*map(Operation, ops.traffic_cases()), Stage(training=False), Stage(training=True)]
