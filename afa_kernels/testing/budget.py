"""The error budget: how far a result may be from the oracle, measured by how far plain eager PyTorch is."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from afa_kernels.testing.case import (
    Case,
    both_passes,
    cotangents,
    differentiable,
    listed,
    tensors,
    with_tensors,
)

UNITS = 8  # of rounding of the result's scale, which a result may be off besides eager PyTorch's own error
UNITS_OF_ARITHMETIC = 32  # the same of the arithmetic's rounding: exp of a sum of 16 depths is off by the sum's error
UNITS_OF_EAGER = 128  # of the arithmetic's rounding, which that error may be: resizing rounds coordinates, sums add up


def doubled(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Return the same numbers in float64, in contiguous memory."""
    return with_tensors(arguments, [t.detach().double().contiguous() for t in tensors(arguments)])


def disagreement(
    actual: Tensor, oracle: Tensor, eager: Tensor | None = None, arithmetic: torch.dtype = torch.float64
) -> str | None:
    """Return why `actual`, computed in `arithmetic`, is outside the error budget, or None. Integers must be equal.

    Without what `eager` PyTorch computes, `actual` is that itself, and UNITS_OF_EAGER take the place of its error.

    >>> import torch
    >>> exact = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    >>> disagreement(exact.float() + 1e-7, exact, exact.float(), torch.float32) is None
    True
    >>> disagreement(exact.float() + 1e-5, exact, exact.float(), torch.float32)
    'off by 1e-05 at worst (nan: NaN, or never written), the budget is 4.77e-06'
    """
    if actual.shape != oracle.shape:
        return f"shape {tuple(actual.shape)}, expected {tuple(oracle.shape)}"
    if not oracle.is_floating_point():
        other = int((actual != oracle).sum())
        return f"{other} of {oracle.numel()} integers differ" if other else None
    got = actual.double()
    finite = oracle.isfinite()
    if not torch.equal(got[~finite].nan_to_num(7.0), oracle[~finite].nan_to_num(7.0)):
        return "NaN or infinity differs from the oracle's"
    if oracle[finite].numel() == 0:
        return None
    kind = torch.finfo(actual.dtype)
    rounding = max(kind.eps, torch.finfo(arithmetic).eps)
    scale = oracle[finite].abs().max().item()
    budget = UNITS * rounding * scale + kind.smallest_normal * kind.eps
    if eager is None:
        budget += UNITS_OF_EAGER * torch.finfo(arithmetic).eps * scale
    else:
        budget += UNITS_OF_ARITHMETIC * torch.finfo(arithmetic).eps * scale
        budget += (eager.double() - oracle)[finite].abs().max().item()
    error = (got - oracle)[finite].abs()
    if bool((error <= budget).all()):
        return None
    return f"off by {error.max().item():.3g} at worst (nan: NaN, or never written), the budget is {budget:.3g}"


@contextlib.contextmanager
def _as_ever() -> Iterator[None]:
    """Let PyTorch choose its usual kernels.

    Where it must be deterministic it resizes on a GPU by a + t (b - a), which is NaN where a is infinite.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def compare(
    function: Callable[..., Any],
    reference: Callable[..., Any],
    arguments: Sequence[Any],
    title: str = "the function",
    gradients: bool = True,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run both passes of `function` and hold them to the error budget.

    The reference is free to take algorithms that are not deterministic; the function runs as PyTorch is set.

    Args:
        function: of the arguments, what is tested; a tensor or a sequence of them.
        reference: the same in plain PyTorch, of any element type. As the function itself it is eager PyTorch.
        arguments: tensors, and lists of tensors.
        title: what an error calls the function.
        gradients: whether it has any.

    Returns:
        the outputs, and the gradient of each tensor.

    Raises:
        AssertionError: an output or a gradient is outside the budget, or of another element type than the reference's.
    """
    wanted = [gradients] * len(tensors(arguments))
    outputs, grads = both_passes(lambda a: listed(function(*a)), arguments, wanted=wanted)
    upstream = cotangents(outputs) if gradients else []
    with _as_ever():
        oracles, eagers = (
            list(itertools.chain(*both_passes(lambda a: listed(reference(*a)), a, given, wanted)))
            for a, given in ((doubled(arguments), [g.double() for g in upstream]), (arguments, upstream))
        )
    arithmetic = functools.reduce(torch.promote_types, (o.dtype for o in outputs), torch.float32)
    names = [f"output {i}" for i in range(len(outputs))] + [f"gradient {i}" for i in range(len(grads))]
    for name, actual, oracle, eager in zip(names, outputs + grads, oracles, eagers, strict=True):
        assert actual.dtype == eager.dtype, f"{name} of {title} has dtype {actual.dtype}, expected {eager.dtype}"
        reason = disagreement(actual, oracle, None if function is reference else eager, arithmetic)
        assert reason is None, f"{name} of {title}: {reason}"
    return outputs, grads


def check(case: Case, arguments: Sequence[Any], backend: str) -> tuple[list[Tensor], list[Tensor]]:
    """Run `compare` on the operation of the case: `backend` against the reference."""

    def on(name: str) -> Callable[..., list[Tensor]]:
        return lambda *a: case.outputs(a, name)

    reference = on("reference")
    function = reference if backend == "reference" else on(backend)
    return compare(function, reference, arguments, f"{case} on {backend}", differentiable(case.op))
