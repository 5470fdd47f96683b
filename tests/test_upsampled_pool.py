"""upsampled_pool: a table computed by hand, what it equals, and what is saved."""

from __future__ import annotations

import pytest
import torch

import afa_kernels
from afa_kernels.nn.aggregation import upsampling
from afa_kernels.testing import LAYOUTS

# The pixels of a row, a weight of which the second row of taps alone is not 0, and the mean and the maximum of the two
# rows that a row is made: one of zeros, and one as in tests/test_upsampled_fusion.py.
BY_HAND = [
    ([3.0], [0.25, 0.75, 0.75, 0.25], 1.125, 2.25),
    ([1.0, 5.0], [0.25, 0.75, 0.75, 0.25], 10.5 / 8, 4.0),
    ([-1.0, -5.0], [0.25, 0.75, 0.75, 0.25], -10.5 / 8, 0.0),
    ([1.0, 10.0, 100.0], [1.0, 2.0, 3.0, 4.0], 709 / 12, 300.0),
]


@pytest.mark.parametrize("pixels, taps, mean, maximum", BY_HAND)
def test_by_hand(pixels: list[float], taps: list[float], mean: float, maximum: float, backend: str) -> None:
    weight = torch.zeros(1, 1, 4, 4)
    weight[0, 0, 1] = torch.tensor(taps)
    with afa_kernels.use_backend(backend):
        avg, max = afa_kernels.upsampled_pool(torch.tensor(pixels).view(1, 1, 1, -1), weight)
    assert (avg.item(), max.item()) == pytest.approx((mean, maximum))


def test_gradients_by_hand(backend: str) -> None:
    """One pixel that is made 5, 6, 9 and 10 times itself: of the mean a quarter of each, of the maximum the last."""
    deep, weight = torch.full((1, 1, 1, 1), 2.0, requires_grad=True), torch.arange(16.0).view(1, 1, 4, 4)
    weight.requires_grad_()
    with afa_kernels.use_backend(backend):
        avg, max = afa_kernels.upsampled_pool(deep, weight)
        of_deep, of_weight = torch.autograd.grad(8 * avg + max, (deep, weight))
    assert (avg.item(), max.item(), of_deep.item()) == (15.0, 20.0, 2 * (5 + 6 + 9 + 10) + 10)
    expected = torch.zeros(4, 4)
    expected[1:3, 1:3] = torch.tensor([[4.0, 4.0], [4.0, 6.0]])
    assert torch.equal(of_weight[0, 0], expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_equals_a_layer_and_the_pooling(factor: int, layout: str, backend: str) -> None:
    torch.manual_seed(0)
    layer = upsampling(3, factor).double()
    with torch.no_grad():
        layer.weight += 0.1 * torch.randn_like(layer.weight)
    deep = LAYOUTS[layout](torch.randn(2, 3, 5, 7, dtype=torch.float64)).requires_grad_()
    grads = torch.randn(2, 2, 3, 1, 1, dtype=torch.float64)
    found = []
    with afa_kernels.use_backend(backend):
        for outputs in (
            afa_kernels.upsampled_pool(deep, layer.weight),
            afa_kernels.global_avg_max_pool(layer(deep)),
        ):
            found.append([*outputs, *torch.autograd.grad(outputs, (deep, layer.weight), tuple(grads))])
    for mine, theirs in zip(*found):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_ties_go_to_the_first(layout: str, backend: str) -> None:
    """In row-major order of the map that is made: of the pixels that are 4, in several blocks, the first."""
    deep = torch.ones(1, 2, 45, 49)
    deep[0, :, 7, 3], deep[0, :, 7, 40], deep[0, 0, 20, 0] = 4.0, 4.0, 4.0
    deep = LAYOUTS[layout](deep).requires_grad_()
    nearest = torch.zeros(2, 1, 4, 4)
    nearest[..., 1:3, 1:3] = 1
    with afa_kernels.use_backend(backend):
        (grad,) = torch.autograd.grad(afa_kernels.upsampled_pool(deep, nearest)[1].sum(), deep)
    expected = torch.zeros(1, 2, 45, 49)
    expected[0, :, 7, 3] = 1
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nothing_but_what_is_not_finite(value: float, backend: str) -> None:
    deep, weight = torch.full((1, 2, 5, 7), value, requires_grad=True), torch.ones(2, 1, 4, 4)
    with afa_kernels.use_backend(backend):
        avg, max = afa_kernels.upsampled_pool(deep, weight)
        (grad,) = torch.autograd.grad(avg.sum() + max.sum(), deep)
    assert torch.equal(avg.isnan(), max.isnan())
    if value == value:
        assert (avg == value).all() and (max == value).all()
    assert grad.isfinite().all()
