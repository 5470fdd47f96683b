"""Proofs of the Triton kernels that take long: a session has little of one that passed and is of nothing that changed.

    PYTHONPATH=. python tests/support/proofs.py ttsem interpreter

runs all of them, and records the digest of what they are of if all tests passed, in proofs.json; so does `make gate`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_suffix(".json")
EVERYTHING = os.environ.get("AFA_KERNELS_GATE") == "all"  # as in tests/gate
PACKAGES = {"ttsem": ("torch", "triton", "ttsem"), "interpreter": ("torch", "triton")}
FOLDER = {"ttsem": "tests/ttsem", "interpreter": "tests/battery"}
# From a call of an operation to its kernels, the values they should give, and the cases.
SOURCES = (
    *("afa_kernels/*.py", "afa_kernels/ops/*.py", "afa_kernels/triton_kernels/*.py", "afa_kernels/aten_kernels/*.py"),
    *("afa_kernels/reference/*.py", "afa_kernels/testing/*.py"),
    *("tests/conftest.py", "tests/support/*.py", "tests/cases/*.py"),
)


def digest(proof: str) -> str:
    versions = [importlib.metadata.version(package).partition("+")[0] for package in PACKAGES[proof]]
    patterns = (*SOURCES, f"{FOLDER[proof]}/*.py")
    sources = [(path.name, path.read_text()) for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return hashlib.sha256(repr((versions, sources)).encode()).hexdigest()[:16]


@functools.cache
def passed(proof: str) -> bool:
    """Whether all of it has passed on what is here."""
    return not EVERYTHING and json.loads(RECORD.read_text()).get(proof) == digest(proof)


def prove(proof: str) -> int:
    environment = {**os.environ, "AFA_KERNELS_GATE": "all"}
    if proof == "interpreter":
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", str(ROOT / FOLDER[proof]), "-n", "auto", "--maxprocesses", "8"]
    status = subprocess.run(command, env=environment).returncode
    if status == 0:
        RECORD.write_text(json.dumps({**json.loads(RECORD.read_text()), proof: digest(proof)}, indent=2) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(max(prove(proof) for proof in sys.argv[1:]))
