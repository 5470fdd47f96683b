"""What a source distribution and a wheel contain, and which of the two wheels is built. Nothing is compiled here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from afa_kernels import _torch

pytest.importorskip("setuptools", minversion="77")

ROOT = Path(__file__).parents[1]
MADE = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".cache", ".hypothesis", "build", "dist", "demo", "*.egg-info", "*.so", "__pycache__"
)
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; "
FOUND = (  # what is at hand of torch
    "import importlib.metadata as m; d = m.distributions; "
    "m.distributions = lambda **k: {} if k.get('name') == 'torch' else d(**k); "
)
NO_TORCH, OLD_TORCH = FOUND.format("[]"), FOUND.format("[type('D', (), {'version': '2.10.1+cpu'})]")

pytestmark = pytest.mark.once


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("AFA_KERNELS_NATIVE", "AFA_KERNELS_CUDA", "CXX")
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=300)


def build(kind: str, folder: Path) -> Path:
    """Build a "sdist" or "wheel" without the library of the tree `folder`; the path of what it made."""
    hook = f"import build_backend as backend; print('made:', backend.build_{kind}('dist'))"
    done = python(WITHOUT_TORCH + hook, folder, CXX="no-such-compiler")
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
    expected |= files(ROOT / "tests", "*.py", "*.npz", "*.json")
    expected |= files(ROOT / "benchmarks", "*.py", "*.cpp", "*.jsonl")
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


LINKS = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("source", [None, "https://example.org/afa"])
def test_the_readme_of_a_wheel_has_no_link_into_the_tree(sdist: Path, tmp_path: Path, source: str | None) -> None:
    """PyPI has no file of the tree: such a link is absolute where the address of the repository is told, else named."""
    folder = shutil.copytree(sdist, tmp_path / "tree", ignore=shutil.ignore_patterns("dist"))
    project = folder / "pyproject.toml"
    if source is not None:
        project.write_text(project.read_text().replace("[project.urls]", f'[project.urls]\nSource = "{source}" #', 1))
    with zipfile.ZipFile(build("wheel", folder)) as archive:
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert "Description-Content-Type: text/markdown" in metadata
    found = LINKS.findall(metadata.partition("\n\n")[2])
    assert found and [link for link in found if not link.startswith("https://")] == []
    assert (source is None) == (f"{source}/blob/main/docs/index.md" not in found)
    assert "docs/operations.md" in metadata and "CONTRIBUTING.md" not in LINKS.findall(metadata)


SOURCES = (
    "import sys; sys.argv = ['setup.py', 'bdist_wheel']; import distutils.core as core; core.setup = lambda: None; "
    "import setuptools; setuptools.setup = lambda **k: print('sources:', *(s for e in k.get('ext_modules', []) "
    "for s in e.sources)); exec(compile(open('setup.py').read(), 'setup.py', 'exec'), {'__file__': 'setup.py'})"
)


@pytest.mark.parametrize(
    "environment, native",
    [
        ({}, True),
        ({"AFA_KERNELS_NATIVE": "0"}, False),
        ({"CXX": "no-such-compiler"}, False),
        ({"CXX": "no-such-compiler", "AFA_KERNELS_NATIVE": "1"}, True),  # which is then an error: below
    ],
    ids=["a compiler", "not wanted", "no compiler", "wanted"],
)
def test_a_compiler_decides_which_wheel_is_built(sdist: Path, environment: dict[str, str], native: bool) -> None:
    chosen = {"CXX": sys.executable, "AFA_KERNELS_CUDA": "0"} | environment
    done = python(SOURCES, sdist, **chosen)  # asks whether it is there, runs nothing
    assert done.returncode == 0, done.stderr
    sources = set(done.stdout.rsplit("sources:", 1)[1].split())
    assert sources == (files(ROOT / "csrc", "*.cpp") if native else set())
    assert ("without the C++ library" in done.stderr) == (not native)


WITH_CUDA = (
    "import torch, torch.utils.cpp_extension as e, shutil; which = shutil.which; e.CUDA_HOME = '/cuda'; "
    "torch.version.cuda = '13.0'; "
    "shutil.which = lambda name, **k: '/cuda/bin/nvcc' if name == 'nvcc' else which(name); "
    "import subprocess, types; run = subprocess.run; known = types.SimpleNamespace(stdout='--compress-mode'); "
    "subprocess.run = lambda command, **k: known if command[0] == '/cuda/bin/nvcc' else run(command, **k); "
)
NO_NVCC = "import torch.utils.cpp_extension as e; e.CUDA_HOME = None; "


@pytest.mark.parametrize(
    "environment, torch, cuda",
    [
        ({}, WITH_CUDA, True),
        ({"AFA_KERNELS_CUDA": "0"}, WITH_CUDA, False),
        ({"AFA_KERNELS_NATIVE": "0"}, WITH_CUDA, False),
        ({}, WITH_CUDA + "torch.version.cuda = None; ", False),
        ({}, NO_NVCC, False),
    ],
    ids=["nvcc", "not wanted", "no native library", "no CUDA build of torch", "no nvcc"],
)
def test_the_cuda_library_is_built_where_nvcc_is(
    sdist: Path, environment: dict[str, str], torch: str, cuda: bool
) -> None:
    """Whether or not there is a GPU, which nothing looks for."""
    done = python(torch + "import setuptools; " + SOURCES, sdist, **environment)
    assert done.returncode == 0, done.stderr
    sources = set(done.stdout.rsplit("sources:", 1)[1].split())
    assert {source for source in sources if source.endswith(".cu")} == (files(ROOT / "csrc", "*.cu") if cuda else set())


@pytest.mark.parametrize(
    "found, environment, asked",
    [
        ("", {}, False),
        (NO_TORCH, {}, True),
        (OLD_TORCH, {}, True),
        (NO_TORCH, {"CXX": "no-such-compiler"}, False),
        (NO_TORCH, {"AFA_KERNELS_NATIVE": "0"}, False),
    ],
    ids=["torch", "no torch", "an old torch", "no compiler", "not wanted"],
)
def test_torch_is_a_requirement_of_the_build_where_it_is_not_at_hand(
    sdist: Path, found: str, environment: dict[str, str], asked: bool
) -> None:
    hooks = "b.get_requires_for_build_wheel(), b.get_requires_for_build_sdist()"
    code = f"{found}import build_backend as b; print('asked:', {hooks})"
    done = python(code, sdist, **{"CXX": sys.executable} | environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rsplit("asked: ", 1)[1].strip() == f"{['torch>=2.11', 'ninja'] if asked else []} []"


def test_an_isolated_build_takes_the_torch_of_the_environment(sdist: Path, tmp_path: Path) -> None:
    """As pip isolates: the interpreter of the environment, without its packages on the path."""
    for name in ("torch", "torch-2.13.0.dist-info"):
        (tmp_path / name).mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    (tmp_path / "torch-2.13.0.dist-info" / "METADATA").write_text("Name: torch\nVersion: 2.13.0\n")
    code = (
        "import importlib.util, sys; import setuptools.build_meta; "
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; "
        f"import build_backend as b; b.sysconfig.get_path = lambda name: {str(tmp_path)!r}; "
        "print(importlib.util.find_spec('torch'), b.find_torch(), importlib.util.find_spec('torch').origin)"
    )
    done = python(code, sdist)
    assert done.stdout.split() == ["None", "True", str(tmp_path / "torch" / "__init__.py")], done.stderr


def test_the_oldest_torch_is_one_number() -> None:
    assert f"OLDEST_TORCH = {_torch.OLDEST}" in (ROOT / "build_backend.py").read_text()
    assert f'dependencies = ["torch>={_torch.OLDEST[0]}.{_torch.OLDEST[1]}"]' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    "environment, torch, reason",
    [
        ({"AFA_KERNELS_NATIVE": "1"}, WITHOUT_TORCH, "torch is not importable"),
        ({"AFA_KERNELS_NATIVE": "yes"}, "", "AFA_KERNELS_NATIVE must be 0, 1 or auto, got 'yes'"),
        ({}, "import torch; torch.__version__ = '2.9.1'; ", "needs torch >= 2.11, and torch 2.9.1 is here"),
        (
            {"CXX": "no-such-compiler", "AFA_KERNELS_NATIVE": "1"},
            "",
            "the C++ compiler no-such-compiler is not on the PATH",
        ),
        ({"AFA_KERNELS_CUDA": "1"}, NO_NVCC, "AFA_KERNELS_CUDA=1 asks for the CUDA kernels, and nvcc is not found"),
        ({"AFA_KERNELS_CUDA": "1"}, WITH_CUDA + "torch.version.cuda = None; ", "which is no CUDA build"),
    ],
    ids=["no torch", "no such choice", "an old torch", "no compiler", "no nvcc", "no CUDA build of torch"],
)
def test_a_library_that_cannot_be_built_is_an_error(
    sdist: Path, environment: dict[str, str], torch: str, reason: str
) -> None:
    run = (
        "import sys; sys.argv = ['setup.py', 'build_ext']; "
        "exec(compile(open('setup.py').read(), 'setup.py', 'exec'), {'__file__': 'setup.py', '__name__': '__main__'})"
    )
    done = python(torch + run, sdist, **environment)
    assert done.returncode != 0
    assert reason in done.stderr
