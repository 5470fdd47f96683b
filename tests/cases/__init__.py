"""The tables of cases, a file for each operation: what the battery, the gate and ttsem go over.

CASES are small, and run everywhere. Each says which corner it covers; one that is `thorough` also goes through opcheck
and torch.compile, and those of "few values" through gradcheck. LARGE_CASES have the sizes of real networks, both that
16 divides and that it does not, in both memory formats: their Triton launches are compiled offline and never run.
"""

from __future__ import annotations

import importlib
import importlib.util

from afa_kernels.testing import Case, operations


def of(op: str, table: str) -> tuple[Case, ...]:
    """Return the table CASES or LARGE_CASES of the operation."""
    if importlib.util.find_spec(f"cases.{op}") is None:
        raise LookupError(f"the operation {op} (afa_kernels/ops/{op}.py) has no cases: add tests/cases/{op}.py")
    return getattr(importlib.import_module(f"cases.{op}"), table)


CASES = tuple(case for op in operations() for case in of(op, "CASES"))
LARGE_CASES = tuple(case for op in operations() for case in of(op, "LARGE_CASES"))
