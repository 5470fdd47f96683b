"""Bytes that the Triton kernels move, counted in the interpreter, over the least that must move."""

from __future__ import annotations

import pytest
import torch
from conftest import INTERPRETED

import afa_kernels
from benchmarks import ops
from benchmarks.traffic.meter import counted
from benchmarks.traffic.ours import least, load, ours, table

# (operation, pass): the most, over the least, PyTorch's operators included. attentive_fusion's backward adds its
# partial sums and reads them back. A backward pass of scale_space_render writes the weights at output resolution and
# reads the gradient once a scale; that of scale_space_cross_entropy first makes this gradient, a band of rows at a
# time. Its forward keeps log(sum exp), and its mean reads the losses and the targets once more: of 8 classes a lot.
# bn_relu_conv2d is made of PyTorch's kernels: its normalised map is written, read, written rectified, and read again.
MOST = {
    ("attentive_fusion", "forward"): 1.02,
    ("attentive_fusion", "backward"): 1.02 + 2 / 256,
    ("progressive_fusion", "forward"): 1.02,
    ("progressive_fusion", "backward"): 1.02 + 2 / 256,
    ("global_avg_max_pool", "forward"): 1.02,
    ("global_avg_max_pool", "backward"): 1.02,
    ("bn_relu_project", "forward"): 1.02,
    ("bn_relu_project", "backward"): 1.02,
    ("bn_relu_conv2d", "forward"): 1.88,
    ("bn_relu_conv2d", "backward"): 2.46,
    ("channel_attention", "forward"): 1.02,
    ("channel_attention", "backward"): 1.05,
    ("scale_space_weights", "forward"): 1.02,
    ("scale_space_weights", "backward"): 1.02,
    ("scale_space_render", "forward"): 1.25,
    ("scale_space_render", "backward"): 2.0,
    ("scale_space_labels", "forward"): 1.25,
    ("scale_space_accumulate", "forward"): 1.02,
    ("scale_space_cross_entropy", "forward"): 1.53,
    ("scale_space_cross_entropy", "backward"): 2.65,
    ("hierarchical_fusion", "forward"): 1.25,
    ("hierarchical_fusion", "backward"): 2.0,
}
needs_the_interpreter = pytest.mark.skipif(
    not INTERPRETED, reason="counted in Triton's interpreter: TRITON_INTERPRET=1"
)


def test_every_operation_is_counted_and_bounded() -> None:
    assert {case.op for case in ops.traffic_cases()} == set(ops.operations()) == {op for op, _ in MOST}


def test_table() -> None:
    """A row a pass; what was not counted, by whom, is a question mark."""
    rows = [r for r in load() if r["case"] == "attentive_fusion: NCHW"]
    assert len(table(rows).splitlines()) == 2 + 2
    partly = table([r for r in rows if r["who"] != "torch.compile"]).splitlines()
    assert ", ?, " in partly[2] and partly[2].endswith("| not counted |")


@needs_the_interpreter
@pytest.mark.parametrize("case", ops.traffic_cases(), ids=str)
def test_bytes_over_the_least(case) -> None:
    lower = least(case)
    recorded = {(r["case"], r["pass"]): r for r in load() if r["who"] == "afa_kernels"}
    for direction, traffic in ours(case).items():
        assert traffic.kernels == recorded[str(case), direction]["kernels"], "python -m benchmarks.traffic records anew"
        assert 0.99 <= traffic.sectors / lower[direction] <= MOST[case.op, direction], direction
        if case.op == "attentive_fusion":  # nor does a program ask twice for what the cache would hold
            assert traffic.requested / lower[direction] <= MOST[case.op, direction]


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
