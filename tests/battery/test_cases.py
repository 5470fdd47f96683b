"""The tables of cases are complete: no operation is missing, and none goes round a part of the battery unsaid."""

from __future__ import annotations

import importlib
from pathlib import Path

import cases
import pytest
from support.parts import NOT_FOR
from support.session import has_kernel, on_triton

from afa_kernels import backends
from afa_kernels.testing import differentiable, operations

pytestmark = pytest.mark.once


@pytest.mark.parametrize("op", operations())
def test_an_operation_has_cases(op: str, kernel: str) -> None:
    """Thorough ones and, for gradcheck, one of few values; large ones of both kinds where Triton has kernels of it."""
    table, large = cases.of(op, "CASES"), cases.of(op, "LARGE_CASES")
    assert {case.op for case in (*table, *large)} == {op}
    assert any(case.thorough for case in table)
    assert any("few values" in case.covers for case in table) or not differentiable(op)
    assert len({str(case) for case in table}) == len(table), "two cases of one name"
    assert has_kernel(kernel, f"{op}_forward") != backends.made_of_aten(op)
    assert {case.thorough for case in large} == ({True, False} if on_triton(op) else set())


def test_a_file_of_cases_is_an_operation() -> None:
    folder = Path(cases.__file__).parent
    assert {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")} == set(operations())


def test_an_operation_without_cases_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"new.py\) has no cases: add tests/cases/new.py"):
        cases.of("new", "CASES")


@pytest.mark.parametrize("test, ops", NOT_FOR.items())
def test_an_exemption_names_a_test_and_operations(test: str, ops: dict[str, str]) -> None:
    modules = [importlib.import_module(path.stem) for path in Path(__file__).parent.glob("test_*.py")]
    assert any(hasattr(module, test) for module in modules)
    assert set(ops) <= set(operations())
