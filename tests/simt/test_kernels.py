"""Every CUDA kernel over the table of cases: the right values, no access out of bounds, no race."""

from __future__ import annotations

import build
import pytest
import sanitized


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_values(sanitizer: str) -> None:
    """Under AddressSanitizer and UndefinedBehaviorSanitizer; under ThreadSanitizer."""
    done = sanitized.run(sanitizer, build.library(sanitizer, float32=sanitizer == "thread"))
    assert done.returncode == 0, (done.stdout + done.stderr)[-20000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout and "Sanitizer" not in done.stdout + done.stderr
