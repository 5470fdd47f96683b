"""Every Triton kernel over the table of cases: values, memory and races."""

from __future__ import annotations

import pytest
from ttsem import sanitize

from afa_kernels.testing import CASES, Case, Dtypes, check

VALUES_ONLY = (
    "saturated",
    "NaN",
    "a list",
    "sixteen scales by",
    "sixteen inputs",
)  # corners that move no address: left to the interpreter
CHOSEN = [
    (case, dtypes)
    for case in CASES
    for dtypes in (case.dtypes if case.thorough or case.op == "attentive_fusion" else case.dtypes[-1:])
    if not case.covers.startswith(VALUES_ONLY)
]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case, dtypes", CHOSEN, ids=str)
def test_values(case: Case, dtypes: Dtypes, checked: sanitize.Session) -> None:
    outputs, _ = check(case, case.inputs(dtypes), "triton")
    assert checked.launches > 0 or outputs[0].numel() == 0
