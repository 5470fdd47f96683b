"""What needs a process in which nothing ran before: a capture right after `warmup`; streams; AOTInductor.

python -m benchmarks.gpu.fresh DEVICE OP|aot_inductor      prints a line of JSON per check
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import afa_kernels
from afa_kernels import backends
from afa_kernels.testing import differentiable, listed, tensors, with_tensors
from benchmarks import ops
from benchmarks.gpu.session import SkippedError
from benchmarks.workload import Workload


class Head(nn.Module):
    """A fusion and a rendering, to be exported."""

    def forward(self, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        fused = afa_kernels.attentive_fusion(x, y, x[:, :1], y.mean((2, 3), keepdim=True))
        return afa_kernels.scale_space_render([fused, y], logits, (24, 40))


class Checks:
    """The checks of one operation, in an order in which none spoils the next."""

    def __init__(self, op: str, device: str) -> None:
        self.device = device
        self.workload = Workload(ops.of(op).TRAFFIC[0], differentiable(op), device=device)
        self.function = self.workload.ours()

    def arguments(self, seed: int = 0) -> tuple[Any, ...]:
        """Return the arguments; other seeds give other values."""
        arguments = self.workload.inputs()
        with torch.no_grad():
            for t in tensors(arguments):
                t.mul_(1 + seed / 4)
        return arguments

    def step(self, arguments: Sequence[Any], upstream: Sequence[Tensor]) -> list[Tensor]:
        return self.workload.step(self.function, arguments, upstream)

    def upstream(self) -> list[Tensor]:
        with torch.no_grad(), afa_kernels.use_backend("reference"):  # launches no kernel of ours
            return self.workload.upstream(listed(self.function(*self.arguments())))

    def need_cuda(self) -> None:
        if self.device != "cuda":
            raise SkippedError("needs a CUDA device")

    def warmup(self) -> str:
        return f"{afa_kernels.warmup(self.function, *self.arguments())} launches prepared"

    def capture(self) -> str:
        """Captured as the first thing after `warmup`, forward and backward, and replayed on other values.

        What is made of ATen's kernels runs once before, as PyTorch asks for: cuDNN sets itself up in its first call.
        """
        self.need_cuda()
        from triton.runtime.jit import JITFunction

        static, other, upstream = self.arguments(), self.arguments(1), self.upstream()
        start = [t.detach().clone() for t in tensors(other)]
        if backends.made_of_aten(self.workload.case.op):
            self.run_on_a_side_stream(static, upstream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        compiling = AssertionError("compiled after warmup")
        with mock.patch.object(JITFunction, "_do_compile", side_effect=compiling), torch.cuda.graph(graph):
            captured = self.step(static, upstream)
        with torch.no_grad():
            for t, v in zip(tensors(static), start):
                t.copy_(v)
        graph.replay()
        torch.cuda.synchronize()
        self.compare(captured, self.step(other, upstream))
        return f"{len(captured)} results"

    def run_on_a_side_stream(self, arguments: Sequence[Any], upstream: Sequence[Tensor]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step(arguments, upstream)
        torch.cuda.current_stream().wait_stream(stream)

    def side_stream(self) -> str:
        """Kernels launch on the current stream: behind what makes their inputs there, which takes a while."""
        self.need_cuda()
        values, upstream = self.arguments(), self.upstream()
        late = with_tensors(values, [torch.zeros_like(t).requires_grad_(t.requires_grad) for t in tensors(values)])
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(100_000_000)
            with torch.no_grad():
                for t, v in zip(tensors(late), tensors(values)):
                    t.copy_(v)
            found = self.step(late, upstream)
        torch.cuda.synchronize()
        self.compare(found, self.step(values, upstream))
        return "on the current stream"

    def second_device(self) -> str:
        """Tensors on a device that is not the current one."""
        self.need_cuda()
        if torch.cuda.device_count() < 2:
            raise SkippedError(f"needs two CUDA devices, found {torch.cuda.device_count()}")
        moved = Checks(self.workload.case.op, "cuda:1")
        with torch.cuda.device(0):
            found = moved.step(moved.arguments(), moved.upstream())
        upstream = [g.to("cuda:0") for g in moved.upstream()]
        arguments = self.arguments()
        with torch.no_grad():
            for t, v in zip(tensors(arguments), tensors(moved.arguments())):
                t.copy_(v)
        self.compare([f.to("cuda:0") for f in found], self.step(arguments, upstream))
        return "on cuda:1"

    def values(self) -> str:
        """A call as any other, after all that."""
        arguments, upstream = self.arguments(), self.upstream()
        reason = self.workload.why_wrong({"afa_kernels": self.function}, arguments, upstream)
        assert reason is None, reason
        return "as the reference"

    @staticmethod
    def compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        torch.testing.assert_close([f.detach() for f in found], [e.detach() for e in expected])


def aot_inductor(device: str) -> str:
    """torch.export, AOTInductor, a package, and back."""
    if device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise SkippedError("needs a C++ compiler on the CPU")
    x, y = (torch.randn(2, 8, 12, 20, device=device) for _ in range(2))
    arguments = x, y, torch.randn(2, 2, 12, 20, device=device)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        exported = torch.export.export(Head().eval(), arguments)
        package = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "head.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        torch.testing.assert_close(loaded(*arguments), Head()(*arguments))
    return "exported, compiled, packaged and loaded"


def checks(op: str, device: str) -> dict[str, Callable[[], str]]:
    if op == "aot_inductor":
        return {"aot_inductor": functools.partial(aot_inductor, device)}
    of = Checks(op, device)
    steps = (of.warmup, of.capture, of.side_stream, of.second_device, of.values)
    return {f"{op}, {step.__name__}": step for step in steps}


def main() -> None:
    device, op = sys.argv[1:]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for item, step in checks(op, device).items():
        try:
            said = {"outcome": "passed", "detail": step()}
        except SkippedError as reason:
            said = {"outcome": "skipped", "detail": str(reason)}
        except Exception as error:
            said = {"outcome": "failed", "detail": f"{type(error).__name__}: {error}"[-2000:]}
        print(json.dumps({"item": item, **said}), flush=True)


if __name__ == "__main__":
    main()
