"""Build the C++ library, or leave it out.

Where there is a C++ compiler, a wheel with the library is built (cp310-abi3-<platform>), with the torch at hand or one
that the build brings (build_backend.py); where there is none, a wheel of pure Python (py3-none-any): Triton and plain
PyTorch. AFA_KERNELS_NATIVE=1 and AFA_KERNELS_NATIVE=0 decide instead.

A library that was to be built and cannot be is an error with its reason, never another kind of wheel. Afterwards
`python -m afa_kernels` tells what there is, and the first call on the CPU without the library warns.

A second library beside it has the CUDA kernels. It is built where nvcc and a CUDA build of torch are, or, with
AFA_KERNELS_CUDA=1, must be; AFA_KERNELS_CUDA=0 leaves it out. No GPU is looked for: TORCH_CUDA_ARCH_LIST names those it
is for, by default every one from Turing on.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
from typing import NoReturn

from setuptools import setup

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from build_backend import OLDEST_TORCH, compiler, find_torch, setting, why_not_native

COMPILE_ARGS = {
    "posix": ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-fvisibility=hidden"],
    "nt": ["/O2", "/wd4068"],  # cl.exe, which knows no GCC pragma and says so for each
}
ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def native() -> dict:
    """The arguments of setup() that build the library: one file for every CPython >= 3.10 and torch >= 2.11."""
    find_torch()
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
    except ImportError as error:
        cannot_build(f"torch is not importable in the build environment ({error})")
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        cannot_build(f"it needs torch >= {'.'.join(map(str, OLDEST_TORCH))}, and torch {torch.__version__} is here")
    command = compiler()
    if os.name == "posix":
        os.environ["CXX"] = command  # torch's default with ninja; without ninja it would be another

    class Build(BuildExtension):
        def run(self) -> None:
            if shutil.which(command.split()[0]) is None:
                cannot_build(f"the C++ compiler {command} is not on the PATH (CXX names another)")
            try:
                super().run()
            except Exception as error:  # whatever the compiler or torch's extension builder has to say
                cannot_build(f"the compilation failed ({error})")

        def get_export_symbols(self, ext: CppExtension) -> list[str]:
            return []  # the library is loaded by torch and is no Python module: on Windows no PyInit is there to export

    versions = [
        ("TORCH_TARGET_VERSION", "0x{:02x}{:02x}000000000000".format(*OLDEST_TORCH)),
        ("Py_LIMITED_API", "0x030a0000"),
    ]
    headers = sorted(glob.glob("csrc/**/*.h", recursive=True))
    library = CppExtension(
        "afa_kernels._native",
        sorted(glob.glob("csrc/**/*.cpp", recursive=True)),
        depends=headers,
        define_macros=versions,
        extra_compile_args=COMPILE_ARGS[os.name],
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
                "nvcc": ["-O3", *compressed(), *(("-Xcompiler", "-fvisibility=hidden") if os.name == "posix" else ())]
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


def compressed() -> list[str]:
    """The flag of nvcc 12.8 and later by which a library takes a quarter of its size, and a wheel two thirds."""
    from torch.utils.cpp_extension import CUDA_HOME

    nvcc = os.path.join(CUDA_HOME, "bin", "nvcc")
    known = subprocess.run([nvcc, "--help"], capture_output=True, text=True, check=True).stdout
    return ["--compress-mode=size"] if "--compress-mode" in known else []


def cannot_build(reason: str) -> NoReturn:
    sys.exit(
        f"afa_kernels: the C++ library cannot be built: {reason}.\n"
        "With a C++ compiler: pip install . brings the rest; without the library: AFA_KERNELS_NATIVE=0."
    )


def readme() -> str:
    """README.md for PyPI, which has no file of the tree: linked where [project.urls] has a Source, else named."""
    with open("README.md", encoding="utf-8") as file, open("pyproject.toml", encoding="utf-8") as project:
        text, source = file.read(), re.search(r'^Source = "([^"]+)"', project.read(), re.MULTILINE)

    def absolute(link: "re.Match[str]") -> str:
        image, words, path = link.groups()
        if source is None:
            return "" if image else words
        return f"{image}[{words}]({source[1]}/{'raw' if image else 'blob'}/main/{path})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!\w+:)([^)\s]+)\)", absolute, text)


asking = {"egg_info", "dist_info", "sdist"} & set(sys.argv)  # which need no torch, and are asked where none is yet
why_not = why_not_native()
if why_not is not None:
    print(f"afa_kernels: a wheel without the C++ library ({why_not}): Triton and plain PyTorch", file=sys.stderr)
setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    **(native() if why_not is None and not asking else {}),
)
