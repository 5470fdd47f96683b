"""Bytes that the Triton kernels move, counted in the interpreter, over the least that must move."""

from __future__ import annotations

import pytest
import torch
from conftest import INTERPRETED

import afa_kernels
from afa_kernels.models import AFAIDAUp
from benchmarks import ops
from benchmarks.traffic.contests import Stage, contests
from benchmarks.traffic.meter import counted
from benchmarks.traffic.ours import load, passes, table

needs_the_interpreter = pytest.mark.skipif(
    not INTERPRETED, reason="counted in Triton's interpreter: TRITON_INTERPRET=1"
)


def test_every_operation_is_counted() -> None:
    assert {case.op for case in ops.traffic_cases()} == set(ops.operations())


def test_table() -> None:
    """A row a pass; what was not counted, by whom, is a question mark."""
    rows = [r for r in load() if r["case"] == "attentive_fusion: NCHW"]
    assert len(table(rows).splitlines()) == 2 + 2
    partly = table([r for r in rows if r["who"] != "torch.compile"]).splitlines()
    assert ", ?, " in partly[2] and partly[2].endswith("| not counted |")


@needs_the_interpreter
@pytest.mark.parametrize("contest", contests(), ids=str)
def test_bytes_over_the_least(contest) -> None:
    lower, recorded = contest.least(), {(r["case"], r["pass"]): r for r in load() if r["who"] == "afa_kernels"}
    for direction, traffic in passes(contest, contest.ours).items():
        record = recorded[str(contest), direction]
        assert traffic.kernels == record["kernels"], "python -m benchmarks.traffic records anew"
        if isinstance(contest, Stage):
            assert traffic.sectors / lower[direction] <= 1.01 * record["sectors"]
            continue
        most = {"forward": 1.02, "backward": 1.02, **getattr(ops.of(contest.case.op), "MOST", {})}
        assert 0.99 <= traffic.sectors / lower[direction] <= most[direction], direction
        if contest.case.op == "attentive_fusion":  # nor does a program ask twice for what the cache would hold
            assert traffic.requested / lower[direction] <= most[direction]


@needs_the_interpreter
def test_the_meter_by_hand() -> None:
    """1024 floats are 4096 bytes, 128 sectors: an operator, a view, an overwrite, and a launch with its own reads."""
    x = torch.randn(1, 1, 16, 64)
    with counted() as traffic:
        (x + x).view(4, 256)  # reads x once, writes once
        torch.empty_like(x).copy_(x)  # allocating moves nothing; a copy reads one and writes one
    assert (traffic.kernels, traffic.sectors) == (2, 4 * 4096)
    with counted() as traffic, afa_kernels.use_backend("triton"):
        afa_kernels.scale_space_weights(x)  # reads the logits, writes the weights and what is left
    assert (traffic.kernels, traffic.sectors) == (1, 3 * 4096)
    with counted() as traffic, afa_kernels.use_backend("triton"):
        afa_kernels.scale_space_weights(x.transpose(2, 3))  # which is copied first
    assert (traffic.kernels, traffic.sectors) == (2, 5 * 4096)


@needs_the_interpreter
@pytest.mark.parametrize("upsampled", [False, True])
def test_launches_of_a_whole_fusion(upsampled: bool) -> None:
    """Kernels and operators of the attention, the fusion and the running statistics, with the upsampling inside or of
    maps of one size. In evaluation mode those of a folded copy; the module folds anew at every call."""
    shallow, deep = torch.randn(2, 16, 8, 8), torch.randn(2, 16, *((4, 4) if upsampled else (8, 8)))
    model = AFAIDAUp(16, [16, 16], [1, 2]) if upsampled else afa_kernels.nn.AttentiveFusion(16)
    given = ([shallow, deep],) if upsampled else (shallow, deep)
    with afa_kernels.use_backend("triton"):
        maps = shallow.requires_grad_(), deep.requires_grad_()
        with counted() as forward:
            out = model(*given)
        out = out[0] if upsampled else out
        with counted() as backward:
            torch.autograd.grad(out, (*maps, *model.parameters()), torch.ones_like(out))
        with torch.no_grad():
            folded = afa_kernels.fold(model.eval(), *given)
            with counted() as evaluation:
                folded(*given)
    assert forward.kernels <= 20 and backward.kernels <= 25 and evaluation.kernels <= 10 + 2 * upsampled
