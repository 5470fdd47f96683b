"""Every CUDA kernel over the table of cases: the right values, no access out of bounds, no race."""

from __future__ import annotations

import build
import pytest
import sanitized


@pytest.mark.parametrize("sanitizer", ["none", "address", "thread"])
def test_values(sanitizer: str) -> None:
    """In every type; under AddressSanitizer and UndefinedBehaviorSanitizer; under ThreadSanitizer.

    Under a sanitizer in float32 alone. With AFA_KERNELS_GATE=all under the first two in every type.
    """
    every_type = sanitizer == "none" or (sanitizer == "address" and build.EVERYTHING)
    done = sanitized.run(sanitizer, build.library(sanitizer, float32=not every_type))
    assert done.returncode == 0, (done.stdout + done.stderr)[-20000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout and "Sanitizer" not in done.stdout + done.stderr
