"""Every CUDA kernel over the table of cases: values, in NaN-filled outputs between guard bands."""

from __future__ import annotations

import build
import pytest
import torch
from cases import CASES
from support.guard_bands import GuardBands
from support.recorder import backward_stems, stems

from afa_kernels.testing import Case, Dtypes, check, gradients, tensors, with_tensors

OPERATIONS = build.operations()
CHOSEN = [(case, dtypes) for case in CASES if case.op in OPERATIONS for dtypes in case.dtypes]

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("case, dtypes", CHOSEN, ids=str)
def test_values(case: Case, dtypes: Dtypes, guards: GuardBands) -> None:
    arguments = case.inputs(dtypes)
    inputs = [guards.around(t) for t in tensors(arguments)]
    before = [t.clone() for t in inputs]
    with guards:
        check(case, with_tensors(arguments, inputs), "cuda")
    for t, original in zip(inputs, before, strict=True):
        assert torch.equal(t.nan_to_num(7.0), original.nan_to_num(7.0)), "an input was written to"
