"""Plans: calls that follow one are as the others, and only calls of one kind share one."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
import torch
from support.parts import FIRST, SMALL, once, over
from support.recorder import Recorder
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

import afa_kernels
from afa_kernels import plans
from afa_kernels.testing import DEVICE, Case, both_passes, differentiable, tensors, written

pytestmark = pytest.mark.device

SIZE = {"x": (2, 8, 4, 6), "y": (2, 8, 4, 6), "s": (2, 1, 4, 6), "q": (2, 8, 1, 1)}
CALLS = 4  # seen, watched, and two that may follow a plan
ONE_OF_EACH = list({case.op: case for case in (*FIRST, *reversed(SMALL))}.values())
PLANNED = {"attentive_fusion", "global_avg_max_pool", "progressive_fusion", "scale_space_render", "scale_space_labels"}


def fresh(dtype: torch.dtype = torch.float32, batch: int = 2) -> list[Tensor]:
    """New arguments of attentive_fusion."""
    return [torch.randn(batch, *size[1:], device=DEVICE).to(dtype) for size in SIZE.values()]


def expected(given: Sequence[Any], function: Callable[..., Any] = afa_kernels.attentive_fusion) -> Any:
    with afa_kernels.use_backend("reference"):
        return function(*given)


def right(given: Sequence[Any], function: Callable[..., Any] = afa_kernels.attentive_fusion) -> Tensor:
    """The result of one call, which is that of the reference."""
    result = function(*given)
    torch.testing.assert_close(result, expected(given, function))
    return result


def planned(name: str = "attentive_fusion") -> int:
    """How many plans of the whole of a public operation there are."""
    return sum(key[0].__name__ == name and plan is not None for key, plan in plans._plans.items())


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans that are followed, one for each call."""
    found: list[Any] = []
    call = plans._Plan.__call__

    def record(plan: Any, given: list[Tensor]) -> Any:
        found.append(plan)
        return call(plan, given)

    monkeypatch.setattr(plans._Plan, "__call__", record)
    return found


@over(ONE_OF_EACH, all_interpreted=True)
@pytest.mark.parametrize("gradient", [False, True])
def test_every_call_of_a_kind_is_right(case: Case, kernel: str, gradient: bool, followed: list[Any]) -> None:
    """And writes to memory of its own: outputs and gradients of all calls, looked at after the last."""
    if gradient and not differentiable(case.op):
        return
    dtype = case.dtypes[0]
    wanted = [gradient] * len(tensors(case.inputs(dtype)))
    results, answers = [], []
    for seed in range(CALLS):
        arguments = case.inputs(dtype, seed=seed)
        results.append(both_passes(lambda a: case.outputs(a, kernel), arguments, wanted=wanted))
        answers.append(both_passes(lambda a: case.outputs(a, "reference"), arguments, wanted=wanted))
    torch.testing.assert_close(results, answers, atol=1e-3, rtol=1e-3)
    kinds = [[(t.dtype, t.shape, t.stride()) for both in passes for t in both] for passes in results]
    assert kinds == kinds[:1] * CALLS
    of_calls = [{t.untyped_storage().data_ptr() for both in passes for t in both} for passes in results]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(of_calls, 2))
    if case.op in PLANNED:
        assert len(followed) >= 2 * (1 + gradient)


def test_the_whole_call_follows(kernel: str, followed: list[Any]) -> None:
    """Past the checks, the dispatcher and the launcher, from the third call on."""
    with torch.no_grad():
        for i in range(CALLS):
            right(fresh())
            assert planned() == (i >= 1) and len(followed) == max(0, i - 1)


def test_a_gradient_follows(kernel: str, followed: list[Any]) -> None:
    """In one plan the op as autograd sees it, and in it that of its forward pass; then that of its backward pass."""
    for i in range(CALLS):
        given = [t.requires_grad_() for t in fresh()]
        before = len(followed)
        out = right(given)
        torch.autograd.grad(out, given, torch.ones_like(out))
        assert out.requires_grad and planned() == (i >= 1)
    assert len(followed) - before == 3
    with pytest.raises(NotImplementedError, match="differentiable once"):
        grads = torch.autograd.grad(out := afa_kernels.attentive_fusion(*given), given, out, create_graph=True)
        torch.autograd.grad(grads[0].sum(), given)


KINDS: dict[str, Callable[[], list[Tensor]]] = {
    "shape": lambda: fresh(batch=3),
    "memory format": lambda: [t.contiguous(memory_format=torch.channels_last) for t in fresh()],
    "type": lambda: fresh(torch.float64),
    "one type": lambda: [*fresh()[:2], *fresh(torch.float64)[2:]],
    "alignment": lambda: [_moved(t) for t in fresh()],
    "a stride": lambda: [_apart(t) for t in fresh()],
    "gradient": lambda: [t.requires_grad_() for t in fresh()],
    "a negative view": lambda: [torch._neg_view(t) for t in fresh()],
    "a parameter": lambda: [torch.nn.Parameter(t, requires_grad=False) for t in fresh()],
}


def _moved(x: Tensor) -> Tensor:
    """A copy of `x` that starts one element behind an address that 16 divides."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def _apart(x: Tensor) -> Tensor:
    """A copy of `x` with as much memory again between two images."""
    return torch.cat([x, x], dim=1)[:, : x.shape[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_has_another_plan(kernel: str, kind: str) -> None:
    for _ in range(CALLS):
        right(fresh())
    for _ in range(CALLS):
        right(KINDS[kind]())
    if kind not in ("a parameter", "a negative view"):
        assert planned() == 2
    for _ in range(CALLS):
        right(fresh())


@once
def test_numbers_and_options_are_of_the_kind(kernel: str) -> None:
    predictions = [torch.randn(1, 3, 4, 4, device=DEVICE), torch.randn(1, 3, 8, 8, device=DEVICE)]
    logits = torch.randn(1, 2, 8, 8, device=DEVICE)
    options = itertools.product(("abs", "exp"), ("none", "last"), ("weights", "opacities"))
    calls = [dict(phi=phi, background=background, resize=resize) for phi, background, resize in options]
    calls += [dict(size=(8, 16)), dict(size=torch.Size((16, 8))), dict(size=[16, 16])]
    for _ in range(CALLS):
        for keywords in calls:
            for given in (predictions, tuple(predictions)):
                right((given, logits), lambda *a, k=keywords: afa_kernels.scale_space_render(*a, **k))
                right((given, logits, *keywords.values()), _render) if "size" in keywords else None
    # Of eight of options, and three of sizes, by name and by place, each for a list and for a tuple.
    assert planned("scale_space_render") == 2 * (8 + 2 * 3)


def _render(predictions: Sequence[Tensor], logits: Tensor, size: Any) -> Tensor:
    return afa_kernels.scale_space_render(predictions, logits, size)


def test_a_switch_of_the_backend(kernel: str) -> None:
    for _ in range(CALLS):
        right(fresh())
    given = fresh()
    with afa_kernels.use_backend("reference"):
        reference = afa_kernels.attentive_fusion(*given)
    assert torch.equal(reference, expected(given))
    with afa_kernels.use_backend("cuda" if DEVICE == "cpu" else "cpu"), pytest.raises(RuntimeError, match="cannot run"):
        afa_kernels.attentive_fusion(*given)


def test_autocast_is_of_the_kind(kernel: str) -> None:
    predictions, logits = [torch.randn(1, 3, 4, 4, dtype=torch.bfloat16, device=DEVICE)], torch.randn(1, 1, 4, 4)
    given = predictions, logits.to(DEVICE)
    for _ in range(CALLS):
        assert afa_kernels.scale_space_render(*given).dtype == torch.bfloat16
        with torch.autocast(DEVICE, torch.bfloat16):
            assert afa_kernels.scale_space_render(*given).dtype == torch.float32
    assert planned("scale_space_render") == 2


def test_inference_mode_makes_inference_tensors(kernel: str) -> None:
    for _ in range(CALLS):
        with torch.no_grad():
            assert not right(fresh()).is_inference()
        with torch.inference_mode():
            assert right(fresh()).is_inference()
    assert planned() == 1


def test_gradient_mode_is_of_the_kind(kernel: str) -> None:
    for _ in range(CALLS):
        given = [t.requires_grad_() for t in fresh()]
        with torch.no_grad():
            assert not right(given).requires_grad
        assert right(given).requires_grad


def test_a_tensor_given_twice(kernel: str) -> None:
    """It has no plan, nor does it keep others of the kind from having one."""
    for _ in range(CALLS):
        x, _, s, q = fresh()
        right((x, x, s, q))
    assert planned() == 0
    for _ in range(CALLS):
        right(fresh())
        right((x, x, s, q))
    assert planned() == 1


def test_views_of_one_memory(kernel: str) -> None:
    for _ in range(CALLS):
        x, y, s, q = fresh()
        right((*torch.stack([x, y]), s, q))
        right((*torch.stack([x, y]).unbind(0)[::-1], s, q))
    for _ in range(2):
        right(fresh())


def test_a_copy_is_made_in_every_call(kernel: str) -> None:
    """The rows of a permuted map have no one stride, and so it is copied first."""
    for _ in range(CALLS):
        x, y, s, q = fresh()
        right((x, y.transpose(2, 3).contiguous().transpose(2, 3)[..., : x.shape[3]], s, q))
    assert planned() == 1


def test_values_are_looked_at_in_every_call(kernel: str) -> None:
    """A target that is no class is refused in any call."""
    for reduction in ("none", "mean"):
        for _ in range(CALLS):
            logits = torch.randn(1, 3, 4, 4, device=DEVICE, requires_grad=True)
            target = torch.randint(4, (1, 8, 8), device=DEVICE)
            options = {"ignore_index": 3, "reduction": reduction}
            loss = afa_kernels.resized_cross_entropy(logits, target, **options)
            loss.sum().backward()
            resized = torch.nn.functional.interpolate(logits, size=(8, 8), mode="bilinear")
            torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(resized, target, **options))
        if DEVICE == "cpu":
            with pytest.raises(ValueError, match="target"):
                afa_kernels.resized_cross_entropy(logits, target + 3, **options)
    assert planned("resized_cross_entropy") == 2


@once
@pytest.mark.parametrize(
    "look", [lambda x: x.sum().item() > 0, lambda x: torch.equal(x, 2 * x), lambda x: len(x.nonzero()) > 1]
)
def test_what_goes_by_values_has_no_plan(kernel: str, look: Callable[[Tensor], bool]) -> None:
    def computed(x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        plans.note(torch.Tensor.copy_, (out, x))
        return out.copy_(x).neg() if look(x) else out.copy_(x)

    rows = [[1.0, 2.0, 3.0, 4.0]] * CALLS + [[-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    for x in torch.tensor(rows, device=DEVICE):
        assert torch.equal(plans.of_kernel(computed, [x]), -x if look(x) else x)
    assert [*plans._plans.values()] == [None]


def _unrecorded(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


def _in_place(x: Tensor) -> Tensor:
    return (x * 2).mul_(x)


def _of_a_view(x: Tensor) -> Tensor:
    out = x.detach() * 2
    out[0].mul_(3)
    return out


@once
@pytest.mark.parametrize("compute", [_unrecorded, _in_place, _of_a_view])
@pytest.mark.parametrize("gradient", [False, True])
def test_operators_of_pytorch(
    kernel: str, compute: Callable[[Tensor], Tensor], gradient: bool, followed: list[Any]
) -> None:
    for _ in range(CALLS):
        x = torch.randn(2, 3, device=DEVICE, requires_grad=gradient)
        out, right = plans.of_operation(compute, compute, [x]), compute(x)
        torch.testing.assert_close(out, right)
        assert out.requires_grad == right.requires_grad
        if out.requires_grad:
            ones = torch.ones_like(out)
            torch.testing.assert_close(torch.autograd.grad(out, x, ones), torch.autograd.grad(right, x, ones))
    refused = compute is _of_a_view and gradient  # a view that autograd would have to know
    assert len(followed) == (0 if refused else CALLS - 2)


@once
def test_autocast_is_of_the_kind_of_a_kernel(kernel: str) -> None:
    def computed(x: Tensor) -> Tensor:
        out = x @ x
        plans.note(torch.relu_, (out,))
        return out.relu_()

    for autocast in CALLS * [True] + CALLS * [False]:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            out = plans.of_kernel(computed, [torch.ones(3, 3, device=DEVICE)])
        assert out.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert None not in plans._plans.values() and len(plans._plans) == 2


@pytest.mark.parametrize("gradient", [False, True])
def test_running_statistics_move_in_every_call(kernel: str, gradient: bool) -> None:
    """What writes to its arguments writes in every call, and autograd does not see it."""
    weight = torch.ones(3, device=DEVICE, requires_grad=gradient)
    project, bias = torch.randn(1, 3, 1, 1, device=DEVICE), torch.zeros(3, device=DEVICE)
    mean, var = torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE)
    expected_mean, expected_var = mean.clone(), var.clone()
    for _ in range(CALLS):
        hidden = torch.randn(2, 3, 4, 4, device=DEVICE)
        out = afa_kernels.bn_relu_project(hidden, weight, bias, mean, var, project, True)
        torch.nn.functional.batch_norm(hidden, expected_mean, expected_var, training=True)
        torch.testing.assert_close((mean, var), (expected_mean, expected_var))
        assert out.requires_grad == gradient and not (mean.requires_grad or var.requires_grad)
    assert planned("bn_relu_project") == 1


def test_bad_arguments_are_refused_where_there_are_plans(kernel: str) -> None:
    for _ in range(CALLS):
        x, y, s, q = fresh()
        right((x, y, s, q))
    with pytest.raises(ValueError, match="deep must have shape"):
        afa_kernels.attentive_fusion(x, y[:1], s, q)
    with pytest.raises(TypeError, match="deep must have dtype"):
        afa_kernels.attentive_fusion(x, y.int(), s, q)
    with pytest.raises(TypeError, match="deep must be a dense"):
        afa_kernels.attentive_fusion(x, y.to_sparse(), s, q)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        afa_kernels.attentive_fusion(x, y, s)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="deep must be a Tensor"):
        afa_kernels.attentive_fusion(x, None, s, q)  # type: ignore[arg-type]


def test_plans_keep_no_tensor(kernel: str) -> None:
    kept = []
    for _ in range(CALLS):
        given = [t.requires_grad_() for t in fresh()]
        out = afa_kernels.attentive_fusion(*given)
        grads = torch.autograd.grad(out, given, torch.ones_like(out))
        with torch.no_grad():
            kept += [weakref.ref(t) for t in (*given, out, *grads, afa_kernels.attentive_fusion(*given))]
    del given, out, grads
    gc.collect()
    assert not [t for t in kept if t() is not None]
    assert planned() == 2


@pytest.fixture
def followers(kernel: str) -> Iterator[list[Tensor]]:
    """Arguments of a kind that has plans of both passes, with a gradient and without."""
    for _ in range(CALLS):
        right(fresh())
        given = [t.requires_grad_() for t in fresh()]
        out = right(given)
        torch.autograd.grad(out, given, torch.ones_like(out))
    assert planned() == 2
    yield fresh()


@once
def test_modes_see_the_ops(followers: list[Tensor]) -> None:
    with Recorder() as recorder:
        right(followers)
        leaves = [t.requires_grad_() for t in fresh()]
        afa_kernels.attentive_fusion(*leaves).sum().backward()
    names = [func._schema.name for func, _, _ in recorder.calls]
    assert names == 2 * ["afa::attentive_fusion"] + ["afa::attentive_fusion_backward"]
    hidden = torch.randn(1, 3, 4, 5, device=DEVICE)
    row, weight = torch.ones(3, device=DEVICE), torch.ones(1, 3, 1, 1, device=DEVICE)
    for _ in range(CALLS):
        afa_kernels.bn_relu_project(hidden, row, row.clone(), None, None, weight)
    with FlopCounterMode(display=False) as flops:
        afa_kernels.bn_relu_project(hidden, row, row.clone(), None, None, weight)
    assert planned("bn_relu_project") == 1
    assert flops.get_total_flops() > 0


@once
def test_a_profile_has_the_ops(followers: list[Tensor]) -> None:
    leaves = [t.requires_grad_() for t in fresh()]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        with torch.no_grad():
            right(followers)
        afa_kernels.attentive_fusion(*leaves).sum().backward()
    counts = {e.key: e.count for e in profile.key_averages()}
    assert counts["afa::attentive_fusion"] == 2 and counts["afa::attentive_fusion_backward"] == 1


@once
def test_transforms_and_traces(followers: list[Tensor]) -> None:
    """Of the kind of which there are plans, element for element of a batch too."""
    batch = [torch.stack([t, -t]) for t in followers]
    torch.testing.assert_close(
        torch.func.vmap(afa_kernels.attentive_fusion)(*batch), torch.stack([expected(b) for b in zip(*batch)])
    )
    loss = lambda *given: afa_kernels.attentive_fusion(*given).square().sum()  # noqa: E731
    torch.testing.assert_close(torch.func.grad(loss)(*followers), torch.func.grad(_reference_loss)(*followers))
    with FakeTensorMode() as mode:
        fake = afa_kernels.attentive_fusion(*(mode.from_tensor(t) for t in followers))
    assert type(fake).__name__ == "FakeTensor"
    graph = make_fx(lambda *given: afa_kernels.attentive_fusion(*given))(*followers)
    assert torch.ops.afa.attentive_fusion.default in [node.target for node in graph.graph.nodes]
    given = fresh()
    torch.testing.assert_close(graph(*given), expected(given))
    assert torch.func.jvp(_reference_loss, tuple(given), tuple(followers))
    with pytest.raises(NotImplementedError, match="no forward-mode"):
        torch.func.jvp(loss, tuple(given), tuple(followers))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward-mode"):
        afa_kernels.attentive_fusion(*map(forward_ad.make_dual, given, followers))


def _reference_loss(*given: Tensor) -> Tensor:
    return expected(given).square().sum()


class _Fused(torch.nn.Module):
    def forward(self, shallow: Tensor, deep: Tensor, spatial: Tensor, channel: Tensor) -> Tensor:
        return afa_kernels.attentive_fusion(shallow, deep, spatial, channel)


@once
def test_programs(followers: list[Tensor]) -> None:
    given = fresh()
    answer = expected(given)
    compiled = torch.compile(afa_kernels.attentive_fusion, backend="aot_eager", fullgraph=True)
    for _ in range(CALLS):
        torch.testing.assert_close(compiled(*given), answer)
    program = torch.export.export(_Fused(), tuple(given))
    assert torch.ops.afa.attentive_fusion.default in [node.target for node in program.graph.nodes]
    torch.testing.assert_close(program.module()(*given), answer)
    traced = torch.jit.trace(afa_kernels.attentive_fusion, tuple(given), check_trace=False)
    assert "afa::attentive_fusion" in str(traced.graph)
    symbolic = torch.fx.symbolic_trace(_Fused())
    assert afa_kernels.attentive_fusion in [node.target for node in symbolic.graph.nodes]


class _Subclass(Tensor):
    seen: ClassVar[list[Any]] = []

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


@once
def test_subclasses_and_function_modes_have_the_call(followers: list[Tensor]) -> None:
    afa_kernels.attentive_fusion(followers[0].as_subclass(_Subclass), *followers[1:])
    assert afa_kernels.attentive_fusion in _Subclass.seen

    class Mode(torch.overrides.TorchFunctionMode):
        seen: ClassVar[list[Any]] = []

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(function)
            return function(*args, **(kwargs or {}))

    with Mode() as mode:
        afa_kernels.attentive_fusion(*followers)
    assert afa_kernels.attentive_fusion in mode.seen


def test_there_are_so_many_kinds_and_no_more(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MOST", 5)
    for batch in range(1, 10):
        for _ in range(CALLS):
            right(fresh(batch=batch))
            assert len(plans._seen) <= 5 and len(plans._plans) <= 5


@once
def test_threads(kernel: str) -> None:
    """Each watches its own calls, and all follow the same plans."""
    wrong: list[Any] = []

    def work() -> None:
        for i in range(60):
            given = fresh(batch=1 + i % 3)
            try:
                right(given) if i % 2 else _step(given)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _step(given: list[Tensor]) -> None:
    leaves = [t.detach().requires_grad_() for t in given]
    grads = torch.autograd.grad(afa_kernels.attentive_fusion(*leaves).square().sum(), leaves)
    with afa_kernels.use_backend("reference"):
        answer = torch.autograd.grad(afa_kernels.attentive_fusion(*leaves).square().sum(), leaves)
    torch.testing.assert_close(grads, answer)


def test_warmup_sees_launches_of_a_kind_that_has_a_plan(kernel: str) -> None:
    if kernel != "triton":
        pytest.skip("only Triton's launches are hooked")
    from afa_kernels.triton_kernels import _launch

    given = fresh()
    for _ in range(CALLS):
        right(given)
    launches: list[Any] = []
    with _launch.hooked(launches.append):
        afa_kernels.attentive_fusion(*given)
    assert len(launches) == 1
    assert afa_kernels.warmup(afa_kernels.attentive_fusion, *given) == 1


def test_in_place(kernel: str) -> None:
    """What has no plan as a whole may have one of its kernel."""
    from cases.scale_space_accumulate import CASES

    case = next(c for c in CASES if c.thorough)
    assert written(case.op)
    for seed in range(CALLS):
        arguments = case.inputs(torch.float32, seed=seed)
        torch.testing.assert_close(case.outputs(arguments, kernel), case.outputs(arguments, "reference"))
    assert any(plan is not None for plan in plans._plans.values())


@once
def test_scratch_is_let_go(kernel: str) -> None:
    """What one launch leaves for the next is not there any more when the one after that gets its memory."""
    scratch: list[StorageWeakRef] = []
    alive: list[bool] = []

    def start(x: Tensor, out: Tensor) -> None:
        alive.append(not all(memory.expired() for memory in scratch))
        scratch.append(StorageWeakRef(out.untyped_storage()))
        out.copy_(x)

    def launch(x: Tensor, out: Tensor) -> None:
        with plans.unseen():
            start(x, out)
        plans.note(start, (x, out))

    def computed(x: Tensor) -> Tensor:
        for _ in range(3):
            launch(x, torch.empty_like(x))
        out = torch.empty_like(x)
        launch(x, out)
        return out

    for _ in range(CALLS):
        scratch.clear()
        alive.clear()
        x = torch.randn(5, device=DEVICE)
        assert torch.equal(plans.of_kernel(computed, [x]), x)
        assert alive == 4 * [False]
    assert all(plan is not None for plan in plans._plans.values()) and plans._plans
