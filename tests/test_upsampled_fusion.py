"""upsampled_fusion: a table computed by hand, what it equals, what it saves, and the up-paths that use it."""

from __future__ import annotations

import math

import pytest
import torch

import afa_kernels
from afa_kernels.nn.aggregation import upsampling
from afa_kernels.testing import LAYOUTS, saved_storages

# Along one axis, by a factor of 2: the pixels of the deep map, the four weights, and the upsampled pixels. Pixel 2 i is
# deep[i] w[1] + deep[i - 1] w[3], pixel 2 i + 1 is deep[i + 1] w[0] + deep[i] w[2].
BY_HAND = [
    ([3.0], [0.25, 0.75, 0.75, 0.25], [2.25, 2.25]),
    ([1.0, 5.0], [0.25, 0.75, 0.75, 0.25], [0.75, 2.0, 4.0, 3.75]),
    ([1.0, 5.0, 2.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 5.0, 5.0, 2.0, 2.0]),
    ([1.0, 10.0, 100.0], [1.0, 2.0, 3.0, 4.0], [2.0, 13.0, 24.0, 130.0, 240.0, 300.0]),
]


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("deep, weight, expected", BY_HAND)
def test_by_hand(deep: list[float], weight: list[float], expected: list[float], vertical: bool, backend: str) -> None:
    """Along an axis, at the left one of two columns, whose weight is 1 in the second tap and 0 in the others."""
    across = torch.tensor([0.0, 1.0, 0.0, 0.0])
    x, w = torch.tensor(deep)[None, :], torch.outer(across, torch.tensor(weight))
    if vertical:
        x, w = x.T, w.T
    zeros = torch.zeros(1, 1, 2 * x.shape[0], 2 * x.shape[1])
    with afa_kernels.use_backend(
        backend
    ):  # a = b = 1/2, and nothing of the shallow map: a quarter of what is upsampled
        out = afa_kernels.upsampled_fusion(zeros, x[None, None], w[None, None], zeros, torch.zeros(1, 1, 1, 1))
    up = 4 * out[0, 0]
    assert (up[:, 0] if vertical else up[0]).tolist() == pytest.approx(expected)
    assert not (up[:, 1] if vertical else up[1]).any()


def test_gradients_by_hand(backend: str) -> None:
    """Of one pixel that is made four: with a = 3/4, b = 1/5 and an upstream gradient g = 1, 2, 3, 4."""
    a, b, g = 0.75, 0.2, torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    x, w = torch.tensor([[10.0, 20.0], [30.0, 40.0]]).double(), torch.arange(16.0).double().view(4, 4)
    s, q = torch.full((2, 2), math.log(a / (1 - a))).double(), torch.tensor(math.log(b / (1 - b))).double()
    given = (x[None, None], torch.full((1, 1, 1, 1), 2.0).double(), w[None, None], s[None, None], q.view(1, 1, 1, 1))
    leaves = [t.clone().requires_grad_() for t in given]
    with afa_kernels.use_backend(backend):
        out = afa_kernels.upsampled_fusion(*leaves)
    dx, dy, dw, ds, dq = (t[0, 0] for t in torch.autograd.grad(out, leaves, g[None, None]))
    inner = w[1:3, 1:3]  # what makes the four pixels, 10, 12, 18 and 20
    torch.testing.assert_close(out[0, 0], a * (1 - b) * x + (1 - a) * b * 2 * inner)
    torch.testing.assert_close(dx, a * (1 - b) * g)
    torch.testing.assert_close(dy, torch.tensor([[(1 - a) * b * (1 * 5 + 2 * 6 + 3 * 9 + 4 * 10)]]).double())
    torch.testing.assert_close(dw[1:3, 1:3], (1 - a) * b * g * 2)
    assert dw.sum() == dw[1:3, 1:3].sum()  # the other taps are of pixels that are not there
    torch.testing.assert_close(ds, a * (1 - a) * ((1 - b) * x - b * 2 * inner) * g)
    torch.testing.assert_close(dq[0, 0], b * (1 - b) * (((1 - a) * 2 * inner - a * x) * g).sum())


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_equals_a_layer_and_the_fusion(factor: int, layout: str, backend: str) -> None:
    torch.manual_seed(0)
    layer = upsampling(3, factor).double()
    with torch.no_grad():
        layer.weight += 0.1 * torch.randn_like(layer.weight)
    size = (3 * factor, 4 * factor)
    given = torch.randn(2, 3, *size), torch.randn(2, 3, 3, 4), torch.randn(2, 1, *size), torch.randn(2, 3, 1, 1)
    x, y, s, q = leaves = [LAYOUTS[layout](t.double()).requires_grad_() for t in given]
    with afa_kernels.use_backend(backend):
        fused = afa_kernels.upsampled_fusion(x, y, layer.weight, s, q)
        expected = afa_kernels.attentive_fusion(x, layer(y), s, q)
    torch.testing.assert_close(fused, expected)
    g = torch.randn_like(fused)
    wanted = [*leaves, layer.weight]
    for mine, theirs in zip(torch.autograd.grad(fused, wanted, g), torch.autograd.grad(expected, wanted, g)):
        torch.testing.assert_close(mine, theirs)


def test_a_weight_that_is_not_finite(backend: str) -> None:
    """It reaches the pixels that it makes, and beyond the border it makes none."""
    weight = torch.ones(1, 1, 4, 4)
    weight[0, 0, 0, 1] = torch.nan  # of pixels in odd rows, from the row behind
    zeros = torch.zeros(1, 1, 4, 4)
    with afa_kernels.use_backend(backend):
        out = afa_kernels.upsampled_fusion(zeros, torch.ones(1, 1, 2, 2), weight, zeros, torch.zeros(1, 1, 1, 1))
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[1, 0] = expected[1, 2] = True
    assert torch.equal(out.isnan()[0, 0], expected)


def test_saved_for_backward_are_the_arguments(kernel: str) -> None:
    shapes = ((2, 16, 16, 32), (2, 16, 8, 16), (16, 1, 4, 4), (2, 1, 16, 32), (2, 16, 1, 1))
    arguments = [torch.randn(shape, requires_grad=True) for shape in shapes]
    with afa_kernels.use_backend(kernel):
        saved = saved_storages(lambda: afa_kernels.upsampled_fusion(*arguments))
    assert saved == {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in arguments}
