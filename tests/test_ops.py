"""The battery: every operation, on every backend of the session, over the table of cases."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from conftest import INTERPRETED
from guard_bands import GuardBands
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

import afa_kernels
from afa_kernels import backends, layout
from afa_kernels.testing import (
    CASES,
    DEVICE,
    LAYOUTS,
    Case,
    Dtypes,
    check,
    cotangents,
    gradients,
    listed,
    tensors,
    with_tensors,
)

pytestmark = [pytest.mark.usefixtures("poisoned"), pytest.mark.device]

FIRST = list({case.op: case for case in reversed(CASES) if case.thorough}.values())  # one case per operation
COMPOSED = ("channel_attention",)  # made of several dispatcher ops, which its own test file looks at
# On a GPU every element type of the thorough cases alone: each takes compilations of its own.
VALUES = [(c, dtypes) for c in CASES for dtypes in (c.dtypes if DEVICE == "cpu" or c.thorough else c.dtypes[:1])]
SMALL = [case for case in CASES if "few values" in case.covers]


def name(value: object) -> str | None:
    if isinstance(value, Case):
        return str(value).replace(" ", "_")
    if isinstance(value, tuple):
        return "+".join(map(str, value)).replace("torch.", "")
    return str(value).removeprefix("torch.")


over = functools.partial(pytest.mark.parametrize, ids=name)
once = pytest.mark.once  # with one kernel backend is enough: in the interpreter it takes long and shows nothing more
THOROUGH = [pytest.param(case, marks=() if case in FIRST else once) for case in CASES if case.thorough]
FIRST_OPS, THOROUGH_OPS = (
    [c for c in cases if getattr(c, "values", (c,))[0].op not in COMPOSED] for cases in (FIRST, THOROUGH)
)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The kernels that a test launches, as (backend, name)."""
    names: set[tuple[str, str]] = set()
    launcher = backends.launcher

    def record(op: str, device_type: str, backend: str) -> Callable[..., None]:
        names.add((backend, op))
        return launcher(op, device_type, backend)

    monkeypatch.setattr(backends, "launcher", record)
    return names


@over("case, dtypes", VALUES)
def test_values(case: Case, dtypes: Dtypes, backend: str, guards: GuardBands, launched: set[tuple[str, str]]) -> None:
    """Outputs and gradients against the float64 oracle; their types and memory formats."""
    if INTERPRETED and {torch.float64, torch.bfloat16} <= set(dtypes if isinstance(dtypes, tuple) else ()):
        pytest.skip(
            "Triton's interpreter reads a float64 as an integer to make a bfloat16 of it; tests/ttsem has the case"
        )
    arguments = case.inputs(dtypes)
    inputs = [guards.around(t) for t in tensors(arguments)]
    arguments = with_tensors(arguments, inputs)
    before = [t.clone() for t in inputs]
    with guards:
        outputs, grads = check(case, arguments, backend)
    if backend != "reference":
        assert len(guards.buffers) > len(inputs) + len(outputs), "the results have no guard bands"
        assert_formats(case, inputs, outputs, grads)
    computed = backend != "reference" and outputs[0].numel() > 0
    if case.op not in COMPOSED:
        assert launched == ({(backend, f"{case.op}_{way}") for way in ("forward", "backward")} if computed else set())
    for t, original in zip(inputs, before, strict=True):
        assert torch.equal(t.nan_to_num(7.0), original.nan_to_num(7.0)), "an input was written to"


def assert_formats(case: Case, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """The memory format of the first feature map, for feature maps; contiguous, for attention."""
    features = {
        "attentive_fusion": 2,
        "bn_relu_project": 1,
        "channel_attention": 1,
        "global_avg_max_pool": 1,
        "scale_space_weights": 0,
    }.get(case.op, len(case.shapes[0]))
    for i, (grad, x) in enumerate(zip(grads, inputs, strict=True)):
        a_part = case.op.startswith("scale_space") and isinstance(case.shapes[-1], list) and i >= features
        if x.dtype == outputs[0].dtype and not a_part:  # of the gradient of concatenated logits
            assert grad.stride() == strides_of(grad, inputs[0] if i < features else None), f"gradient {i}"
    for i, out in enumerate(outputs):
        is_map = features and out.dim() == 4 and out.shape[1] > 1 and case.op not in COMPOSED
        assert out.stride() == strides_of(out, inputs[0] if is_map else None), f"output {i}"


def strides_of(t: Tensor, like: Tensor | None) -> tuple[int, ...]:
    memory_format = torch.contiguous_format if like is None else layout.memory_format(like)
    return torch.empty(t.shape, memory_format=memory_format).stride()


@over("case", SMALL)
def test_gradcheck(case: Case, backend: str) -> None:
    arguments = case.inputs(torch.float64)
    leaves = [t.requires_grad_() for t in tensors(arguments)]
    fast = backend == "triton"  # its interpreter takes as long for a call as the others take for a hundred
    assert torch.autograd.gradcheck(
        lambda *new: tuple(case(with_tensors(arguments, new), backend)), leaves, fast_mode=fast
    )


class Recorder(TorchDispatchMode):
    """The calls of afa's dispatcher ops, as (op, arguments, result)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "afa":
            self.calls.append((func, args, result))
        return result


def recorded(case: Case, dtype: torch.dtype, backend: str) -> Iterator[tuple[Any, tuple[Any, ...], Any]]:
    with Recorder() as recorder:
        gradients(lambda a: case(a, backend), case.inputs(dtype))
    names = dict.fromkeys(func._schema.name for func, _, _ in recorder.calls)
    assert list(names) == [f"afa::{case.op}", f"afa::{case.op}_backward"]
    yield from recorder.calls


@over("case", THOROUGH_OPS)
def test_opcheck(case: Case, kernel: str) -> None:
    """The dispatcher ops, forward and backward: schema, autograd registration, fake kernel, AOTAutograd."""
    for func, args, _ in recorded(case, torch.float32, kernel):
        differentiable = not func._schema.name.endswith("_backward")
        fresh = with_leaves(args, lambda t: t.detach().requires_grad_(differentiable and t.is_floating_point()))
        with afa_kernels.use_backend(kernel):
            torch.library.opcheck(func, fresh)


@once
@over("case", [case for case in CASES if case.dtypes[0] == torch.float32 and case.op not in COMPOSED])
def test_fake_strides(case: Case, kernel: str) -> None:
    """A fake kernel describes what the real one returns, to the stride."""
    if 0 in (t.numel() for t in tensors(case.inputs(torch.float32))):
        return
    for func, args, result in recorded(case, torch.float32, kernel):
        with FakeTensorMode() as mode:
            fakes = listed(func(*with_leaves(args, mode.from_tensor)))
        real = listed(result)
        assert [(f.shape, f.stride(), f.dtype) for f in fakes] == [(r.shape, r.stride(), r.dtype) for r in real]


def with_leaves(args: Sequence[Any], new: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    def replace(argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return new(argument)
        if isinstance(argument, list):
            return [replace(a) for a in argument]
        return argument

    return tuple(replace(argument) for argument in args)


@over("case", FIRST_OPS)
def test_partial_requires_grad(case: Case, kernel: str) -> None:
    """A gradient nobody asked for is not computed; the others do not change by a bit."""
    arguments = case.inputs(torch.float32)
    every = gradients(lambda a: case(a, kernel), arguments)
    alone = [[i == j for i in range(len(every))] for j in range(len(every))]
    for wanted in alone + [[not w for w in one] for one in alone if len(one) > 1]:
        with Recorder() as recorder:
            grads = gradients(lambda a: case(a, kernel), arguments, wanted=wanted)
        asked = [e for e, w in zip(every, wanted, strict=True) if w]
        assert all(torch.equal(g, e) for g, e in zip(grads, asked, strict=True))
        (_, _, computed) = recorder.calls[-1]
        assert len(listed(computed)) == sum(wanted)


@over("case", FIRST)
def test_nothing_recorded_without_grad(case: Case, backend: str) -> None:
    arguments = case.inputs(torch.float32)
    assert not any(o.requires_grad for o in case(arguments, backend))
    for t in tensors(arguments):
        t.requires_grad_()
    assert all(o.requires_grad for o in case(arguments, backend))
    with torch.no_grad():
        assert not any(o.requires_grad for o in case(arguments, backend))


@over("case", THOROUGH)
def test_gradient_of_a_sum(case: Case, backend: str) -> None:
    """The upstream gradient of a sum is one number expanded to the whole shape, with strides of zero."""
    arguments = case.inputs(torch.float32)

    def expanded(outputs: list[Tensor]) -> list[Tensor]:
        return [torch.ones(()).expand(o.shape) for o in outputs]

    def dense(outputs: list[Tensor]) -> list[Tensor]:
        return [torch.ones(o.shape) for o in outputs]

    for got, expected in zip(*(gradients(lambda a: case(a, backend), arguments, g) for g in (expanded, dense))):
        torch.testing.assert_close(got, expected)


@over("case", [c for c in THOROUGH if getattr(c, "values", (c,))[0].op != "scale_space_cross_entropy"])  # a scalar
def test_upstream_gradient_in_any_layout(case: Case, kernel: str) -> None:
    arguments = case.inputs(torch.float32)
    plain = gradients(lambda a: case(a, kernel), arguments)
    for change in ("channels_last", "permuted", "sliced"):
        changed = gradients(
            lambda a: case(a, kernel), arguments, lambda outputs: [LAYOUTS[change](g) for g in cotangents(outputs)]
        )
        assert all(torch.equal(c, p) for c, p in zip(changed, plain, strict=True)), change


@over("case", THOROUGH)
def test_deterministic(case: Case, backend: str) -> None:
    """The same bits in every run, whether or not PyTorch must be deterministic; on cpu with any number of threads."""
    settings = ((torch.get_num_threads(), True), (torch.get_num_threads(), False), (1, False), (2, False), (5, False))
    arguments = case.inputs(torch.float32)

    def run() -> list[Tensor]:
        return [*case(arguments, backend), *gradients(lambda a: case(a, backend), arguments)]

    first = run()
    threads = torch.get_num_threads()
    try:
        for count, deterministic in settings if backend == "cpu" else settings[:2]:
            torch.set_num_threads(count)
            torch.use_deterministic_algorithms(deterministic)
            assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True)), (count, deterministic)
    finally:
        torch.set_num_threads(threads)


@over("case", FIRST_OPS)
def test_double_backward(case: Case, backend: str) -> None:
    """The kernels are differentiable once and say so; the reference is differentiable as often as one likes."""
    arguments = case.inputs(torch.float64)
    leaves = [t.requires_grad_() for t in tensors(arguments)]
    outputs = case(with_tensors(arguments, leaves), backend)
    grads = torch.autograd.grad(sum((o * o).sum() for o in outputs), leaves, create_graph=True)
    total = sum((g * g).sum() for g in grads)
    if backend == "reference":
        assert all(g.isfinite().all() for g in torch.autograd.grad(total, leaves))
    else:
        with pytest.raises(NotImplementedError, match=f"{case.op} is differentiable once.*use_backend.'reference'."):
            torch.autograd.grad(total, leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@over("case", FIRST)
def test_autocast(case: Case, dtype: torch.dtype, backend: str) -> None:
    """Fusion and pooling keep the type of the feature maps; what fuses scales comes in float32."""
    arguments = case.inputs(dtype)
    plain = case(arguments, backend)
    with torch.autocast(DEVICE, torch.bfloat16):
        outputs = case(arguments, backend)
        grads = gradients(lambda a: case(a, backend), arguments)
    expected = torch.float32 if case.op.startswith(("scale_space", "hierarchical")) else dtype
    assert [o.dtype for o in outputs] == [expected] * len(outputs)
    torch.testing.assert_close([o.to(p.dtype) for o, p in zip(outputs, plain, strict=True)], plain)
    assert all(g.dtype == dtype and g.isfinite().all() for g in grads)


@over("case", THOROUGH)
def test_compile(case: Case, kernel: str) -> None:
    assert_compiled_agrees(case, kernel, [case.inputs(torch.float32)], backend="aot_eager", dynamic=False)


@once
@over("case", FIRST)
def test_compile_dynamic(case: Case, kernel: str) -> None:
    """One compilation serves every size."""
    arguments = case.inputs(torch.float32)
    calls = [
        with_tensors(
            arguments,
            [pad(t, (0, more + 1, 0, more)) if t.dim() == 4 and t.shape[-1] > 1 else t for t in tensors(arguments)],
        )
        for more in (4, 5, 7)  # so that no height or width is also the number of images, channels or scales
    ]
    assert_compiled_agrees(case, kernel, calls, backend="aot_eager", dynamic=True)


@once
@over("case", FIRST)
def test_compile_inductor(case: Case, kernel: str) -> None:
    assert_compiled_agrees(case, kernel, [case.inputs(torch.float32)], backend="inductor", dynamic=False)


def assert_compiled_agrees(case: Case, kernel: str, calls: Sequence[Any], backend: str, dynamic: bool) -> None:
    """Outputs and gradients of a compiled function around the operation, which must not compile a second time."""

    def around(*arguments: Any) -> list[Tensor]:
        return [o + 1 for o in listed(case.call(getattr(afa_kernels, case.op), *arguments))]

    torch.compiler.reset()
    compiled = torch.compile(around, fullgraph=True, dynamic=dynamic, backend=backend)
    with afa_kernels.use_backend(kernel):
        for i, arguments in enumerate(calls):
            with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
                got = gradients(lambda a: compiled(*a), arguments)
                outputs = compiled(*with_tensors(arguments, [t.detach().requires_grad_() for t in tensors(arguments)]))
            expected = gradients(lambda a: around(*a), arguments)
            for a, b in zip((*outputs, *got), (*around(*arguments), *expected), strict=True):
                torch.testing.assert_close(a, b)
                assert a.stride() == b.stride()
