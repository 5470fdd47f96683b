"""Build the C++ library, or leave it out.

One question decides which of two wheels is built: can the build environment import torch?

    no, as in pip's isolated builds             a wheel of pure Python (py3-none-any): Triton and plain PyTorch
    yes, as with pip's --no-build-isolation     a wheel with the library (cp310-abi3-<platform>), or an error

AFA_KERNELS_NATIVE=1 and AFA_KERNELS_NATIVE=0 decide instead. A library that was to be built and cannot be is an error
with its reason, never another kind of wheel. `python -m afa_kernels` tells afterwards what there is.

A second library beside it has the CUDA kernels. It is built where nvcc and a CUDA build of torch are, or, with
AFA_KERNELS_CUDA=1, must be; AFA_KERNELS_CUDA=0 leaves it out. No GPU is looked for: TORCH_CUDA_ARCH_LIST names those it
is for, by default every one from Turing on.
"""

import glob
import importlib.util
import os
import shutil
import sys
from typing import NoReturn

from setuptools import setup

TORCH = (2, 11)  # the first whose stable ABI has what the library needs
ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def wanted() -> bool:
    """Whether to build the library."""
    asked = setting("AFA_KERNELS_NATIVE")
    return asked == "1" or (asked == "auto" and os.name == "posix" and importlib.util.find_spec("torch") is not None)


def setting(name: str) -> str:
    asked = os.environ.get(name, "auto")
    if asked not in ("auto", "0", "1"):
        sys.exit(f"afa_kernels: {name} must be 0, 1 or auto, got {asked!r}")
    return asked


def native() -> dict:
    """The arguments of setup() that build the library: one file for every CPython >= 3.10 and torch >= 2.11."""
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
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

    versions = [
        ("TORCH_TARGET_VERSION", "0x{:02x}{:02x}000000000000".format(*TORCH)),
        ("Py_LIMITED_API", "0x030a0000"),
    ]
    headers = sorted(glob.glob("csrc/**/*.h", recursive=True))
    library = CppExtension(
        "afa_kernels._native",
        sorted(glob.glob("csrc/**/*.cpp", recursive=True)),
        depends=headers,
        define_macros=versions,
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
    libraries = [library]
    if with_cuda():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
        cuda = CUDAExtension(
            "afa_kernels._native_cuda",
            sorted(glob.glob("csrc/cuda/*.cu")),
            depends=headers + sorted(glob.glob("csrc/cuda/*.cuh")),
            define_macros=[*versions, ("USE_CUDA", None)],
            extra_compile_args={
                "nvcc": ["-O3", *(("-Xcompiler", "-fvisibility=hidden") if os.name == "posix" else ())]
            },
            py_limited_api=True,
        )
        libraries.append(cuda)
    return {
        "ext_modules": libraries,
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def with_cuda() -> bool:
    """Whether to build the library of CUDA kernels."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    asked = setting("AFA_KERNELS_CUDA")
    if asked == "0":
        return False
    if CUDA_HOME is None or shutil.which("nvcc", path=os.path.join(CUDA_HOME, "bin")) is None:
        reason = "nvcc is not found (CUDA_HOME names where CUDA is)"
    elif torch.version.cuda is None:
        reason = f"torch {torch.__version__} is here, which is no CUDA build"
    else:
        return True
    if asked == "1":
        cannot_build(f"AFA_KERNELS_CUDA=1 asks for the CUDA kernels, and {reason}")
    print(f"afa_kernels: without the CUDA kernels: {reason}", file=sys.stderr)
    return False


def cannot_build(reason: str) -> NoReturn:
    sys.exit(
        f"afa_kernels: the C++ library cannot be built: {reason}.\n"
        "With torch and a C++ compiler: pip install --no-build-isolation; without the library: AFA_KERNELS_NATIVE=0."
    )


build = wanted()
if not build:
    print("afa_kernels: a wheel without the C++ library: Triton and plain PyTorch", file=sys.stderr)
setup(**(native() if build else {}))
