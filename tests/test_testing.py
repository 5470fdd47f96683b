"""The instruments of the other tests: the error budget, the meters of memory, the layouts, the guard bands."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import CASES
from support.guard_bands import BAND, GuardBands
from torch import Tensor

from afa_kernels.testing import (
    DTYPES,
    LAYOUTS,
    UNITS,
    UNITS_OF_ARITHMETIC,
    check,
    disagreement,
    peak_bytes,
    saved_bytes,
)

pytestmark = pytest.mark.once


@pytest.mark.parametrize("dtype", DTYPES)
def test_budget(dtype: torch.dtype) -> None:
    """A few units of rounding of the largest value and of the arithmetic, eager's own error, and not one bit more."""
    oracle = torch.tensor([4.0, 0.5, 0.0], dtype=torch.float64)
    eps = torch.finfo(dtype).eps
    exact = oracle.to(dtype)
    allowed = UNITS + (UNITS_OF_ARITHMETIC if dtype == torch.float64 else 0)
    inside, outside = (oracle + torch.tensor([0, units * 4.0 * eps, 0]) for units in (allowed - 1, allowed + 1))
    assert disagreement(exact, oracle, exact) is None
    assert disagreement(inside.to(dtype), oracle, exact) is None
    assert "off by" in str(disagreement(outside.to(dtype), oracle, exact))
    assert disagreement(outside.to(dtype), oracle, outside.to(dtype)) is None


def test_budget_of_values_that_are_not_finite() -> None:
    nan, inf = torch.nan, torch.inf
    oracle = torch.tensor([1.0, nan, inf, -inf], dtype=torch.float64)
    assert disagreement(oracle, oracle, oracle) is None
    for wrong in (
        [nan, nan, inf, -inf],
        [inf, nan, inf, -inf],
        [1, 0, inf, -inf],
        [1, nan, nan, -inf],
        [1, nan, inf, inf],
    ):
        assert disagreement(torch.tensor(wrong, dtype=torch.float64), oracle, oracle) is not None, wrong
    assert disagreement(torch.tensor([nan]), torch.zeros(1).double(), torch.zeros(1)) is not None


def test_budget_of_shapes() -> None:
    assert disagreement(torch.zeros(2, 1), torch.zeros(1, 2).double()) == "shape (2, 1), expected (1, 2)"
    assert disagreement(torch.zeros(0), torch.zeros(0).double()) is None


@pytest.mark.parametrize("warn_only", [False, True])
def test_the_oracle_of_infinities_on_a_gpu(warn_only: bool, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If PyTorch must be deterministic, F.interpolate is a decomposition there, NaN beside an infinity: here too."""
    plain = F.interpolate
    decomposed = importlib.import_module("torch._decomp.decompositions")._upsample_linear_vec

    def of_cuda(x: Tensor, size: tuple[int, int], mode: str, align_corners: bool) -> Any:
        if torch.are_deterministic_algorithms_enabled():
            return decomposed(x, list(size), align_corners, None)
        return plain(x, size=size, mode=mode, align_corners=align_corners)

    monkeypatch.setattr(F, "interpolate", of_cuda)
    case = next(c for c in CASES if str(c) == "resized_cross_entropy: NaN and infinity, smooth labels")
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        check(case, case.inputs(torch.float32), kernel)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
    finally:
        torch.use_deterministic_algorithms(False)


def test_saved_bytes() -> None:
    x = torch.randn(100, requires_grad=True)
    y = torch.randn(100, requires_grad=True)
    assert saved_bytes(lambda: x + y) == 0
    assert saved_bytes(lambda: x * y) == 800
    assert saved_bytes(lambda: x * x[:10].sum()) == 400 + 4
    assert saved_bytes(lambda: x[:50] * x[50:]) == 400
    assert saved_bytes(lambda: x.exp().exp()) == 800


def test_peak_bytes() -> None:
    x = torch.randn(1000)

    def three_then_one() -> Tensor:
        a = x + 1
        b = a + a
        return (a * b).sum()

    assert peak_bytes(lambda: x + 1) in range(4000, 4064)
    assert peak_bytes(lambda: (x + 1).sum()) in range(4000, 4200)
    assert peak_bytes(three_then_one) in range(12000, 12400)
    assert peak_bytes(lambda: x[10:]) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(layout: str) -> None:
    """The values and the shape stay; the strides are those that the name says."""
    x = torch.randn(2, 3, 4, 5)
    y = LAYOUTS[layout](x)
    assert y.shape == x.shape
    assert torch.equal(y, x[:1].expand(x.shape) if layout == "expanded" else x)
    assert (
        y.stride()
        == {
            "contiguous": (60, 20, 5, 1),
            "channels_last": (60, 1, 15, 3),
            "permuted": (60, 20, 1, 4),
            "batch_inside": (20, 40, 5, 1),
            "sliced": (210, 42, 7, 1),
            "sliced_channels": (100, 20, 5, 1),
            "sliced_channels_last": (100, 1, 25, 5),
            "every_second": (120, 40, 10, 2),
            "expanded": (0, 20, 5, 1),
        }[layout]
    )


@pytest.mark.parametrize("position, message", [(BAND - 1, "before the start"), (-BAND, "past the end")])
def test_guard_bands(position: int, message: str) -> None:
    guards = GuardBands()
    with guards:
        made = [
            torch.empty(2, 3),
            torch.zeros(4).new_empty((5,)),
            torch.empty((1, 2, 3, 4), memory_format=torch.channels_last),
        ]
    assert len(guards.buffers) == len(made)
    assert made[2].is_contiguous(memory_format=torch.channels_last)
    for t in made:
        t.zero_()
    guards.check()
    guards.buffers[1][position] = 0
    with pytest.raises(AssertionError, match=message):
        guards.check()
