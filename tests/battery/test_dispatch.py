"""Every operation as the dispatcher, autocast and the fake tensors see it."""

from __future__ import annotations

import pytest
import torch
from cases import CASES
from support.parts import FIRST, THOROUGH, once, over
from support.recorder import recorded, replaced
from torch._subclasses import FakeTensorMode

import afa_kernels
from afa_kernels.testing import DEVICE, Case, differentiable, gradients, listed, tensors

pytestmark = [pytest.mark.usefixtures("poisoned"), pytest.mark.device]


@over(THOROUGH)
def test_opcheck(case: Case, kernel: str) -> None:
    """The dispatcher ops, forward and backward: schema, autograd registration, fake kernel, AOTAutograd."""
    for func, args, _ in recorded(case, torch.float32, kernel):
        has_gradient = differentiable(case.op) and not func._schema.name.endswith("_backward")
        fresh = replaced(args, lambda t: t.detach().requires_grad_(has_gradient and t.is_floating_point()))
        with afa_kernels.use_backend(kernel):
            torch.library.opcheck(func, fresh)


@once
@over([case for case in CASES if case.dtypes[0] == torch.float32])
def test_fake_strides(case: Case, kernel: str) -> None:
    """A fake kernel describes what the real one returns, to the stride."""
    if 0 in (t.numel() for t in tensors(case.inputs(torch.float32))):
        return
    for func, args, result in recorded(case, torch.float32, kernel):
        with FakeTensorMode() as mode:
            fakes = func(*replaced(args, mode.from_tensor))
        real, fake = ([] if r is None else listed(r) for r in (result, fakes))
        assert [(f.shape, f.stride(), f.dtype) for f in fake] == [(r.shape, r.stride(), r.dtype) for r in real]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@over(FIRST)
def test_autocast(case: Case, dtype: torch.dtype, backend: str) -> None:
    """Fusion and pooling keep the type of the feature maps; what fuses scales, and a loss, comes in float32."""
    arguments = case.inputs(dtype)
    wanted = [differentiable(case.op)] * len(tensors(arguments))
    plain = case.outputs(arguments, backend)
    with torch.autocast(DEVICE, torch.bfloat16):
        outputs = case.outputs(arguments, backend)
        grads = gradients(lambda a: case.outputs(a, backend), arguments, wanted=wanted)
    expected = torch.float32 if case.op.startswith(("scale_space", "hierarchical", "resized_cross")) else dtype
    assert [o.dtype for o in outputs] == [
        expected if o.is_floating_point() else p.dtype for o, p in zip(outputs, plain)
    ]
    torch.testing.assert_close([o.to(p.dtype) for o, p in zip(outputs, plain, strict=True)], plain)
    assert all(g.dtype == dtype and g.isfinite().all() for g in grads)
