"""The tables of cases, a file for each operation: what the battery, the gate and ttsem go over.

CASES are small, and run everywhere. Each says which corner it covers; one that is `thorough` also goes through opcheck
and torch.compile, and those of "few values" through gradcheck. LARGE_CASES have the sizes of real networks, both that
16 divides and that it does not, in both memory formats: their Triton launches are compiled offline and never run.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from afa_kernels.testing import operations


def of(op: str, name: str) -> Any:
    """Return what the file of the operation's cases defines as `name`: the table CASES or LARGE_CASES, above all."""
    if importlib.util.find_spec(f"cases.{op}") is None:
        raise LookupError(f"the operation {op} (afa_kernels/ops/{op}.py) has no cases: add tests/cases/{op}.py")
    return getattr(importlib.import_module(f"cases.{op}"), name)


CASES = tuple(case for op in operations() for case in of(op, "CASES"))
LARGE_CASES = tuple(case for op in operations() for case in of(op, "LARGE_CASES"))
