"""Build the C++ library where torch and a C++ compiler are at hand; else install Triton and plain PyTorch alone.

AFA_KERNELS_NATIVE=1 makes a missing library an error, AFA_KERNELS_NATIVE=0 leaves it out; the default builds it where
it can be built, and says so where it cannot. `afa_kernels.backend_info()` tells afterwards what there is.
"""

import glob
import os
import shutil
import sys
import sysconfig

from setuptools import setup


def missing() -> str | None:
    """Why the C++ library cannot be built here."""
    try:
        import torch.utils.cpp_extension  # noqa: F401
    except ImportError:
        return "torch is not importable at build time (use pip install --no-build-isolation with torch installed)"
    compiler = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    if not any(shutil.which(name) for name in (compiler.split()[0], "c++", "g++", "clang++")):
        return f"no C++ compiler ({compiler}) is on the PATH"
    return None


def native() -> dict:
    """The arguments of setup() that build the library: one file for every CPython >= 3.10 and torch >= 2.11."""
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    library = CppExtension(
        "afa_kernels._native",
        sorted(glob.glob("csrc/**/*.cpp", recursive=True)),
        depends=sorted(glob.glob("csrc/**/*.h", recursive=True)),
        define_macros=[("TORCH_TARGET_VERSION", "0x020b000000000000"), ("Py_LIMITED_API", "0x030a0000")],
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
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


wanted = os.environ.get("AFA_KERNELS_NATIVE", "auto")
reason = "AFA_KERNELS_NATIVE=0" if wanted == "0" else missing()
if wanted == "1" and reason is not None:
    sys.exit(f"afa_kernels: the C++ library cannot be built: {reason}")
if reason is not None:
    print(f"afa_kernels: installing without the C++ library: {reason}", file=sys.stderr)
setup(**(native() if reason is None else {}))
