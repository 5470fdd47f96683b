"""Every operation in torch.compile, with fullgraph=True: outputs, gradients and strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.parts import FIRST, THOROUGH, once, over, wider
from torch import Tensor

import afa_kernels
from afa_kernels.testing import Case, both_passes, differentiable, tensors, with_tensors

pytestmark = [pytest.mark.usefixtures("poisoned"), pytest.mark.device]


@over(THOROUGH)
def test_compile(case: Case, kernel: str) -> None:
    assert_compiled_agrees(case, kernel, [case.inputs(torch.float32)], backend="aot_eager", dynamic=False)


@once
@over(FIRST)
def test_compile_dynamic(case: Case, kernel: str) -> None:
    """One compilation serves every size."""
    arguments = case.inputs(torch.float32)
    calls = [
        with_tensors(arguments, wider(case, arguments, more))
        for more in (4, 5, 7)  # so that no height or width is also the number of images, channels or scales
    ]
    assert_compiled_agrees(case, kernel, calls, backend="aot_eager", dynamic=True)


@once
@over(FIRST)
def test_compile_inductor(case: Case, kernel: str) -> None:
    assert_compiled_agrees(case, kernel, [case.inputs(torch.float32)], backend="inductor", dynamic=False)


def assert_compiled_agrees(case: Case, kernel: str, calls: Sequence[Any], backend: str, dynamic: bool) -> None:
    """Outputs and gradients of a compiled function around the operation, which must not compile a second time."""
    function = case.functional()

    def around(*arguments: Any) -> list[Tensor]:
        return [o + 1 for o in function(*arguments)]

    torch.compiler.reset()
    compiled = torch.compile(around, fullgraph=True, dynamic=dynamic, backend=backend)
    with afa_kernels.use_backend(kernel):
        for i, arguments in enumerate(calls):
            wanted = [differentiable(case.op)] * len(tensors(arguments))
            with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
                got = both_passes(lambda a: compiled(*a), arguments, wanted=wanted)
            expected = both_passes(lambda a: around(*a), arguments, wanted=wanted)
            for a, b in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
                torch.testing.assert_close(a, b)
                assert a.stride() == b.stride()
