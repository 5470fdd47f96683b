"""Every operation has its benchmark, and every baseline computes what the operation does."""

from __future__ import annotations

import pytest
import torch

from afa_kernels.testing import differentiable, listed, tensors
from benchmarks import ops, report, run
from benchmarks.gpu.calls import timed
from benchmarks.ops._shapes import SIZES
from benchmarks.stages import Stage, stages
from benchmarks.traffic import ours as traffic
from benchmarks.workload import Workload, workloads

pytestmark = pytest.mark.once


def name(workload: Workload) -> str:
    return str(workload).replace(" ", "_")


@pytest.mark.parametrize("op", ops.operations())
def test_every_operation_is_measured(op: str) -> None:
    benchmark = ops.of(op)
    assert benchmark.TRAFFIC and {case.op for case in benchmark.TRAFFIC} == {op}
    calls = {size: benchmark.workloads(size) for size in SIZES}
    assert all(found and {case.op for case, _ in found} == {op} for found in calls.values())
    passes = {size: {training for _, training in found} for size, found in calls.items()}
    assert passes == dict.fromkeys(SIZES, passes["full"])
    shapes = {size: [(case.covers, case.layouts, training) for case, training in calls[size]] for size in calls}
    assert all(len(set(found)) == len(found) for found in shapes.values()), "measured twice"
    assert set(shapes["headline"]) <= set(shapes["full"])
    assert {case.op for case in benchmark.gpu(quick=False)} == {case.op for case in benchmark.gpu(quick=True)} == {op}


USES = {
    "run": lambda: workloads("quick"),
    "traffic": traffic.count,
    "report": lambda: report.summary(report.load(report.newest(report.RESULTS))),
    "gpu": lambda: timed(("new",), "cpu"),
}


@pytest.mark.parametrize("use", USES)
def test_an_operation_without_a_file_fails(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "operations", lambda: ["new"])
    with pytest.raises(LookupError, match=r"new has no benchmarks/ops/new\.py"):
        USES[use]()


@pytest.mark.parametrize("workload", [*workloads("tiny"), *workloads("quick"), *stages("quick")], ids=name)
def test_the_baseline_computes_the_same(workload: Workload) -> None:
    arguments = workload.inputs()
    with torch.no_grad():
        outputs = listed(workload.ours()(*workload.inputs()))
    functions = {"eager": workload.eager(), **workload.others(), "afa_kernels": workload.ours()}
    assert workload.why_wrong(functions, arguments, workload.upstream(outputs)) is None


def test_a_wrong_baseline_is_found() -> None:
    workload = next(w for w in workloads("quick") if w.training)
    arguments, eager = workload.inputs(), workload.eager()
    upstream = workload.upstream(listed(eager(*arguments)))
    reason = workload.why_wrong({"eager": lambda *a: 1.01 * eager(*a)}, arguments, upstream)
    assert reason is not None and "eager, output 0" in reason


def test_a_wrong_gradient_of_a_stage_is_found() -> None:
    stage = next(s for s in stages("tiny") if s.training)
    arguments, ours = stage.inputs(), stage.ours()
    upstream = stage.upstream(listed(ours(*arguments)))
    assert stage.why_wrong({"afa_kernels": ours}, arguments, upstream) is None
    last = [*ours.parameters()][-1]
    last.register_hook(lambda grad: 1.01 * grad)
    reason = stage.why_wrong({"afa_kernels": ours}, arguments, upstream)
    assert isinstance(stage, Stage) and reason is not None and "afa_kernels, gradient" in reason


@pytest.mark.parametrize("training", [False, True])
def test_what_must_be_zero(training: bool) -> None:
    """Where no ReLU is open: zeros are right, and nothing else is."""
    case = ops.of("channel_attention").call((1, 32, 8, 16), "contiguous")
    workload = Workload(case, training)
    arguments, ours = workload.inputs(), workload.ours()
    with torch.no_grad():
        arguments[3].fill_(-100.0)
    upstream = workload.upstream([torch.empty(1, 32, 1, 1)])
    assert not ours(*arguments).any()
    assert workload.why_wrong({"afa_kernels": ours, "eager": workload.eager()}, arguments, upstream) is None
    for wrong in (1e-6, torch.inf, torch.nan):
        reason = workload.why_wrong({"afa_kernels": lambda *a, w=wrong: ours(*a) + w}, arguments, upstream)
        assert reason is not None and "afa_kernels, output 0" in reason


@pytest.mark.parametrize("workload", workloads("quick"), ids=name)
def test_least_bytes(workload: Workload) -> None:
    """No less than every argument read and every output written; backward at least writes the gradients."""
    arguments = workload.inputs()
    with torch.no_grad():
        outputs = listed(workload.ours()(*arguments))
    least = workload.least(arguments, outputs)
    given = sum(t.nbytes for t in tensors(arguments))
    assert least["forward"] >= given + sum(o.nbytes for o in outputs)
    assert not differentiable(workload.case.op) or least["backward"] >= given
    moved = workload.moved_bytes(arguments, outputs)
    assert moved is None or moved >= workload.least_bytes(arguments, outputs)


def test_least_bytes_by_hand() -> None:
    """attentive_fusion of 2 x 3 x 4 x 5 in float32: two maps, 40 spatial and 6 channel logits; one map written."""
    case = ops.of("attentive_fusion").TRAFFIC[0]
    arguments = [torch.zeros(s) for s in ((2, 3, 4, 5), (2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1))]
    read, written = 4 * (120 + 120 + 40 + 6), 4 * 120
    least = ops.of("attentive_fusion").least(case, arguments, [torch.zeros(2, 3, 4, 5)])
    assert least == {"forward": read + written, "backward": read + written + read}


def test_run_measures_and_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every contestant of a workload; where one is wrong, why, and no number."""
    workload = next(w for w in workloads("quick") if w.case.op == "scale_space_weights")
    records = list(run.measure(workload, 0.0, limit=lambda: 2e9, autotuned=True))
    tuned = "compiled, max-autotune"
    assert [r["contestant"] for r in records] == ["eager", "compiled", tuned, "nerfacc's way", "afa_kernels"]
    assert all(r["p20_ms"] <= r["p50_ms"] <= r["p80_ms"] for r in records)
    assert all(r["limit_share"] == pytest.approx(r["least_gigabytes_per_second"] / 2) for r in records)
    assert "moved_bytes" in records[-1]
    monkeypatch.setattr(Workload, "why_wrong", lambda self, *arguments: "for no reason")
    (refused,) = run.measure(workload, 0.0, limit=lambda: 2e9)
    assert refused["refused"] == "for no reason" and "p50_ms" not in refused
