"""Every operation in forward mode and inside torch.func: the right value, or an error that names the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.parts import FIRST, SMALL, once, over
from torch import Tensor
from torch.autograd import forward_ad

import afa_kernels
from afa_kernels.testing import Case, cotangents, tensors, with_tensors

pytestmark = [once, pytest.mark.usefixtures("poisoned")]

FIRST_SMALL = list({case.op: case for case in reversed(SMALL)}.values())


def reference(function: Callable[..., Any], *arguments: Any) -> Any:
    with afa_kernels.use_backend("reference"):
        return function(*arguments)


def of_tensors(case: Case) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """The operation as a function of its tensors alone, and the tensors."""
    arguments, function = case.inputs(torch.float64), case.functional()
    return lambda *new: tuple(function(*with_tensors(arguments, new))), tensors(arguments)


def right_or_refused(function: Callable[..., Any], *arguments: Any) -> None:
    """As on the reference, or NotImplementedError with the way out."""
    expected = reference(function, *arguments)
    try:
        got = function(*arguments)
    except NotImplementedError as error:
        assert "use_backend('reference')" in str(error)
        return
    torch.testing.assert_close(got, expected)


@over(FIRST)
def test_tangents_are_not_dropped(case: Case, backend: str) -> None:
    """Of each argument alone, inside torch.autograd.forward_ad."""
    function, given = of_tensors(case)
    for i, tangent in enumerate(cotangents(given)):

        def tangents(*inputs: Tensor, i: int = i, tangent: Tensor = tangent) -> list[Tensor]:
            with forward_ad.dual_level():
                duals = [forward_ad.make_dual(t, tangent) if j == i else t for j, t in enumerate(inputs)]
                pairs = [forward_ad.unpack_dual(out) for out in function(*duals)]
            return [p.tangent if p.tangent is not None else torch.zeros_like(p.primal) for p in pairs]

        right_or_refused(tangents, *given)


@over(FIRST)
def test_jvp(case: Case, backend: str) -> None:
    function, given = of_tensors(case)
    right_or_refused(lambda *inputs: torch.func.jvp(function, inputs, tuple(cotangents(given)))[1], *given)


@over(FIRST_SMALL[:2], gradient=True)
def test_gradcheck_with_forward_mode(case: Case, backend: str) -> None:
    """It passes, or says that there is no forward mode; it does not call a dropped tangent a wrong one."""
    function, given = of_tensors(case)
    try:
        assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in given], check_forward_ad=True)
    except NotImplementedError as error:
        assert "use_backend('reference')" in str(error)


@over(FIRST, gradient=True)
def test_func_grad(case: Case, backend: str) -> None:
    function, given = of_tensors(case)

    def total(*inputs: Tensor) -> Tensor:
        return sum((out * out).sum() for out in function(*inputs))  # type: ignore[return-value]

    right_or_refused(torch.func.grad(total, tuple(range(len(given)))), *given)


@over(FIRST_SMALL, gradient=True)
def test_jacrev(case: Case, backend: str) -> None:
    """torch.func.jacrev, which is vmap over backward."""
    function, given = of_tensors(case)
    right_or_refused(torch.func.jacrev(function, tuple(range(len(given)))), *given)


@over(FIRST_SMALL, gradient=True)
def test_vectorized_jacobian(case: Case, backend: str) -> None:
    """Of torch.autograd.functional, whose vmap is not torch.func's."""
    function, given = of_tensors(case)
    right_or_refused(lambda *inputs: torch.autograd.functional.jacobian(function, inputs, vectorize=True), *given)


@over(FIRST)
def test_vmap(case: Case, backend: str) -> None:
    """Over every argument, over each alone, and over its gradient."""
    function, given = of_tensors(case)
    batched = [torch.stack([t, t.flip(0), 2 * t]) for t in given]
    every = tuple(0 for _ in given)
    right_or_refused(torch.func.vmap(function), *batched)
    for i in range(len(given)):
        dims = tuple(0 if j == i else None for j in range(len(given)))
        right_or_refused(torch.func.vmap(function, dims), *(batched[j] if j == i else t for j, t in enumerate(given)))
    if all(out.requires_grad for out in function(*(t.clone().requires_grad_() for t in given))):

        def total(*inputs: Tensor) -> Tensor:
            return sum(out.sum() for out in function(*inputs))  # type: ignore[return-value]

        right_or_refused(torch.func.vmap(torch.func.grad(total), every), *batched)


@over(FIRST_SMALL, gradient=True)
def test_nested_gradients(case: Case, backend: str) -> None:
    """A level of torch.func inside another that differentiates in another argument, or in the same a second time."""
    function, given = of_tensors(case)
    first, *rest = given
    others = tuple(range(len(rest)))

    def inner(*inputs: Tensor) -> Tensor:
        """What torch.func.grad_and_value gives as the value, of which the outer level takes a first derivative."""

        def total(x: Tensor) -> Tensor:
            return sum(out.square().sum() for out in function(x, *inputs))  # type: ignore[return-value]

        return torch.func.grad_and_value(total)(first)[1]

    def twice(x: Tensor) -> Tensor:
        def total(x: Tensor) -> Tensor:
            return sum(out.square().sum() for out in function(x, *rest))  # type: ignore[return-value]

        return torch.func.grad(total)(x).square().sum()

    if rest:
        right_or_refused(torch.func.grad(inner, others), *rest)
        right_or_refused(lambda *r: torch.func.jvp(inner, r, tuple(torch.ones_like(t) for t in r))[1], *rest)
    right_or_refused(torch.func.grad(twice), first)
    right_or_refused(lambda x: torch.func.jvp(twice, (x,), (torch.ones_like(x),))[1], first)
