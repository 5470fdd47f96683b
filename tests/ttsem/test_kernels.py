"""Every Triton kernel over the table of cases: values, memory and races."""

from __future__ import annotations

import pytest
from ttsem import sanitize

from afa_kernels.testing import CASES, Case, Dtypes, check


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    "case, dtypes",
    [
        (case, dtypes)
        for case in CASES
        for dtypes in (case.dtypes if case.thorough or case.op == "attentive_fusion" else case.dtypes[-1:])
    ],
    ids=str,
)
def test_values(case: Case, dtypes: Dtypes, checked: sanitize.Session) -> None:
    outputs, _ = check(case, case.inputs(dtypes), "triton")
    assert checked.launches > 0 or outputs[0].numel() == 0
