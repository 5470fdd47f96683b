"""What only a GPU can show, in one command: tests on the device, streams, CUDA graphs, AOTInductor, the benchmark.

    make gpu-check                              about 8 minutes on a large GPU
    python -m benchmarks.gpu_check --device cpu     the steps that make sense on CPU tensors, where there is no GPU

Every step prints "passed", "failed" or "skipped" and why; a failure is the exit status. On a GPU a record is written to
benchmarks/results/gpu-<its name>.json, which is to be committed: until there is one, the Triton kernels are unverified
on hardware.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmarks.shapes import workloads
from torch import Tensor, nn

import afa_kernels
from afa_kernels.testing import CASES, Case, alternate, check, cotangents, gradients, tensors, with_tensors
from benchmarks.run import ROOT, circumstances, measure, summary

FIRST = list({case.op: case for case in reversed(CASES) if case.thorough}.values())  # one case of each operation
COPIED = 2**28  # floats


class SkippedError(Exception):
    """Why a step cannot run here."""


def need_cuda(device: str, what: str) -> None:
    if device != "cuda":
        raise SkippedError(f"{what} need a CUDA device")


def kernel(device: str) -> str:
    return "triton" if device == "cuda" else afa_kernels.backends.automatic(device)


def run_tests(device: str, *arguments: str, wrapper: tuple[str, ...] = (), **environment: str) -> str:
    """The tests marked `device`, on the device; what pytest said at the end."""
    command = [*wrapper, sys.executable, "-m", "pytest", "-q", "tests", "-m", "device", *arguments]
    variables = {**os.environ, "AFA_KERNELS_TEST_DEVICE": device, **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode != 0:
        raise AssertionError("\n".join(lines[-40:]))
    return lines[-1]


def tests(device: str) -> str:
    """The battery and the recorded values; on the CPU, where `make test` runs it all, a small part of the battery."""
    parallel = ["-n", str(min(8, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    return run_tests(device, *(parallel if device == "cuda" else ["-k", "test_values and few_values"]))


def second_device(device: str) -> str:
    """Tensors on a device that is not the current one."""
    need_cuda(device, "two devices")
    if torch.cuda.device_count() < 2:
        raise SkippedError(f"needs two CUDA devices, found {torch.cuda.device_count()}")
    with torch.cuda.device(0):
        for case in FIRST:
            check(case, case.inputs(torch.float32, "cuda:1"), "triton")
    return f"{len(FIRST)} operations"


def streams(device: str) -> str:
    """Kernels launch on the current stream: behind what makes their inputs there, which takes a while."""
    need_cuda(device, "streams")
    for case in FIRST:
        values = case.inputs(torch.float32, device)
        expected = case(values, "triton")
        late = with_tensors(values, [torch.zeros_like(t) for t in tensors(values)])
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(100_000_000)
            for t, v in zip(tensors(late), tensors(values)):
                t.copy_(v)
            found = case(late, "triton")
        torch.cuda.synchronize()
        assert all(torch.equal(f, e) for f, e in zip(found, expected)), f"{case} did not wait for its inputs"
    return f"{len(FIRST)} operations"


def cuda_graphs(device: str) -> str:
    """Forward and backward captured after `warmup`, and replayed on other values."""
    need_cuda(device, "CUDA graphs")
    for case in FIRST:
        static, other = (case.inputs(torch.float32, device, seed=seed) for seed in (0, 1))
        upstream = cotangents(case(static, "triton"))

        def step(arguments: Any, case: Case = case, upstream: list[Tensor] = upstream) -> list[Tensor]:
            outputs = case(arguments, "triton")
            return [*outputs, *gradients(lambda a: case(a, "triton"), arguments, upstream)]

        expected = [t.clone() for t in step(other)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step(static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(static)
        for t, v in zip(tensors(static), tensors(other)):
            t.copy_(v)
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(c, e) for c, e in zip(captured, expected)), f"{case} replayed gives other values"
    return f"{len(FIRST)} operations, forward and backward"


def warmup(device: str) -> str:
    """After `warmup` of sizes that nothing else used, a call compiles nothing."""
    need_cuda(device, "compilations")
    from triton.runtime.jit import JITFunction

    x = torch.randn(3, 48, 40, 56, device=device, requires_grad=True)
    arguments = x, x, x[:, :1], x[..., :1, :1]
    prepared = afa_kernels.warmup(afa_kernels.attentive_fusion, *arguments)
    with mock.patch.object(JITFunction, "_do_compile", side_effect=AssertionError("compiled after warmup")):
        afa_kernels.attentive_fusion(*arguments).sum().backward()
    return f"{prepared} launches prepared"


class Head(nn.Module):
    """A fusion and a rendering, to be exported."""

    def forward(self, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        fused = afa_kernels.attentive_fusion(x, y, x[:, :1], y.mean((2, 3), keepdim=True))
        return afa_kernels.scale_space_render([fused, y], logits, (24, 40))


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


def sanitizer(device: str) -> str:
    """compute-sanitizer over the smallest cases: accesses, and hazards in shared memory."""
    need_cuda(device, "compute-sanitizer's tools")
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise SkippedError("compute-sanitizer is not on PATH")
    for kind in ("memcheck", "racecheck"):
        wrapper = (tool, "--tool", kind, "--error-exitcode", "9", "--target-processes", "all")
        selected = ("-k", "test_values and few_values and float32", "-x")
        run_tests(device, *selected, wrapper=wrapper, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return "memcheck and racecheck over the cases of few values"


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a copy of 1 GiB reads and writes: what a kernel can hope for."""
    source = torch.empty(COPIED if device == "cuda" else COPIED // 16, device=device).fill_(1)
    destination = torch.empty_like(source)
    seconds = alternate({"copy": lambda: destination.copy_(source)}, repeats=20)["copy"]
    return 2 * source.nbytes / min(seconds)


def benchmark(device: str, seconds: float) -> tuple[str, dict[str, Any]]:
    bandwidth = copy_bandwidth(device)
    print(f"  a copy moves {bandwidth / 1e9:.0f} GB/s", flush=True)
    records = []
    quick = device != "cuda"
    for workload in workloads(quick)[: 1 if quick else None]:
        found = list(measure(workload, seconds, device))
        records += found
        rate = found[-1].get("least_gigabytes_per_second")
        share = "" if rate is None else f"; {rate:.0f} GB/s, {1e11 * rate / bandwidth:.0f}% of the copy's"
        print(f"  {workload}: {summary(found)}{share}", flush=True)
    refused = [record for record in records if "refused" in record]
    assert not refused, refused
    return f"{len(records)} numbers", {"copy_gigabytes_per_second": bandwidth / 1e9, "benchmark": records}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=0.2, help="per contestant and workload; default: 0.2")
    options = parser.parse_args()
    device = options.device
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU"
    print(f"{name}; {device} tensors go to the backend {kernel(device)}", flush=True)
    record: dict[str, Any] = {**circumstances(), "gpu": name, "command": "make gpu-check", "steps": {}}

    def with_measurements(device: str) -> str:
        said, measured = benchmark(device, options.seconds)
        record.update(measured)
        return said

    steps: dict[str, Callable[[str], str]] = {
        "tests": tests,
        "second device": second_device,
        "streams": streams,
        "CUDA graphs": cuda_graphs,
        "warmup": warmup,
        "AOTInductor": aot_inductor,
        "compute-sanitizer": sanitizer,
        "benchmark": with_measurements,
    }
    for step, run in steps.items():
        start = time.perf_counter()
        try:
            outcome = f"passed: {run(device)}"
        except SkippedError as reason:
            outcome = f"skipped: {reason}"
        except Exception as error:  # a step that fails does not keep the others from being seen
            outcome = f"failed: {type(error).__name__}: {error}"
        record["steps"][step] = outcome
        print(f"{step} ({time.perf_counter() - start:.0f} s): {outcome}", flush=True)
    failed = [step for step, outcome in record["steps"].items() if outcome.startswith("failed")]
    if device == "cuda":
        path = ROOT / "benchmarks" / "results" / f"gpu-{re.sub(r'[^a-z0-9]+', '-', name.lower())}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"Commit the record: {path}")
    else:
        print("Nothing ran on a GPU: the Triton kernels remain unverified on hardware.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
