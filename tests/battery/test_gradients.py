"""The gradients of every operation, whatever is asked for and whatever comes from upstream."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.parts import FIRST, SMALL, THOROUGH, over, roles
from support.recorder import Recorder, backward_stems, stems
from torch import Tensor

from afa_kernels import backends
from afa_kernels.testing import DEVICE, LAYOUTS, Case, cotangents, doubled, gradients, listed, tensors, with_tensors

pytestmark = [pytest.mark.usefixtures("poisoned"), pytest.mark.device]


@over(SMALL, gradient=True, all_interpreted=True)
def test_gradcheck(case: Case, backend: str) -> None:
    leaves = [t.requires_grad_() for t in tensors(case.inputs(torch.float64))]
    fast = backend == "triton"  # its interpreter takes as long for a call as the others take for a hundred
    assert torch.autograd.gradcheck(
        lambda *new: tuple(case.outputs(with_tensors(case.inputs(torch.float64), new), backend)), leaves, fast_mode=fast
    )


@over(FIRST, gradient=True)
def test_partial_requires_grad(case: Case, kernel: str) -> None:
    """A gradient nobody asked for is not computed; the others do not change by a bit, but on a GPU by a rounding.

    There a kernel that leaves something out is compiled anew, and which products are fused into sums is the compiler's.
    """
    arguments = case.inputs(torch.float32)
    every = gradients(lambda a: case.outputs(a, kernel), arguments)
    alone = [[i == j for i in range(len(every))] for j in range(len(every))]
    for wanted in alone + [[not w for w in one] for one in alone if len(one) > 1]:
        with Recorder() as recorder:
            grads = gradients(lambda a: case.outputs(a, kernel), arguments, wanted=wanted)
        asked = [e for e, w in zip(every, wanted, strict=True) if w]
        for grad, expected in zip(grads, asked, strict=True):
            # The convolutions of ATen choose by what is asked for.
            if backends.made_of_aten(case.op) or DEVICE != "cpu":
                torch.testing.assert_close(grad, expected)
            else:
                assert torch.equal(grad, expected)
        if len(stems(case)) == 1:
            (_, _, computed) = recorder.calls[-1]
            assert len(listed(computed)) == sum(wanted)


@over(FIRST, gradient=True)
def test_nothing_recorded_without_grad(case: Case, backend: str) -> None:
    arguments = case.inputs(torch.float32)
    assert not any(o.requires_grad for o in case.outputs(arguments, backend))
    for t in tensors(arguments):
        t.requires_grad_()
    assert all(o.requires_grad for o in case.outputs(arguments, backend))
    with torch.no_grad():
        assert not any(o.requires_grad for o in case.outputs(arguments, backend))


@over(THOROUGH, gradient=True)
def test_gradient_of_a_sum(case: Case, backend: str) -> None:
    """The upstream gradient of a sum is one number expanded to the whole shape, with strides of zero."""
    arguments = case.inputs(torch.float32)

    def expanded(outputs: list[Tensor]) -> list[Tensor]:
        return [o.new_ones(()).expand(o.shape) for o in outputs]

    def dense(outputs: list[Tensor]) -> list[Tensor]:
        return [o.new_ones(o.shape) for o in outputs]

    both = (gradients(lambda a: case.outputs(a, backend), arguments, g) for g in (expanded, dense))
    for got, expected in zip(*both):
        torch.testing.assert_close(got, expected)


@over(THOROUGH, gradient=True)
def test_upstream_gradient_in_any_layout(case: Case, kernel: str) -> None:
    arguments = case.inputs(torch.float32)
    plain = gradients(lambda a: case.outputs(a, kernel), arguments)
    for change in ("channels_last", "permuted", "sliced"):
        changed = gradients(
            lambda a: case.outputs(a, kernel),
            arguments,
            lambda outputs: [LAYOUTS[change](g) for g in cotangents(outputs)],
        )
        if backends.made_of_aten(case.op):  # whose convolutions choose by the layout
            torch.testing.assert_close(changed, plain)
        else:
            assert all(torch.equal(c, p) for c, p in zip(changed, plain, strict=True)), change


@over(FIRST, gradient=True)
def test_double_backward(case: Case, backend: str) -> None:
    """The kernels are differentiable once and say so; the reference is differentiable as often as one likes."""
    arguments = case.inputs(torch.float64)
    leaves = [t.requires_grad_() for t in tensors(arguments)]
    outputs = case.outputs(with_tensors(arguments, leaves), backend)
    grads = torch.autograd.grad(sum((o * o).sum() for o in outputs), leaves, create_graph=True)
    total = sum((g * g).sum() for g in grads)
    if backend == "reference":
        assert all(g.isfinite().all() for g in torch.autograd.grad(total, leaves))
    else:
        message = f"({'|'.join(backward_stems(case))}) is differentiable once.*use_backend.'reference'."
        with pytest.raises(NotImplementedError, match=message):
            torch.autograd.grad(total, leaves)


def every_second(x: Tensor) -> Tensor:
    """The same values with gaps between them."""
    return x if x.dim() == 0 else torch.stack([x, x], -1)[..., 0]


def other_axes_inside(x: Tensor) -> Tensor:
    """The same values, the first axis innermost."""
    return x if x.dim() == 0 else x.movedim(0, -1).contiguous().movedim(-1, 0)


@pytest.mark.parametrize("change", [every_second, other_axes_inside])
@over(THOROUGH, gradient=True)
def test_saved_tensors_come_back_in_other_strides(case: Case, change: Callable[[Tensor], Tensor], kernel: str) -> None:
    """As saved_tensors_hooks may give them: offloaded, compressed and back."""
    arguments = case.inputs(torch.float32)
    plain = gradients(lambda a: case.outputs(a, kernel), arguments)
    seen: list[Tensor] = []

    def unpack(x: Tensor) -> Tensor:
        seen.append(x)
        return change(x)

    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, unpack):
        changed = gradients(lambda a: case.outputs(a, kernel), arguments)
    assert seen
    torch.testing.assert_close(changed, plain)


@over(THOROUGH, gradient=True)
def test_upstream_gradient_that_is_not_finite(case: Case, backend: str) -> None:
    """It reaches what it reaches in the reference in float64, as what it is there, and nothing else."""
    arguments = case.inputs(torch.float32)

    def upstream(outputs: list[Tensor]) -> list[Tensor]:
        grads = cotangents(outputs)
        for value, grad in zip((torch.inf, torch.nan), 2 * grads):
            grad.view(-1)[-1] = value
        return grads

    got, oracle = (
        gradients(lambda a: case.outputs(a, name), given, upstream)
        for name, given in ((backend, arguments), ("reference", doubled(arguments)))
    )
    for i, (g, o) in enumerate(zip(got, oracle, strict=True)):
        assert torch.equal(g.isfinite(), o.isfinite()), f"gradient {i}"
        assert torch.equal(g.isnan(), o.isnan()), f"gradient {i}"


@over([case for case in THOROUGH if "parameter" in roles(case)])
def test_gradients_of_parameters_have_their_strides(case: Case, kernel: str) -> None:
    """Those of channels_last too, in which 1x1 weights have others: DDP warns of a gradient in other strides."""
    arguments = case.inputs(torch.float32)

    def strided(x: Tensor) -> Tensor:
        if x.dim() < 4:
            return x
        _, inputs, height, width = x.shape
        strides = (inputs * height * width, 1, inputs * width, inputs)
        return torch.empty_strided(x.shape, strides, device=x.device).copy_(x)

    given = [strided(t) if role == "parameter" else t for t, role in zip(tensors(arguments), roles(case), strict=True)]
    grads = gradients(lambda a: case.outputs(a, kernel), with_tensors(arguments, given))
    for grad, x, role in zip(grads, given, roles(case), strict=True):
        if role == "parameter":
            assert grad.stride() == x.stride()
