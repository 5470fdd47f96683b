"""global_avg_max_pool: a table computed by hand, ties, and what is saved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import afa_kernels
from afa_kernels.testing import LAYOUTS, saved_storages

# The pixels of a channel, their mean, their maximum, and the derivative of 10 mean + maximum by each pixel.
BY_HAND = [
    ([7.0], 7.0, 7.0, [11.0]),
    ([1.0, 5.0, 3.0, 3.0], 3.0, 5.0, [2.5, 3.5, 2.5, 2.5]),
    ([2.0, 2.0, 1.0, 2.0, 3.0, 3.0, 0.0, 3.0], 2.0, 3.0, [1.25, 1.25, 1.25, 1.25, 2.25, 1.25, 1.25, 1.25]),
    ([0.0, 0.0, 0.0, 0.0, 0.0], 0.0, 0.0, [3.0, 2.0, 2.0, 2.0, 2.0]),
    ([-4.0, -1.0], -2.5, -1.0, [5.0, 6.0]),
]


@pytest.mark.parametrize("pixels, mean, maximum, derivatives", BY_HAND)
def test_by_hand(pixels: list[float], mean: float, maximum: float, derivatives: list[float], backend: str) -> None:
    x = torch.tensor(pixels).view(1, 1, 1, -1).requires_grad_()
    with afa_kernels.use_backend(backend):
        avg, max = afa_kernels.global_avg_max_pool(x)
        (grad,) = torch.autograd.grad(10 * avg + max, x)
    assert (avg.item(), max.item()) == (mean, maximum)
    assert grad.flatten().tolist() == derivatives


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_as_in_pytorch(dtype: torch.dtype, layout: str, backend: str) -> None:
    """Integers repeat: the gradient goes to the pixel that nn.AdaptiveMaxPool2d chooses, across tiles too."""
    x = LAYOUTS[layout](torch.randint(-3, 3, (2, 5, 71, 67), generator=torch.Generator().manual_seed(0)).to(dtype))
    x.requires_grad_()
    with afa_kernels.use_backend(backend):
        (grad,) = torch.autograd.grad(afa_kernels.global_avg_max_pool(x)[1].sum(), x)
    (expected,) = torch.autograd.grad(nn.AdaptiveMaxPool2d(1)(x).sum(), x)
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_values_do_not_depend_on_whether_a_gradient_is_recorded(layout: str, backend: str) -> None:
    x = torch.randn(2, 4, 5, 7)
    x[0, 1, 2, 3], x[1, 2], x[1, 3, 4] = torch.nan, -torch.inf, torch.inf
    x = LAYOUTS[layout](x)
    with afa_kernels.use_backend(backend):
        recorded = afa_kernels.global_avg_max_pool(x.clone().requires_grad_())
        with torch.no_grad():
            mine = afa_kernels.global_avg_max_pool(x)
    for a, b in zip(mine, recorded):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("recording", [True, False])
def test_ties_forward(recording: bool) -> None:
    """The reference's derivative in forward mode is that of the first pixel, whether or not reverse mode records."""
    x, tangent = torch.zeros(1, 1, 2, 2), torch.arange(1.0, 5.0).view(1, 1, 2, 2)
    with afa_kernels.use_backend("reference"), torch.set_grad_enabled(recording):
        _, derivative = torch.func.jvp(lambda x: afa_kernels.global_avg_max_pool(x)[1], (x,), (tangent,))
    assert derivative.item() == 1


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_of_the_two(wanted: int, backend: str) -> None:
    """A gradient that reaches the mean alone, or the maximum alone."""
    x = torch.randn(2, 3, 5, 7, requires_grad=True)
    pool = (nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1))[wanted]
    with afa_kernels.use_backend(backend):
        (grad,) = torch.autograd.grad(afa_kernels.global_avg_max_pool(x)[wanted].sum(), x)
    torch.testing.assert_close(grad, *torch.autograd.grad(pool(x).sum(), x))


def test_saves_no_map(kernel: str) -> None:
    x = torch.randn(2, 16, 24, 32, requires_grad=True)
    with afa_kernels.use_backend(kernel):
        saved = saved_storages(lambda: afa_kernels.global_avg_max_pool(x))
    assert sum(saved.values()) == 2 * 16 * 8


def test_sum_of_many_pixels(backend: str) -> None:
    """A running sum in float32 would stop at 2^24 ones."""
    with afa_kernels.use_backend(backend):
        avg, _ = afa_kernels.global_avg_max_pool(torch.full((1, 1, 300, 400), 4097.0))
    assert avg.item() == pytest.approx(4097.0, rel=1e-6)
