"""What compiled code asks others for: PyTorch's stable C interface, the CUDA runtime, the C and C++ libraries."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

VERSIONS = ("GLIBC_", "GLIBCXX_", "CXXABI_", "GCC_", "libcudart.so.")  # of symbols that a library has bound
ALLOWED = re.compile(
    r"(aoti_torch|torch)_\w+"  # C functions, which no release of torch takes away
    r"|(__)?cuda\w+"
    r"|_Z(T[ISTV])?(N[KRO]*)?S[tabsiod]\w*|_ZTVN10__cxxabiv1\w+|_Z(nw|na|dl|da)\w+"  # std::, new and delete
    r"|__cxa_\w+|__gxx_\w+|_Unwind_\w+|__dso_handle|__gmon_start__|__libc_\w+|__stack_chk_fail"
    r"|_ITM_\w+|_GLOBAL_OFFSET_TABLE_|__tls_get_addr"
    r"|abort|atexit|free|malloc|mem\w+|str\w+|sqrtf?|expf?|log1?pf?|ceilf?|floorf?"
)
OWN = re.compile(r"_ZN[KRO]*3afa\w+")  # what an object leaves to another one of its library


def foreign(code: Path) -> list[str]:
    """The undefined symbols of an object or a library that are nobody's of these."""
    linked = code.suffix == ".so"
    dynamic = ("-D",) if linked else ()
    lines = subprocess.run(["nm", *dynamic, "-u", code], capture_output=True, text=True, check=True).stdout.splitlines()
    names = [line.split()[-1] for line in lines]
    return [name for name in names if not allowed(*name.partition("@")[::2]) and (linked or not OWN.fullmatch(name))]


def allowed(name: str, version: str) -> bool:
    return version.lstrip("@").startswith(VERSIONS) or ALLOWED.fullmatch(name) is not None
