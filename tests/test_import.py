"""Importing afa_kernels imports torch and itself, loads no library and asks no device anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.once

ADDED = """
import sys
import torch
before = set(sys.modules)
import afa_kernels
print(*sorted(set(sys.modules) - before))
"""

MAPPED = """
import torch
import afa_kernels
{then}
print(any("_native" in line for line in open("/proc/self/maps")))
"""


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_adds_nothing_heavy() -> None:
    added = run(ADDED).split()
    assert "afa_kernels.ops.attentive_fusion" in added
    strangers = [name for name in added if name.split(".")[0] not in {"afa_kernels", *sys.stdlib_module_names}]
    assert strangers == []
    assert not [name for name in added if name.startswith(("afa_kernels.triton_kernels", "afa_kernels.testing"))]


def test_loads_no_native_library(kernel: str) -> None:
    assert run(MAPPED.format(then="")) == "False\n"
    assert run(MAPPED.format(then="afa_kernels.scale_space_weights(torch.zeros(1, 1, 1, 1))")) == "True\n"


def test_asks_no_device() -> None:
    assert run("import torch, afa_kernels; print(torch.cuda.is_initialized())") == "False\n"


def test_an_old_torch_is_refused() -> None:
    program = "import torch; torch.__version__ = '2.10.0+cu128'; import afa_kernels"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.endswith("ImportError: afa_kernels needs torch >= 2.11, found 2.10.0+cu128\n")
