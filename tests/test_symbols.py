"""A compiled library asks for nothing but PyTorch's stable C interface, the CUDA runtime and the standard libraries.

So one build serves every later torch. The objects of csrc/cuda are looked at where nvcc compiles them (tests/cubin).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.symbols import foreign

from afa_kernels import backends

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not on the PATH: install binutils")


@needs_nm
@pytest.mark.parametrize("stem", ["_native", "_native_cuda"])
def test_a_library_asks_for_nothing_else(stem: str) -> None:
    library = backends._library(stem)
    if library is None or library.suffix != ".so":
        pytest.skip(f"{stem} is not built here for a platform of ELF")
    assert not foreign(library)


@needs_nm
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on the PATH")
def test_another_symbol_is_seen(tmp_path: Path) -> None:
    """ATen's C++ functions, which change from release to release, and a function of nobody's."""
    source, code = tmp_path / "asks.cpp", tmp_path / "asks.o"
    source.write_text(
        'namespace at { void empty(); } extern "C" { void aoti_torch_get_dim(); void nobody(); }\n'
        "void ask() { at::empty(); aoti_torch_get_dim(); nobody(); }\n"
    )
    subprocess.run(["g++", "-c", source, "-o", code], check=True)
    assert foreign(code) == ["_ZN2at5emptyEv", "nobody"]
