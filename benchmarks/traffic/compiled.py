"""What torch.compile makes of the same operations for an H100, with a CUDA build of torch and no GPU.

    python -m benchmarks.traffic.compiled      adds its kernels and bytes to benchmarks/results/traffic.json

The joint graph of forward and backward is cut by Inductor's own partitioner, and each half goes through Inductor for a
pretended device. Its Triton kernels are compiled for sm_90 by its own steps, so that what is counted is what would run.
Then, in a process of its own, the programs that Inductor wrote run on CPU tensors, their kernels in Triton's
interpreter, under the meter of `benchmarks.traffic`; their results must be those of eager PyTorch.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
import triton.language as tl
from torch import Tensor, fx
from torch._dynamo.device_interface import CudaInterface
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._guards import TracingContext, tracing
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.codecache import PyCodeCache
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes import reinplace
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import triton_helpers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from triton.backends.compiler import GPUTarget

from benchmarks.traffic.contests import Contest, contests
from benchmarks.traffic.meter import Traffic, counted
from benchmarks.traffic.ours import row, save, upstream_of

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
    triton_helpers.set_driver_to_gpu = lambda: None


def graphs(contest: Contest, mode: FakeTensorMode) -> dict[str, fx.GraphModule]:
    """The halves of the joint graph, or where there is no gradient the graph, traced on fake CPU tensors."""
    wanted = contest.wanted()
    leaves = tuple(mode.from_tensor(t).requires_grad_(asked) for t, asked in zip(contest.given(), wanted, strict=True))
    joint: Any = aot_export_joint_simple(
        lambda *given: tuple(contest.eager(given)),
        leaves,
        trace_joint=any(wanted),
        decompositions=select_decomp_table(),
    )
    if not any(wanted):
        return {"forward": joint}
    placeholders = [n for n in joint.graph.nodes if n.op == "placeholder"]
    for i, node in enumerate(placeholders):
        inside = i < len(leaves)
        node.name = node.target = f"primals_{i + 1}" if inside else f"tangents_{i - len(leaves) + 1}"
    joint.recompile()
    forward, backward = min_cut_rematerialization_partition(
        joint, [n.meta["val"] for n in placeholders], num_fwd_outputs=len(placeholders) - len(leaves)
    )
    return {"forward": forward, "backward": backward}


def write_program(graph: fx.GraphModule, mode: FakeTensorMode, path: Path) -> None:
    """What Inductor writes for the graph on a GPU, to `path`; its Triton kernels compile for sm_90."""
    given = [n.meta["val"] for n in graph.graph.nodes if n.op == "placeholder"]
    on_gpu = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda") for t in given]
    traced = make_fx(lambda *a: tuple(graph(*a)), decomposition_table=select_decomp_table())(*given)
    for node in traced.graph.nodes:  # the coordinates of a resize are made where the tensors were
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}
    traced.recompile()
    with torch.no_grad():  # traced again for the GPU, which the autograd engine would really need
        traced = make_fx(traced)(*on_gpu)
    modules: list[Any] = []
    compile_to_module = GraphLowering.compile_to_module

    def noted(self: GraphLowering) -> Any:
        modules.append(compile_to_module(self))
        return modules[-1]

    def compile_kernel(self: AsyncCompile, name: str, source: str, device_str: str = "cuda") -> Any:
        tuner = getattr(PyCodeCache.load(source), name)
        tuner.configs = tuner.configs[:1]
        tuner.precompile(warm_cache_only=True)
        return types.SimpleNamespace(run=None)

    with (
        tracing(TracingContext(mode)),
        mock.patch.object(GraphLowering, "compile_to_module", noted),
        mock.patch.object(AsyncCompile, "triton", compile_kernel),
        # It copies one fake tensor into another, for which CUDA wants its driver, to see whether the shapes agree.
        mock.patch.object(reinplace, "_inplace_generalized_scatter", lambda inp, src, view_ops: inp),
    ):
        compile_fx_inner(traced, on_gpu)
    (module,) = modules
    path.write_text(Path(module.__file__).read_text())


def write_programs(folder: Path) -> None:
    pretend_gpu()
    config.compile_threads = 1
    config.force_disable_caches = True
    for i, contest in enumerate(contests()):
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode:
            for direction, graph in graphs(contest, mode).items():
                write_program(graph, mode, folder / f"{i}_{direction}.py")


# From here on, in the other process.


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Inductor's programs for a GPU allocate and run on the CPU; TRITON_INTERPRET=1 is all that their kernels need.

    Inductor itself then launches the first configuration of each.
    """
    guards: Any = torch._C._dynamo.guards
    libdevice = types.SimpleNamespace(exp=lambda x: tl.exp(x), rsqrt=lambda x: tl.rsqrt(x))
    with (
        mock.patch.object(triton_helpers, "libdevice", libdevice),
        mock.patch.object(guards, "_empty_strided_cuda", guards._empty_strided_cpu),
        mock.patch.object(torch._C, "_cuda_getCurrentRawStream", lambda index: 0),
        mock.patch.object(torch.cuda, "_DeviceGuard", lambda index: contextlib.nullcontext()),
        mock.patch.object(torch.cuda, "set_device", lambda index: None),
        mock.patch.object(triton_helpers, "set_driver_to_gpu", lambda: None),
    ):
        yield


def program(path: Path) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    spec = importlib.util.spec_from_file_location(f"program_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.call


def count(contest: Contest, forward_program: Path, backward_program: Path) -> dict[str, Traffic]:
    given, wanted = contest.given(), contest.wanted()
    leaves = [t.clone().requires_grad_(asked) for t, asked in zip(given, wanted, strict=True)]
    expected = contest.eager(leaves)
    with on_cpu():
        call = program(forward_program)
        with torch.no_grad(), counted() as forward:
            results = call(list(given))
        torch.testing.assert_close(list(results[: len(expected)]), expected)
        if not any(wanted):
            return {"forward": forward}
        upstream = upstream_of(expected)
        expected_grads = torch.autograd.grad(expected, [t for t in leaves if t.requires_grad], upstream)
        call = program(backward_program)
        with torch.no_grad(), counted() as backward:
            grads = call([*results[len(expected) :], *upstream])
        for g, expected_grad in zip((g for g in grads if g is not None), expected_grads, strict=True):
            scale = max(1.0, float(expected_grad.abs().max()))  # which sums over many pixels have
            torch.testing.assert_close(g, expected_grad, rtol=1e-4, atol=1e-5 * scale)
    return {"forward": forward, "backward": backward}


def count_all(folder: Path) -> None:
    rows = []
    for i, contest in enumerate(contests()):
        lower, programs = contest.least(), (folder / f"{i}_{d}.py" for d in ("forward", "backward"))
        for direction, traffic in count(contest, *programs).items():
            rows.append(row(contest, "torch.compile", direction, traffic, lower[direction]))
            print(json.dumps(rows[-1]), flush=True)
    save(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=Path, metavar="FOLDER", help="count the programs written to FOLDER before")
    options = parser.parse_args()
    if options.count is not None:
        count_all(options.count)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_programs(Path(folder))
        command = [sys.executable, "-m", "benchmarks.traffic.compiled", "--count", folder]
        subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, check=True)


if __name__ == "__main__":
    main()
