"""A session of its own, without a GPU: the launches of the large cases, compiled offline for GPUs that are not here.

It needs Triton's compiler, so TRITON_INTERPRET must not be set. It shows that every kernel compiles for every target
without spilling registers, and how wide its accesses are; it runs nothing and measures no time.
"""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    raise pytest.UsageError("tests/gate needs Triton's compiler: unset TRITON_INTERPRET")

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
