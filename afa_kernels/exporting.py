"""Programs for processes without Python, where the operators `afa::` of this package do not exist."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from afa_kernels import backends
from afa_kernels.ops import _registration as registration


def export_decompositions() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """What ExportedProgram.run_decompositions needs to leave only `afa_native` and PyTorch's operators in a program.

        program = torch.export.export(model, (image,)).run_decompositions(afa_kernels.export_decompositions())
        torch._inductor.aoti_compile_and_package(program, package_path="model.pt2")

    Such a package runs in a C++ process that loads the library `_native.abi3.so` of this package; examples/cpp has one.
    The C++ library computes on CPU tensors, the CUDA library, `_native_cuda.abi3.so`, on CUDA tensors.

    Raises:
        RuntimeError: the C++ library, which defines the operators `afa_native`, is not there.

    >>> import torch, afa_kernels
    >>> from afa_kernels.nn import AttentiveFusion
    >>> maps = torch.randn(1, 8, 6, 7), torch.randn(1, 8, 6, 7)
    >>> program = torch.export.export(AttentiveFusion(8).eval(), maps)
    >>> program = program.run_decompositions(afa_kernels.export_decompositions())
    >>> any("afa::" in str(node.target) for node in program.graph.nodes)
    False
    """
    reason = backends.why_not("cpu", "attentive_fusion", "cpu")
    if reason is not None:
        raise RuntimeError(f"export_decompositions needs the C++ library: {reason}")
    _register_fakes()
    return dict(registration.decompositions)


@functools.cache
def _register_fakes() -> None:
    """Every operator fills outputs that are given and returns nothing, so that there is nothing to fake."""
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("afa_native::"):
            torch.library.register_fake(name, lambda *args, **options: None)
