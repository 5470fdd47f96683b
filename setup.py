"""Build the C++ library, or leave it out.

One question decides which of two wheels is built: can the build environment import torch?

    no, as in pip's isolated builds             a wheel of pure Python (py3-none-any): Triton and plain PyTorch
    yes, as with pip's --no-build-isolation     a wheel with the library (cp310-abi3-<platform>), or an error

AFA_KERNELS_NATIVE=1 and AFA_KERNELS_NATIVE=0 decide instead. A library that was to be built and cannot be is an error
with its reason, never another kind of wheel. `python -m afa_kernels` tells afterwards what there is.
"""

import glob
import importlib.util
import os
import shutil
import sys
from typing import NoReturn

from setuptools import setup

TORCH = (2, 11)  # the first whose stable ABI has what the library needs


def wanted() -> bool:
    """Whether to build the library."""
    asked = os.environ.get("AFA_KERNELS_NATIVE", "auto")
    if asked not in ("auto", "0", "1"):
        sys.exit(f"afa_kernels: AFA_KERNELS_NATIVE must be 0, 1 or auto, got {asked!r}")
    return asked == "1" or (asked == "auto" and os.name == "posix" and importlib.util.find_spec("torch") is not None)


def native() -> dict:
    """The arguments of setup() that build the library: one file for every CPython >= 3.10 and torch >= 2.11."""
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        cannot_build(f"torch is not importable in the build environment ({error})")
    if torch.torch_version.TorchVersion(torch.__version__) < TORCH:
        cannot_build(f"it needs torch >= {'.'.join(map(str, TORCH))}, and torch {torch.__version__} is here")
    compiler = os.environ.setdefault("CXX", "c++")  # torch's default with ninja; without ninja it would be another

    class Build(BuildExtension):
        def run(self) -> None:
            if shutil.which(compiler.split()[0]) is None:
                cannot_build(f"the C++ compiler {compiler} is not on the PATH (CXX names another)")
            super().run()

    library = CppExtension(
        "afa_kernels._native",
        sorted(glob.glob("csrc/**/*.cpp", recursive=True)),
        depends=sorted(glob.glob("csrc/**/*.h", recursive=True)),
        define_macros=[
            ("TORCH_TARGET_VERSION", "0x{:02x}{:02x}000000000000".format(*TORCH)),
            ("Py_LIMITED_API", "0x030a0000"),
        ],
        extra_compile_args=[
            "-O3",
            "-g0",
            "-fno-math-errno",
            "-fno-trapping-math",
            "-fopenmp-simd",
            "-fvisibility=hidden",
        ],
        py_limited_api=True,
    )
    return {
        "ext_modules": [library],
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def cannot_build(reason: str) -> NoReturn:
    sys.exit(
        f"afa_kernels: the C++ library cannot be built: {reason}.\n"
        "With torch and a C++ compiler: pip install --no-build-isolation; without the library: AFA_KERNELS_NATIVE=0."
    )


build = wanted()
if not build:
    print("afa_kernels: a wheel without the C++ library: Triton and plain PyTorch", file=sys.stderr)
setup(**(native() if build else {}))
