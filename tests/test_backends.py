"""Which backend runs: the written order, the one asked for, and the reason where one cannot."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import afa_kernels
from afa_kernels import backends
from afa_kernels.testing import operations

OP = "attentive_fusion"  # which every backend has
FUSION = (torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), torch.randn(1, 1, 3, 4), torch.randn(1, 2, 1, 1))
LOGITS = torch.randn(1, 2, 3, 4)
CALLS = {
    "attentive_fusion": lambda: afa_kernels.attentive_fusion(*FUSION),
    "scale_space_weights": lambda: afa_kernels.scale_space_weights(LOGITS),
    "scale_space_render": lambda: afa_kernels.scale_space_render([FUSION[0], FUSION[1]], LOGITS),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture(autouse=True)
def fresh_answers() -> Iterator[None]:
    """What a test pretended is not remembered after it."""
    yield
    for answer in (
        backends._load_library,
        backends._load_cuda_library,
        backends._triton_missing,
        backends.launcher,
        backends._warn,
        backends._first,
    ):
        answer.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, **reasons: str | None) -> None:
    """For the named backends, the reason they cannot run anywhere, or None where they can."""
    actual = backends.why_not
    monkeypatch.setattr(
        backends, "why_not", lambda name, op, device: reasons[name] if name in reasons else actual(name, op, device)
    )
    backends._first.cache_clear()


def test_order_of_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, triton=None, cuda=None, cpu=None)
    assert {d: backends.automatic(OP, d) for d in ("cuda", "cpu", "meta", "mps", "xpu")} == {
        "cuda": "triton",
        "cpu": "cpu",
        "meta": "reference",
        "mps": "reference",
        "xpu": "reference",
    }
    assert backends.available(OP, "cuda") == ("triton", "cuda", "reference", "cpu")
    assert backends.available(OP, "cpu") == ("cpu", "reference", "triton", "cuda")
    pretend(monkeypatch, triton="absent", cpu="absent", cuda=None)
    assert backends.automatic(OP, "cuda") == "cuda"
    pretend(monkeypatch, triton="absent", cpu="absent", cuda="absent")
    assert [backends.automatic(OP, d) for d in ("cuda", "cpu", "meta")] == ["reference"] * 3
    assert backends.available(OP, "cpu") == ("reference",)


@calls
def test_automatic_choice_runs(call) -> None:
    assert backends.choose(OP, "cpu") is None  # the kernels of the automatic choice
    assert backends.automatic(OP, "cpu") == backends.available(OP, "cpu")[0]
    call()


@calls
@pytest.mark.parametrize("name, reason", [("cpu", "no compiler on a Tuesday"), ("triton", "no triton on a Wednesday")])
def test_asked_for_never_falls_back(call, name: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, **{name: reason})
    with (
        afa_kernels.use_backend(name),
        pytest.raises(RuntimeError, match=f"the backend '{name}' cannot run on cpu tensors: {reason}"),
    ):
        call()


@calls
def test_asked_for_on_a_device_it_does_not_serve(call) -> None:
    with afa_kernels.use_backend("triton"), pytest.raises(RuntimeError, match="only in Triton's interpreter"):
        call()
    with afa_kernels.use_backend("cuda"), pytest.raises(RuntimeError, match="CUDA tensors only"):
        call()
    assert "CPU tensors only" in str(backends.why_not("cpu", OP, "cuda"))


@calls
def test_asked_for_is_what_runs(call, kernel: str) -> None:
    """The kernel's autograd node, or PyTorch's own."""
    for tensor in (*FUSION, LOGITS):
        tensor.requires_grad_()
    try:
        for name, fused in ((kernel, True), ("reference", False)):
            with afa_kernels.use_backend(name):
                out = call()
            node = type((out[0] if isinstance(out, tuple) else out).grad_fn).__name__
            assert node.startswith(("AttentiveFusion", "ScaleSpace")) == fused, node
    finally:
        for tensor in (*FUSION, LOGITS):
            tensor.requires_grad_(False)


def test_use_backend_nests_and_is_undone_by_an_error() -> None:
    automatic = backends.choose(OP, "cpu")
    with afa_kernels.use_backend("reference"):
        assert backends.choose(OP, "cpu") == "reference"
        with pytest.raises(KeyError), afa_kernels.use_backend("cpu"):
            raise KeyError
        assert backends.choose(OP, "cpu") == "reference"
    assert backends.choose(OP, "cpu") == automatic


@pytest.mark.parametrize("name", ["gpu", "CPU", "", None])
def test_unknown_backend(name: object) -> None:
    with (
        pytest.raises(ValueError, match=f"name must be one of 'triton', 'cuda', 'cpu', 'reference', got {name!r}"),
        afa_kernels.use_backend(name),  # type: ignore[arg-type]
    ):
        pass


def test_no_compiled_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.machinery.EXTENSION_SUFFIXES", [])
    backends._load_library.cache_clear()
    assert "no compiled library" in str(backends.why_not("cpu", OP, "cpu"))
    assert "pip install --force-reinstall --no-deps ." in str(backends.why_not("cpu", OP, "cpu"))
    with pytest.warns(UserWarning, match="no compiled library"):
        assert backends.choose(OP, "cpu") == "reference"


WITHOUT_LIBRARY = """
import importlib.machinery, sys, warnings
import torch, afa_kernels
importlib.machinery.EXTENSION_SUFFIXES[:] = []
function = afa_kernels.scale_space_weights
if "compiled" in sys.argv:
    function = torch.compile(function, fullgraph=True, backend="eager")
logits = torch.zeros(1, 2, 3, 4)
with afa_kernels.use_backend("reference"):
    function(logits)  # asked for: nothing to warn of
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    afa_kernels.backend_info()
    before = len(caught)
    for _ in range(2):
        function(logits)
        afa_kernels.scale_space_render([logits, logits], logits)
told = [w for w in caught if "AFA_KERNELS_QUIET" in str(w.message)]
print(before, len(told), *(w.filename for w in told))
"""


@pytest.mark.once
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("quiet", ["0", "1"])
def test_the_first_call_that_lands_on_the_reference_warns_once(quiet: str, compiled: bool) -> None:
    command = [sys.executable, "-c", WITHOUT_LIBRARY, *(["compiled"] if compiled else [])]
    environment = os.environ | {"AFA_KERNELS_QUIET": quiet}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, count, *caller = done.stdout.split()
    assert (before, count) == ("0", "1" if quiet == "0" else "0")
    assert caller == ["<string>"] or compiled or quiet == "1"


def test_compiled_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    broken = tmp_path / "_native.abi3.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(backends, "__file__", str(tmp_path / "backends.py"))
    backends._load_library.cache_clear()
    assert f"{broken} does not load with torch {torch.__version__}" in str(backends.why_not("cpu", OP, "cpu"))


def test_no_cuda_library(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(backends, "__file__", str(tmp_path / "backends.py"))
    assert "no compiled CUDA library; install with nvcc" in str(backends.why_not("cuda", OP, "cuda"))


def test_cuda_library_that_does_not_load(kernel: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """As where torch is no CUDA build: the file, the torch, and what the loader says."""
    broken = tmp_path / "_native_cuda.abi3.so"
    broken.write_bytes(b"not a library")
    actual = backends._library
    monkeypatch.setattr(backends, "_library", lambda stem: broken if stem == "_native_cuda" else actual(stem))
    reason = str(backends.why_not("cuda", OP, "cuda"))
    assert f"{broken} does not load with torch {torch.__version__}" in reason
    assert ("no CUDA build" in reason) == (torch.version.cuda is None)
    assert "file too short" in reason or "invalid ELF header" in reason
    assert backends.automatic(OP, "cuda") != "cuda"


def test_an_operation_without_a_cuda_kernel(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_load_cuda_library", lambda: None)
    assert backends.why_not("cuda", "new", "cuda") == "it has no new"


def test_the_cuda_library_registers_what_it_has(kernel: str) -> None:
    """Every operation of csrc/cuda, where the library is built and torch is a CUDA build; no GPU is needed."""
    reason = backends._load_cuda_library()
    if reason is not None:
        pytest.skip(f"the CUDA library: {reason}")
    folder = Path(__file__).parents[1] / "csrc" / "cuda"
    for op in operations():
        if (folder / f"{op}.cu").exists():
            assert backends.why_not("cuda", op, "cuda") is None


def test_triton_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "triton" else find_spec(name))
    backends._triton_missing.cache_clear()
    assert "pip install triton" in str(backends.why_not("triton", OP, "cuda"))
    info = afa_kernels.backend_info()
    assert info.versions["triton"] == "not installed"
    assert backends.automatic(OP, "cuda") in ("cuda", "reference")


def test_triton_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libcuda is from another planet")

    monkeypatch.setattr("importlib.import_module", fail)
    backends._triton_missing.cache_clear()
    assert "another planet" in str(backends.why_not("triton", OP, "cuda"))


def test_backend_info() -> None:
    info = afa_kernels.backend_info()
    assert info.versions["version"] == afa_kernels.__version__
    assert info.versions["torch"] == torch.__version__
    assert info.chosen["meta"] == "reference"
    assert set(info.missing) == {"cuda", "cpu", "meta"}
    for device in info.missing:
        chosen = info.chosen.get(device, "none here")
        assert chosen not in info.missing[device]
        assert f"{device} tensors: {chosen}" in str(info)
        for name, reason in info.missing[device].items():
            assert f"not {name}: {reason}" in str(info)
    if not torch.cuda.is_available():
        assert "sees no CUDA device" in info.missing["cuda"]["cuda"] or "cuda" not in info.chosen


@pytest.mark.parametrize("built, told", [(None, "is built without CUDA"), ("13.0", "sees no CUDA device")])
def test_cuda_tensors_have_no_backend_where_torch_has_no_cuda(
    built: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    info = afa_kernels.backend_info()
    assert ("cuda" in info.chosen) == (built is not None)
    assert told in info.missing["cuda"]["cuda"]
    assert ("cuda tensors: none here" in str(info)) == (built is None)


def test_module_prints_the_info() -> None:
    printed = subprocess.run([sys.executable, "-m", "afa_kernels"], capture_output=True, text=True, check=True).stdout
    assert printed == str(afa_kernels.backend_info()) + "\n"


def test_a_backend_that_lacks_an_operation_says_so() -> None:
    assert backends.why_not("cpu", "new", "cpu") == "it has no new"
    assert backends.automatic("new", "cpu") == "reference"


def test_an_operation_of_aten_runs_on_its_kernels_everywhere() -> None:
    assert [backends.automatic("bn_relu_conv2d", d) for d in ("cuda", "cpu", "meta", "mps")] == ["aten"] * 4
    for name in ("cpu", "triton"):
        with afa_kernels.use_backend(name):
            assert backends.choose("bn_relu_conv2d", "cpu") == name
    with afa_kernels.use_backend("reference"):
        assert backends.choose("bn_relu_conv2d", "cpu") == "reference"


def test_parts_of_an_operation_of_aten_are_triton_kernels_where_triton_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_triton(device_type: str) -> list[bool]:
        backends._first.cache_clear()
        return [backends.on_triton("bn_relu_conv2d", device_type, name) for name in (None, "triton", "cuda", "cpu")]

    monkeypatch.setattr(
        backends, "_missing_for_triton", lambda device_type: None if device_type == "cuda" else "no GPU"
    )
    assert by_triton("cuda") == [True, True, False, False]
    assert by_triton("cpu") == [False] * 4
    monkeypatch.setattr(backends, "_missing_for_triton", lambda device_type: None)  # as in the interpreter
    assert by_triton("cpu") == [False, True, False, False]
    monkeypatch.setattr(backends, "_missing_for_triton", lambda device_type: "triton is not installed")
    assert by_triton("cuda") == by_triton("cpu") == [False] * 4
    backends._first.cache_clear()


def test_parts_of_an_operation_of_aten_are_those_of_a_backend_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(op: str) -> list[str | None]:
        backends.parts.cache_clear()
        modules = (backends.parts(op, "cpu", name) for name in ("triton", "cpu", "reference"))
        return [None if module is None else module.__name__.split(".")[1] for module in modules]

    monkeypatch.setattr(backends, "_missing_for_triton", lambda device_type: None)
    monkeypatch.setattr(backends, "_missing_for_cpu", lambda device_type: None)
    for registered, native in ((False, None), (True, "native_kernels")):
        monkeypatch.setattr(backends, "_registered", lambda name, native_op, answer=registered: answer)
        assert found("channel_attention") == ["triton_kernels", native, None]
    monkeypatch.setattr(backends, "_missing_for_triton", lambda device_type: "triton is not installed")
    monkeypatch.setattr(backends, "_missing_for_cpu", lambda device_type: "no library")
    assert found("channel_attention") == [None] * 3
    backends.parts.cache_clear()


@pytest.mark.parametrize("inside", ["reference", "triton"])
def test_backward_runs_on_the_backend_of_its_forward(inside: str, kernel: str) -> None:
    shallow = FUSION[0].clone().requires_grad_()
    out = afa_kernels.attentive_fusion(shallow, *FUSION[1:])
    with afa_kernels.use_backend(inside):
        (grad,) = torch.autograd.grad(out.sum(), [shallow])
    assert grad.shape == shallow.shape


def test_blocks_that_overlap_restore_what_was() -> None:
    """As in two threads, or two coroutines: entered first, left first."""
    first, second = afa_kernels.use_backend("reference"), afa_kernels.use_backend("cpu")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert backends._forced == "cpu"
    second.__exit__(None, None, None)
    assert backends._forced is None


def test_threads_that_enter_and_leave_at_will() -> None:
    def work() -> None:
        for _ in range(200):
            with afa_kernels.use_backend("reference"), afa_kernels.use_backend("cpu"):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backends._forced is None and backends._blocks == []


def test_backend_info_of_a_model() -> None:
    from afa_kernels.nn import AttentiveFusion

    model = torch.nn.Sequential(AttentiveFusion(16))
    assert set(afa_kernels.backend_info(model).modules.values()) == {None}
    model[0].sa.conv_inner[0].register_forward_hook(lambda *_: None)
    info = afa_kernels.backend_info(model)
    assert info.modules["0.ca"] is None and info.modules["0.sa"] is not None
    assert f"0.sa: not fused: {info.modules['0.sa']}" in str(info) and "0.ca: fused" in str(info)
