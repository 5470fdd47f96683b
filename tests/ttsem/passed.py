"""Run every case under ttsem, and if all passed, record of what: `make gate`.

    PYTHONPATH=. python tests/ttsem/passed.py

passed.txt has the digest of all that such a run is of. Where it is the same, the session is its planted faults.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORD = HERE / "passed.txt"
EVERYTHING = os.environ.get("AFA_KERNELS_GATE") == "all"  # as in tests/gate
PACKAGES = ("torch", "triton", "ttsem")
# From a call of an operation to its kernels, the values they should give, and the cases.
SOURCES = (
    *("afa_kernels/*.py", "afa_kernels/ops/*.py", "afa_kernels/triton_kernels/*.py", "afa_kernels/reference/*.py"),
    *("afa_kernels/testing/*.py", "tests/conftest.py", "tests/support/*.py", "tests/cases/*.py", "tests/ttsem/*.py"),
)


def digest() -> str:
    versions = [importlib.metadata.version(package).partition("+")[0] for package in PACKAGES]
    sources = [(path.name, path.read_text()) for pattern in SOURCES for path in sorted(ROOT.glob(pattern))]
    return hashlib.sha256(repr((versions, sources)).encode()).hexdigest()[:16]


def already() -> bool:
    return not EVERYTHING and RECORD.read_text().strip() == digest()


if __name__ == "__main__":
    environment = {**os.environ, "AFA_KERNELS_GATE": "all"}
    command = [sys.executable, "-m", "pytest", HERE, "-n", "auto", "--maxprocesses", "8"]
    if (status := subprocess.run(command, env=environment).returncode) == 0:
        RECORD.write_text(digest() + "\n")
    sys.exit(status)
