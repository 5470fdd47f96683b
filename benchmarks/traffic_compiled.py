"""What torch.compile makes of the same operations in training on an H100, with a CUDA build of torch and no GPU.

    python -m benchmarks.traffic_compiled      adds its kernels and bytes to benchmarks/results/traffic.json

The joint graph of forward and backward is cut by Inductor's own partitioner, and each half goes through Inductor, which
counts the bytes of the kernels it writes. The device's properties are pretended; nothing runs.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
import torch._inductor.config as config
import triton
from torch._dynamo.device_interface import CudaInterface
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._guards import TracingContext, tracing
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.exc import InductorError
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from triton.backends.compiler import GPUTarget

from afa_kernels.testing import Case, listed, tensors, with_tensors
from benchmarks.shapes import EAGER
from benchmarks.traffic import TRAFFIC_CASES, Traffic, least, row, save

H100 = types.SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    warp_size=32,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 << 20,
    gcnArchName="",
    is_integrated=False,
    clock_rate=1980000,
    memory_clock_rate=2619000,
    memory_bus_width=5120,
)


class Driver:
    """The driver Inductor asks which GPU it writes for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    @staticmethod
    def is_active() -> bool:
        return True


def pretend_gpu() -> None:
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: H100,
        "_get_device_properties": lambda device=None: H100,
        "get_device_name": lambda device=None: H100.name,
        "_lazy_init": lambda: None,
        "synchronize": lambda device=None: None,
        "is_bf16_supported": lambda *args, **kwargs: True,
        "_exchange_device": lambda index: 0,
        "_maybe_exchange_device": lambda index: 0,
        "set_device": lambda device: None,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    for name, answer in {  # type: ignore[assignment]
        "get_device_properties": lambda device=None: H100,
        "get_compute_capability": lambda device=None: 90,
        "is_available": lambda: True,
        "current_device": lambda: 0,
    }.items():
        setattr(CudaInterface, name, staticmethod(answer))
    worker: Any = CudaInterface.Worker
    worker.get_device_properties = staticmethod(lambda device=None: H100)  # type: ignore[method-assign,assignment]
    worker.current_device = staticmethod(lambda: 0)
    triton.runtime.driver.set_active(Driver())


KERNELS: list[str] = []
BYTES: list[int] = []


def note_kernels_and_bytes() -> None:
    def note_kernel(self: AsyncCompile, name: str, source: str, device_str: str = "cuda") -> Any:
        KERNELS.append(name)
        return types.SimpleNamespace(run=lambda *args, **kwargs: None, name=name)

    codegen = GraphLowering.codegen

    def note_bytes(self: GraphLowering) -> Any:
        result = codegen(self)
        BYTES.append(self.count_bytes()[0])
        return result

    AsyncCompile.triton = note_kernel  # type: ignore[method-assign,assignment]
    GraphLowering.codegen = note_bytes  # type: ignore[method-assign]


def half(graph: torch.fx.GraphModule, mode: FakeTensorMode) -> Traffic:
    """One half of the joint graph through Inductor."""
    given = [n.meta["val"] for n in graph.graph.nodes if n.op == "placeholder"]
    on_gpu = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda") for t in given]
    traced = make_fx(lambda *a: tuple(graph(*a)), decomposition_table=select_decomp_table())(*given)
    for node in traced.graph.nodes:  # the coordinates of a resize are made where the tensors were
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}
    traced.recompile()
    with torch.no_grad():  # traced again for the GPU, which the autograd engine would really need
        traced = make_fx(traced)(*on_gpu)
    KERNELS.clear()
    BYTES.clear()
    with tracing(TracingContext(mode)):
        compile_fx_inner(traced, on_gpu)
    return Traffic(sum(BYTES), sum(BYTES), len(KERNELS))


def compiled(case: Case) -> dict[str, Traffic]:
    arguments = case.inputs(torch.float32)
    function = functools.partial(case.call, EAGER[case.op])
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        leaves = tuple(
            torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).requires_grad_() for t in tensors(arguments)
        )
        joint: Any = aot_export_joint_simple(
            lambda *given: tuple(listed(function(*with_tensors(arguments, given)))),
            leaves,
            trace_joint=True,
            decompositions=select_decomp_table(),
        )
        placeholders = [n for n in joint.graph.nodes if n.op == "placeholder"]
        for i, node in enumerate(placeholders):
            inside = i < len(leaves)
            node.name = node.target = f"primals_{i + 1}" if inside else f"tangents_{i - len(leaves) + 1}"
        joint.recompile()
        halves = min_cut_rematerialization_partition(
            joint, [n.meta["val"] for n in placeholders], num_fwd_outputs=len(placeholders) - len(leaves)
        )
        return {name: half(graph, mode) for name, graph in zip(("forward", "backward"), halves, strict=True)}


def main() -> None:
    lower = {str(case): least(case) for case in TRAFFIC_CASES}
    pretend_gpu()
    note_kernels_and_bytes()
    config.compile_threads = 1
    config.force_disable_caches = True
    rows = []
    for case in TRAFFIC_CASES:
        try:
            found = compiled(case)
        except (InductorError, FakeTensorDeviceMismatchError) as error:  # a target is a constant on the CPU
            print(f"{case}: no row, Inductor fails on it without a GPU: {error}")
            continue
        for direction, traffic in found.items():
            rows.append(row(case, "torch.compile", direction, traffic, lower[str(case)][direction]))
    save(rows)


if __name__ == "__main__":
    main()
