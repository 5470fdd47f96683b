"""Bytes that the Triton kernels move, counted in the interpreter, over the least that must move."""

from __future__ import annotations

import pytest
from conftest import INTERPRETED

from benchmarks.traffic import TRAFFIC_CASES, least, ours

# (operation, pass): the most, over the least. attentive_fusion's backward adds its partial sums and reads them back.
# A backward pass of scale_space_render writes the weights at output resolution and reads the gradient once a scale;
# that of scale_space_cross_entropy first makes this gradient, a band of rows at a time. Its forward keeps log(sum exp).
MOST = {
    ("attentive_fusion", "forward"): 1.02,
    ("attentive_fusion", "backward"): 1.02 + 2 / 256,
    ("progressive_fusion", "forward"): 1.02,
    ("progressive_fusion", "backward"): 1.02 + 2 / 256,
    ("global_avg_max_pool", "forward"): 1.02,
    ("global_avg_max_pool", "backward"): 1.02,
    ("bn_relu_project", "forward"): 1.02,
    ("bn_relu_project", "backward"): 1.02,
    ("scale_space_weights", "forward"): 1.02,
    ("scale_space_weights", "backward"): 1.02,
    ("scale_space_render", "forward"): 1.25,
    ("scale_space_render", "backward"): 2.0,
    ("scale_space_cross_entropy", "forward"): 1.25,
    ("scale_space_cross_entropy", "backward"): 2.6,
    ("hierarchical_fusion", "forward"): 1.25,
    ("hierarchical_fusion", "backward"): 2.0,
}


@pytest.mark.skipif(not INTERPRETED, reason="counted in Triton's interpreter: TRITON_INTERPRET=1")
@pytest.mark.parametrize("case", TRAFFIC_CASES, ids=str)
def test_bytes_over_the_least(case) -> None:
    lower = least(case)
    for direction, traffic in ours(case).items():
        assert traffic.kernels > 0
        assert 0.99 <= traffic.sectors / lower[direction] <= MOST[case.op, direction], direction
        if case.op == "attentive_fusion":  # nor does a program ask twice for what the cache would hold
            assert traffic.requested / lower[direction] <= MOST[case.op, direction]
