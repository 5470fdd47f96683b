"""Every CUDA kernel over the table of cases: the right values, no access out of bounds, no race."""

from __future__ import annotations

from pathlib import Path

import build
import pytest
import sanitized

WITHOUT_RACES = Path(__file__).with_name("without_races.txt")  # the digest of what ThreadSanitizer has passed


@pytest.mark.parametrize("sanitizer", ["none", "address", "thread"])
def test_values(sanitizer: str) -> None:
    """In every type; under AddressSanitizer and UndefinedBehaviorSanitizer; under ThreadSanitizer.

    Under a sanitizer in float32 alone. With AFA_KERNELS_GATE=all under the first two in every type, and under the last,
    which takes two minutes, although nothing has changed since it passed; it then rewrites without_races.txt.
    """
    digest = build.digest_of_races()
    if sanitizer == "thread" and not build.EVERYTHING and WITHOUT_RACES.read_text().strip() == digest:
        pytest.skip("the kernels are those that ThreadSanitizer has passed: make gate runs it again")
    every_type = sanitizer == "none" or (sanitizer == "address" and build.EVERYTHING)
    done = sanitized.run(sanitizer, build.library(sanitizer, float32=not every_type))
    assert done.returncode == 0, (done.stdout + done.stderr)[-20000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout and "Sanitizer" not in done.stdout + done.stderr
    if sanitizer == "thread" and build.EVERYTHING:
        WITHOUT_RACES.write_text(digest + "\n")
