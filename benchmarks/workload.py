"""One operation at one shape in one layout: a forward pass that records no gradient, or a training step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import afa_kernels
from afa_kernels.testing import Case, cotangents, disagreement, doubled, listed, tensors, with_tensors
from benchmarks import ops
from benchmarks.ops._shapes import LAYOUTS

# What a baseline, and what rounding decides, may be off: in the Euclidean norm, and as the share of other labels.
LARGEST_DIFFERENCE = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
MOST_OTHER_LABELS = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Workload:
    case: Case
    training: bool
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def pass_name(self) -> str:
        return "training step" if self.training else "forward"

    @property
    def layout(self) -> str:
        return LAYOUTS[self.case.layouts[0]]

    def __str__(self) -> str:
        return " ".join(self.described()[key] for key in ("op", "pass", "layout", "shape", "dtype"))

    def described(self) -> dict[str, Any]:
        """Return the fields of a record that say what was measured."""
        return {
            "op": self.case.op,
            "pass": self.pass_name,
            "layout": self.layout,
            "shape": self.case.covers,
            "shapes": self.case.shapes,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def inputs(self) -> tuple[Any, ...]:
        """Return the arguments, normal numbers and dense; in a training step every tensor wants a gradient."""
        if self.device == "cpu":
            arguments = self.case.inputs(self.types(), self.device)
        else:  # made there: on the CPU a large map takes seconds
            arguments = self.unfilled()
            generator = torch.Generator(self.device).manual_seed(0)
            for t in tensors(arguments):
                t.normal_(generator=generator)
        getattr(ops.of(self.case.op), "prepare", lambda arguments: None)(arguments)
        for t in tensors(arguments):
            t.requires_grad_(self.training)
        return arguments

    def types(self) -> torch.dtype | tuple[torch.dtype, ...]:
        """Return the element type of the arguments, or of each."""
        return getattr(ops.of(self.case.op), "types", lambda dtype: dtype)(self.dtype)

    def unfilled(self) -> tuple[Any, ...]:
        """Return arguments of no particular values."""
        return self.case.unfilled(self.types(), self.device)

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` of the arguments alone, the options on the device and in the type of the arguments."""
        converted = {
            k: o.to(self.dtype) if isinstance(o, Tensor) and o.is_floating_point() else o
            for k, o in self.case.options.items()
        }
        return dataclasses.replace(self.case, options=converted).bind(function, self.device)

    def ours(self) -> Callable[..., Any]:
        return self.bind(ops.ours(self.case.op))

    def eager(self) -> Callable[..., Any]:
        return self.bind(ops.of(self.case.op).eager)

    def compiled(self, **how: Any) -> Callable[..., Any]:
        """Return the baseline compiled for this shape alone, when it is called."""
        torch.compiler.reset()
        return self.bind(torch.compile(ops.of(self.case.op).eager, dynamic=False, **how))

    def others(self) -> dict[str, Callable[..., Any]]:
        """Return what else users have in place of `eager`."""
        return {name: self.bind(other) for name, other in getattr(ops.of(self.case.op), "OTHERS", {}).items()}

    def contestants(self, autotuned: bool = False) -> dict[str, Callable[..., Any]]:
        """Return who computes it, afa_kernels last; with `autotuned` torch.compile in its mode max-autotune too."""
        found = {"eager": self.eager(), "compiled": self.compiled()}
        if autotuned:
            found["compiled, max-autotune"] = self.compiled(mode="max-autotune")
        return {**found, **self.others(), "afa_kernels": self.ours()}

    def step(self, function: Callable[..., Any], arguments: Sequence[Any], upstream: Sequence[Tensor]) -> list[Tensor]:
        """Make one pass: the outputs, in a training step followed by the gradient of every input and parameter."""
        if not self.training:
            with torch.no_grad():
                return listed(function(*arguments))
        parameters = function.parameters() if isinstance(function, nn.Module) else ()
        outputs = listed(function(*arguments))
        return [*outputs, *torch.autograd.grad(outputs, [*tensors(arguments), *parameters], upstream)]

    def upstream(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return a fixed dense gradient for each output, in its layout; nothing where none is asked for."""
        if not self.training:
            return []
        if self.device == "cpu":
            return [torch.empty_like(o).copy_(g) for o, g in zip(outputs, cotangents(outputs), strict=True)]
        generator = torch.Generator(self.device).manual_seed(1)
        return [torch.empty_like(o).normal_(generator=generator) for o in outputs]

    def exact(self) -> Callable[..., Any]:
        """Return what answers in float64."""
        return on_backend("reference", dataclasses.replace(self, dtype=torch.float64).ours())

    def plain(self) -> Callable[..., Any]:
        """Return what measures the error of plain PyTorch in the type of the arguments."""
        return on_backend("reference", self.ours())

    def by_norm(self) -> bool:
        """Return whether rounding decides at an edge, so that results are compared by their norm."""
        return getattr(ops.of(self.case.op), "BY_NORM", False)

    def least(self, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> dict[str, int]:
        """Return the bytes each pass moves at least."""
        return ops.of(self.case.op).least(self.case, arguments, outputs)

    def least_bytes(self, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> int:
        """Return the bytes the workload moves at least."""
        least = self.least(arguments, outputs)
        return least["forward"] + (least["backward"] if self.training else 0)

    def moved_bytes(self, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> int | None:
        """Return what the C++ kernels move by their passes over each tensor, rows still in the cache not counted.

        None of an operation that is made of PyTorch's own kernels.
        """
        scratch = getattr(ops.of(self.case.op), "scratch", None)
        if scratch is None:
            return None
        return self.least_bytes(arguments, outputs) + scratch(self.case, arguments, outputs, self.training)

    def why_wrong(
        self, functions: Mapping[str, Callable[..., Any]], arguments: Sequence[Any], upstream: list[Tensor]
    ) -> str | None:
        """Return which contestant's result or gradient is wrong, and by how much; None where all are right.

        afa_kernels answers to the reference in float64, within the error budget of `afa_kernels.testing`. The baselines
        must compute the same thing, in the Euclidean norm, or come as near as twice eager's error; so must an operation
        with an edge, as ReLU has in its gradient, where rounding decides between two values (the tests compare those
        element by element, on fewer).
        """

        def fresh(arguments: Sequence[Any]) -> tuple[Any, ...]:  # an operation may write to its arguments
            copies = [t.detach().clone().requires_grad_(self.training) for t in tensors(arguments)]
            return with_tensors(arguments, copies)

        exact = self.step(self.exact(), fresh(doubled(arguments)), [g.double() for g in upstream])
        plain = self.step(self.plain(), fresh(arguments), upstream)
        outputs = len(upstream) if self.training else len(exact)
        for name, function in functions.items():
            results = self.step(function, fresh(arguments), upstream)
            for i, (actual, oracle, eager) in enumerate(zip(results, exact, plain, strict=True)):
                actual, oracle, eager = actual.detach(), oracle.detach(), eager.detach()
                if not oracle.is_floating_point():  # labels, of which rounding decides those of nearly equal scores
                    differ = float((actual != oracle).double().mean())
                    allowed = MOST_OTHER_LABELS[self.dtype]
                    reason = None if differ <= allowed else f"{differ:.3g} of the labels differ"
                elif name == "afa_kernels" and not self.by_norm():
                    reason = disagreement(actual, oracle, eager, torch.float32)
                else:
                    difference, of_eager = (float((result.double() - oracle).norm()) for result in (actual, eager))
                    size = float(oracle.norm())  # 0 where every ReLU is shut: then what eager gives, which is 0 too
                    allowed = max(LARGEST_DIFFERENCE[self.dtype] * size, 2 * of_eager)
                    reason = None
                    if not difference <= allowed < math.inf:
                        reason = f"a difference of {difference:.3g} from what has the norm {size:.3g}"
                if reason is not None:
                    what = f"output {i}" if i < outputs else f"gradient {i - outputs}"
                    return f"{name}, {what}: {reason}"
        return None


def on_backend(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, run on that backend."""

    def call(*arguments: Any) -> Any:
        with afa_kernels.use_backend(name):
            return function(*arguments)

    return call


def workloads(size: str) -> list[Workload]:
    """Return the workloads of every operation of one of the SIZES; "full" has them in bfloat16 too."""
    dtypes = (torch.float32, torch.bfloat16) if size == "full" else (torch.float32,)
    return [
        Workload(case, training, dtype)
        for benchmark in ops.every().values()
        for dtype in dtypes
        for case, training in benchmark.workloads(size)
    ]
