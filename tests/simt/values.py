"""Every CUDA kernel over the table of cases: values, in NaN-filled outputs between guard bands."""

from __future__ import annotations

import os

import build
import pytest
import torch
from cases import CASES
from support.guard_bands import GuardBands

from afa_kernels.testing import Case, Dtypes, check, tensors, with_tensors

SANITIZER = os.environ.get("AFA_KERNELS_SIMT", "none")


def chosen(case: Case) -> tuple[Dtypes, ...]:
    """What of the table is run. For accesses and races float32 is enough: they depend on addresses alone."""
    if SANITIZER == "none" or (SANITIZER == "address" and build.EVERYTHING):
        return case.dtypes
    shows = SANITIZER == "address" or case.thorough or case.covers.startswith("many channels")
    return (torch.float32,) if shows and torch.float32 in case.dtypes else ()


CHOSEN = [(case, dtypes) for case in CASES if case.op in build.sources() for dtypes in chosen(case)]


@pytest.mark.usefixtures("kernels", "poisoned")
@pytest.mark.parametrize("case, dtypes", CHOSEN, ids=str)
def test_values(case: Case, dtypes: Dtypes, guards: GuardBands) -> None:
    arguments = case.inputs(dtypes)
    inputs = [guards.around(t) for t in tensors(arguments)]
    before = [t.clone() for t in inputs]
    with guards:
        check(case, with_tensors(arguments, inputs), "cuda")
    for t, original in zip(inputs, before, strict=True):
        assert torch.equal(t.nan_to_num(7.0), original.nan_to_num(7.0)), "an input was written to"
