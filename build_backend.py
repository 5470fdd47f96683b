"""setuptools, which for a wheel with the C++ library also needs torch: the build backend that pyproject.toml names.

Where the library can be built and no torch is at hand (`find_torch`), torch is a requirement of the build, which pip
and others bring. setup.py says what is built.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig

from setuptools.build_meta import *  # noqa: F403  (the hooks of PEP 517 and PEP 660)
from setuptools.build_meta import get_requires_for_build_wheel as _requires

OLDEST_TORCH = (2, 11)  # the first whose stable ABI has what the library needs
BUILD_WITH = [f"torch>={OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}", "ninja"]


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    return _requires(config_settings) + (BUILD_WITH if why_not_native() is None and not find_torch() else [])


get_requires_for_build_editable = get_requires_for_build_wheel


def compiler() -> str:
    """The C++ compiler's command: CXX, or the platform's."""
    return os.environ.get("CXX", "cl" if os.name == "nt" else "c++")


def setting(name: str) -> str:
    """The environment variable `name`: "0", "1" or "auto"."""
    asked = os.environ.get(name, "auto")
    if asked not in ("auto", "0", "1"):
        sys.exit(f"afa_kernels: {name} must be 0, 1 or auto, got {asked!r}")
    return asked


def why_not_native() -> str | None:
    """Why the C++ library is left out, or None where it is to be built: by AFA_KERNELS_NATIVE, or by the compiler."""
    asked = setting("AFA_KERNELS_NATIVE")
    if asked == "0":
        return "AFA_KERNELS_NATIVE=0"
    if asked == "auto" and shutil.which(compiler().split()[0]) is None:
        return f"the C++ compiler {compiler()} is not on the PATH (CXX names another)"
    return None


def find_torch() -> bool:
    """Whether a torch new enough is at hand, in the build environment or in the one that is installed into.

    pip's isolated builds run the interpreter of the latter and hide its packages. The library has the stable ABI, so
    that any torch will do; where none can be imported, the hidden one is put at the end of the path.
    """
    installed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    for path in (sys.path, installed):
        for torch in importlib.metadata.distributions(name="torch", path=path):
            if tuple(map(int, torch.version.split(".")[:2])) >= OLDEST_TORCH:
                if importlib.util.find_spec("torch") is None:
                    sys.path += [folder for folder in dict.fromkeys(installed) if folder not in sys.path]
                return True
    return False
