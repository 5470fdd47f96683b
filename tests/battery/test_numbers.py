"""Options that are numbers of NumPy's, of a tensor without axes, or of a shape that is being traced."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES
from support.parts import once, over, wider
from torch import Tensor

from afa_kernels.testing import Case, operation, operations, tensors, with_tensors

pytestmark = [once, pytest.mark.usefixtures("poisoned")]


class Index:
    """What an integer of another library has."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


INTEGERS: dict[str, Callable[[int], Any]] = {
    "int64 of NumPy": np.int64,
    "int32 of NumPy": np.int32,
    "a tensor without axes": torch.tensor,
    "anything with __index__": Index,
}
NUMBERS = (
    "stride", "padding", "dilation", "groups", "ignore_index", "size", "scales", "eps", "momentum", "activation_slope",
    "label_smoothing",
)  # fmt: skip


def numbers(case: Case) -> dict[str, Any]:
    return {key: o for key, o in case.options.items() if key in NUMBERS and o is not None}


PLAIN = [case for case in reversed(CASES) if case.dtypes[0] == torch.float32 and not case.planted]
WITH_NUMBERS = list({(case.op, *sorted(numbers(case))): case for case in PLAIN if numbers(case)}.values())


@pytest.mark.parametrize("integers", INTEGERS)
@over(WITH_NUMBERS)
def test_numbers_of_any_kind(case: Case, integers: str, backend: str) -> None:
    """The same bits as with numbers of Python's."""

    def other(number: Any) -> Any:
        if isinstance(number, (tuple, list)):
            return tuple(other(n) for n in number)
        return INTEGERS[integers](number) if isinstance(number, int) else np.float64(number)

    arguments = case.inputs(torch.float32)
    options = {key: other(o) for key, o in numbers(case).items()}
    changed = dataclasses.replace(case, options={**case.options, **options})
    for a, b in zip(changed.outputs(arguments, backend), case.outputs(arguments, backend), strict=True):
        assert torch.equal(a, b)


def test_every_number_is_among_them() -> None:
    for op in operations():
        for name, parameter in inspect.signature(operation(op)).parameters.items():
            if "int" in str(parameter.annotation) or "float" in str(parameter.annotation):
                assert name in NUMBERS, f"{name} of {op}"


def has_size(case: Case) -> bool:
    return "size" in inspect.signature(operation(case.op)).parameters


SIZED = list({case.op: case for case in PLAIN if has_size(case)}.values())


def twice(case: Case) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """The operation at twice the height and width of its last prediction, as a function of its tensors."""
    arguments = case.inputs(torch.float32)
    op, options = operation(case.op), {key: o for key, o in case.options.items() if key != "size"}

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = with_tensors(arguments, inputs)
        last = given[0] if isinstance(given[0], Tensor) else given[0][-1]
        height, width = last.shape[2:]
        out = op(*given, size=(2 * height, 2 * width), **options)
        return out if isinstance(out, tuple) else (out,)

    return function, tensors(arguments)


@over(SIZED)
def test_sizes_that_are_symbols(case: Case, kernel: str) -> None:
    """In torch.compile for every size, and in torch.jit.trace, whose sizes are tensors."""
    function, arguments = twice(case)
    given, larger = (wider(case, with_tensors(case.inputs(torch.float32), arguments), more) for more in (40, 70))
    expected = function(*given)
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), expected)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(*larger), function(*larger))
    traced = torch.jit.trace(function, tuple(given), check_trace=False)
    torch.testing.assert_close(traced(*given), expected)
