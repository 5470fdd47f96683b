"""progressive_fusion: a table computed by hand, and what the battery does not ask of it."""

from __future__ import annotations

import functools
import math
import operator

import pytest
import torch

import afa_kernels
from afa_kernels.testing import saved_storages

# For each input its value F, a = sigmoid(spatial logit) and b = sigmoid(channel logit), coarse to fine; then the
# output, the weights w_i = a_i b_i prod_{j>i} (1-a_j)(1-b_j), which are the derivatives by F, and those by the spatial
# and by the channel logits: (1-a_i) w_i F_i - a_i sum_{j<i} w_j F_j, and with b.
BY_HAND = [
    ([(3.0, 0.5, 0.5)], 0.75, [0.25], [0.375], [0.375]),
    ([(4.0, 0.5, 0.5), (8.0, 0.5, 0.5)], 2.25, [0.0625, 0.25], [0.125, 0.875], [0.125, 0.875]),
    ([(10.0, 0.8, 0.5), (5.0, 0.2, 0.75)], 1.55, [0.08, 0.15], [0.16, 0.44], [0.4, -0.4125]),
    (
        [(16.0, 0.5, 0.5), (8.0, 0.5, 0.5), (-4.0, 0.5, 0.5)],
        -0.25,
        [1 / 64, 1 / 16, 1 / 4],
        [0.125, 0.125, -0.875],
        [0.125, 0.125, -0.875],
    ),
]


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize("inputs, out, weights, by_spatial, by_channel", BY_HAND)
def test_by_hand(
    inputs: list[tuple[float, float, float]],
    out: float,
    weights: list[float],
    by_spatial: list[float],
    by_channel: list[float],
    backend: str,
) -> None:
    columns = ([f for f, _, _ in inputs], [logit(a) for _, a, _ in inputs], [logit(b) for _, _, b in inputs])
    leaves = [
        [torch.full((1, 1, 1, 1), v, dtype=torch.float64, requires_grad=True) for v in values] for values in columns
    ]
    with afa_kernels.use_backend(backend):
        fused = afa_kernels.progressive_fusion(*leaves)
    grads = torch.autograd.grad(fused, functools.reduce(operator.iadd, leaves, []))
    assert [t.item() for t in (fused, *grads)] == pytest.approx(
        [out, *weights, *by_spatial, *by_channel], rel=1e-12, abs=1e-12
    )


@pytest.mark.parametrize("extreme", [1e4, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_attention_of_zero_and_one(dtype: torch.dtype, extreme: float, backend: str) -> None:
    """The last input whose attention is 1 is all one sees, an input whose attention is 0 is not seen."""
    features = [torch.full((1, 3, 4, 5), value, dtype=dtype, requires_grad=True) for value in (1.0, 2.0, 4.0)]
    signs = (extreme, extreme, -extreme)
    spatial = [torch.full((1, 1, 4, 5), sign, dtype=dtype, requires_grad=True) for sign in signs]
    channel = [torch.full((1, 3, 1, 1), sign, dtype=dtype, requires_grad=True) for sign in signs]
    with afa_kernels.use_backend(backend):
        out = afa_kernels.progressive_fusion(features, spatial, channel)
    grads = torch.autograd.grad(out.sum(), [*features, *spatial, *channel])
    assert torch.equal(out, features[1])
    for grad, weight in zip(grads[:3], (0.0, 1.0, 0.0), strict=True):
        assert torch.equal(grad, torch.full_like(grad, weight))
    assert all(not grad.any() for grad in grads[3:])


def test_two_inputs_by_the_formula(backend: str) -> None:
    """Against the weights written out as products, which the reference computes step by step."""
    torch.manual_seed(0)
    features = [torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(2)]
    (s1, s2), (q1, q2) = torch.randn(2, 2, 1, 4, 5).double(), torch.randn(2, 2, 3, 1, 1).double()
    w2 = s2.sigmoid() * q2.sigmoid()
    w1 = s1.sigmoid() * q1.sigmoid() * (1 - s2.sigmoid()) * (1 - q2.sigmoid())
    with afa_kernels.use_backend(backend):
        out = afa_kernels.progressive_fusion(features, [s1, s2], [q1, q2])
    torch.testing.assert_close(out, w1 * features[0] + w2 * features[1])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_saves_its_arguments_alone(memory_format: torch.memory_format, kernel: str) -> None:
    shapes = (2, 16, 24, 32), (2, 1, 24, 32), (2, 16, 1, 1)
    features, spatial, channel = (
        [torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_() for _ in range(3)]
        for shape in shapes
    )
    with afa_kernels.use_backend(kernel):
        saved = saved_storages(lambda: afa_kernels.progressive_fusion(features, spatial, channel))
    arguments = [t.untyped_storage() for t in (*features, *spatial, *channel)]
    assert saved == {storage.data_ptr(): storage.nbytes() for storage in arguments}
