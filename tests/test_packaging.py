"""What a source distribution and a wheel contain, and which of the two wheels is built. Nothing is compiled here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77")

ROOT = Path(__file__).parents[1]
MADE = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".cache", ".hypothesis", "build", "dist", "demo", "*.egg-info", "*.so", "__pycache__"
)
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; "  # as in an isolated build: no module of that name is found
WITH_TORCH = ""

pytestmark = pytest.mark.once


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("AFA_KERNELS_NATIVE", "CXX")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=300)


def build(kind: str, folder: Path) -> Path:
    """Build a "sdist" or "wheel" of the tree `folder` as pip's isolated build does; the path of what it made."""
    hook = f"import setuptools.build_meta as backend; print('made:', backend.build_{kind}('dist'))"
    done = python(WITHOUT_TORCH + hook, folder)
    assert done.returncode == 0, done.stderr
    return folder / "dist" / done.stdout.rsplit("made: ", 1)[1].strip()


def files(folder: Path, *patterns: str) -> set[str]:
    found: Iterable[Path] = (path for pattern in patterns for path in folder.rglob(pattern) if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution, built from a copy of this tree."""
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "tree", ignore=MADE)
    shutil.unpack_archive(build("sdist", folder / "tree"), folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    return build("wheel", sdist)


def test_the_sdist_has_every_source(sdist: Path) -> None:
    expected = files(ROOT / "csrc", "*") | files(ROOT / "afa_kernels", "*.py", "py.typed")
    expected |= files(ROOT / "tests", "*.py", "*.npz", "*.json") | files(ROOT / "benchmarks", "*.py", "*.jsonl")
    expected |= files(ROOT / "docs", "*.md", "*.png") | files(ROOT / "examples", "*.py", "*.md", "*.pt", "*.json")
    expected |= {path.name for path in ROOT.iterdir() if path.suffix in (".md", ".toml", ".py", ".cff")}
    expected |= {"LICENSE", "MANIFEST.in", "Makefile"}
    packed = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert expected - packed == set()
    assert {path for path in packed if path.endswith((".so", ".pyc", ".o"))} == set()


def test_the_wheel_without_the_library_is_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert packed == files(ROOT / "afa_kernels", "*.py", "py.typed")
    assert "License-Expression: Apache-2.0" in metadata and "Project-URL: Paper" in metadata


SOURCES = (
    "from distutils.core import run_setup; d = run_setup('setup.py', stop_after='init'); "
    "print('sources:', *(s for e in d.ext_modules or [] for s in e.sources))"
)


@pytest.mark.parametrize(
    "environment, torch, native",
    [
        ({}, WITH_TORCH, True),
        ({}, WITHOUT_TORCH, False),
        ({"AFA_KERNELS_NATIVE": "0"}, WITH_TORCH, False),
        ({"CXX": "no-such-compiler"}, WITH_TORCH, True),  # which is then an error: the next test
    ],
    ids=["torch", "no torch", "not wanted", "no compiler"],
)
def test_torch_alone_decides_which_wheel_is_built(
    sdist: Path, environment: dict[str, str], torch: str, native: bool
) -> None:
    done = python(torch + "import setuptools; " + SOURCES, sdist, **environment)
    assert done.returncode == 0, done.stderr
    sources = set(done.stdout.rsplit("sources:", 1)[1].split())
    assert sources == (files(ROOT / "csrc", "*.cpp") if native else set())
    assert ("without the C++ library" in done.stderr) == (not native)


@pytest.mark.parametrize(
    "environment, torch, reason",
    [
        ({"AFA_KERNELS_NATIVE": "1"}, WITHOUT_TORCH, "torch is not importable"),
        ({"AFA_KERNELS_NATIVE": "yes"}, WITH_TORCH, "AFA_KERNELS_NATIVE must be 0, 1 or auto, got 'yes'"),
        ({}, "import torch; torch.__version__ = '2.9.1'; ", "needs torch >= 2.11, and torch 2.9.1 is here"),
        ({"CXX": "no-such-compiler"}, WITH_TORCH, "the C++ compiler no-such-compiler is not on the PATH"),
    ],
    ids=["no torch", "no such choice", "an old torch", "no compiler"],
)
def test_a_library_that_cannot_be_built_is_an_error(
    sdist: Path, environment: dict[str, str], torch: str, reason: str
) -> None:
    run = "import sys; sys.argv = ['setup.py', 'build_ext']; exec(open('setup.py').read())"
    done = python(torch + run, sdist, **environment)
    assert done.returncode != 0
    assert reason in done.stderr
