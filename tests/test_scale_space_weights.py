"""scale_space_weights: a table computed by hand, recorded values of the paper's code, and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from support import recorded
from torch import Tensor

import afa_kernels
from afa_kernels.testing import saved_storages

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)

# logits of one pixel, phi, background; then the weights and what is left
BY_HAND = [
    ((LN2,), "abs", "none", (1 / 2,), 1 / 2),
    ((-LN4,), "abs", "none", (3 / 4,), 1 / 4),
    ((LN2, -LN4, LN2), "abs", "none", (1 / 2, 3 / 8, 1 / 16), 1 / 16),
    ((LN2, -LN4, LN2), "relu", "none", (1 / 2, 0, 1 / 4), 1 / 4),
    ((LN2, -LN4, LN2), "abs", "last", (1 / 2, 3 / 8, 1 / 8), 0),
    ((0, LN3), "abs", "none", (0, 2 / 3), 1 / 3),
    ((0, -LN3), "softplus", "none", (1 / 2, 1 / 8), 3 / 8),
    ((0, -LN3), "softplus", "last", (1 / 2, 1 / 2), 0),
    ((math.log(LN2), math.log(LN4)), "exp", "none", (1 / 2, 3 / 8), 1 / 8),
    ((7,), "relu", "last", (1,), 0),
]

# logits, phi; then dL/dy for L = sum_k g_k w_k + g T with upstream gradients g_k = 8 k and g = 16 (background "none"):
# dL/dy_i = phi'(y_i) (exp(-d_i) T_i g_i - sum_{j>i} w_j g_j - T_{K+1} g)
BY_HAND_GRADIENTS = [
    ((LN2,), "abs", (4 - 8,)),
    ((-LN2,), "abs", (8 - 4,)),
    ((0.0,), "abs", (0,)),
    ((LN2, LN4), "abs", (4 - 6 - 2, 2 - 2)),
    ((LN2, 0.0), "relu", (4 - 0 - 8, 0)),
    ((0.0, 0.0), "softplus", ((4 - 4 - 4) / 2, (4 - 4) / 2)),
    ((math.log(LN2),), "exp", (LN2 * (4 - 8),)),
    ((81.0,), "exp", (0,)),
]


def pixel(values: tuple[float, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype).view(1, -1, 1, 1)


@pytest.mark.parametrize("logits, phi, background, expected, left", BY_HAND)
def test_by_hand(
    logits: tuple[float, ...], phi: str, background: str, expected: tuple[float, ...], left: float, backend: str
) -> None:
    weights, transmittance = afa_kernels.scale_space_weights(pixel(logits), phi=phi, background=background)
    assert weights.flatten().tolist() == pytest.approx(expected, rel=1e-14, abs=1e-15)
    assert transmittance.item() == pytest.approx(left, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("logits, phi, expected", BY_HAND_GRADIENTS)
def test_gradient_by_hand(logits: tuple[float, ...], phi: str, expected: tuple[float, ...], backend: str) -> None:
    y = pixel(logits).requires_grad_()
    upstream = [pixel(tuple(8.0 * (k + 1) for k in range(len(logits)))), pixel((16.0,))]
    (grad,) = torch.autograd.grad(afa_kernels.scale_space_weights(y, phi=phi), y, upstream)
    assert grad.flatten().tolist() == pytest.approx(expected, rel=1e-13, abs=1e-13)


@pytest.mark.device
@pytest.mark.parametrize("name", recorded.names("ssr_weights_"))
def test_recorded(name: str, backend: str) -> None:
    """The paper's code: its weights, and the gradients of its depths; those of the logits but for abs at 0."""
    record = recorded.load(name)
    scales = record["in.scales"].tolist()
    dtype = record[f"out.attn_{scales[0]}"].dtype
    logits = [record[f"in.logit_{s}"].to(dtype).requires_grad_() for s in scales]
    weights, _ = afa_kernels.scale_space_weights(logits)
    cotangent = torch.cat([record[f"cot.attn_{s}"] for s in scales], dim=1).to(dtype)
    grads = torch.autograd.grad(weights, logits, cotangent)
    tolerance = 1e-13 if dtype == torch.float64 else 2e-6
    expected = torch.cat([record[f"out.attn_{s}"] for s in scales], dim=1)
    torch.testing.assert_close(weights, expected, rtol=tolerance, atol=tolerance)
    for scale, y, grad in zip(scales, logits, grads, strict=True):
        through_abs = record[f"gin.logit_{scale}"].masked_fill(y == 0, 0)
        torch.testing.assert_close(grad.float(), through_abs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-7), (torch.float64, 1e-12)])
def test_small_opacities(dtype: torch.dtype, tolerance: float, backend: str) -> None:
    """1 - exp(-d) keeps its relative accuracy down to a depth of 1e-9."""
    d = torch.logspace(-9, 1.5, 300, dtype=dtype).view(1, 1, 1, -1)
    weights, _ = afa_kernels.scale_space_weights(d)
    torch.testing.assert_close(weights.double(), -torch.expm1(-d.double()), rtol=tolerance, atol=0)
    weights, _ = afa_kernels.scale_space_weights(-d, phi="softplus")
    torch.testing.assert_close(weights.double(), torch.sigmoid(-d.double()), rtol=8 * tolerance, atol=0)


@pytest.mark.parametrize("phi", ["abs", "relu", "softplus", "exp"])
@pytest.mark.parametrize("background", ["none", "last"])
def test_nothing_is_lost(phi: str, background: str, backend: str) -> None:
    """The weights and what is left sum to 1, and so no logit changes that sum."""
    logits = torch.randn(2, 5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights, transmittance = afa_kernels.scale_space_weights(logits, phi=phi, background=background)
    total = weights.sum(1, keepdim=True) + transmittance
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-14)
    (grad,) = torch.autograd.grad(total.sum(), logits)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-14)


def test_softplus_is_hierarchical_attention(backend: str) -> None:
    """With phi="softplus" the weights are sigma(y_i) prod_{j<i} (1 - sigma(y_j))."""
    logits = 12 * torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights, transmittance = afa_kernels.scale_space_weights(logits, phi="softplus")
    left = torch.sigmoid(-logits).cumprod(1)
    torch.testing.assert_close(transmittance, left[:, -1:], rtol=1e-13, atol=0)
    front = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], dim=1)
    torch.testing.assert_close(weights, torch.sigmoid(logits) * front, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "phi, opaque", [("abs", (True, True)), ("relu", (True, False)), ("softplus", (True, False)), ("exp", (True, False))]
)
def test_saturated(phi: str, opaque: tuple[bool, bool], dtype: torch.dtype, backend: str) -> None:
    """A logit of 1e4 hides all behind it, one of -1e4 nothing unless phi is "abs"; every gradient is finite, or 0."""
    positive, negative = opaque
    logits = pixel((-1e4, 1e4, 0.5), dtype).requires_grad_()
    weights, transmittance = afa_kernels.scale_space_weights(logits, phi=phi)
    first = float(negative)
    assert weights.flatten().tolist() == [first, float(positive) - first, 0]
    assert transmittance.item() == 0
    upstream = [pixel((1.0, 2.0, 3.0), dtype), pixel((4.0,), dtype)]
    (grad,) = torch.autograd.grad((weights, transmittance), logits, upstream)
    assert grad.flatten().tolist() == [0, 0, 0]


def test_logits_of_several_sizes(backend: str) -> None:
    """A list is resized to the size of the one with the most pixels, wherever that stands."""
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 1, *size, generator=generator) for size in ((3, 4), (6, 8), (5, 7))]
    weights, _ = afa_kernels.scale_space_weights(logits)
    resized = [torch.nn.functional.interpolate(y, (6, 8), mode="bilinear") for y in logits]
    expected, _ = afa_kernels.scale_space_weights(torch.cat(resized, dim=1))
    assert torch.equal(weights, expected)


def test_type_of_the_result(backend: str) -> None:
    half, brain = (
        torch.randn(1, 1, *size).to(dtype) for size, dtype in (((3, 4), torch.float16), ((5, 6), torch.bfloat16))
    )
    assert [t.dtype for t in afa_kernels.scale_space_weights([half, half])] == [torch.float16] * 2
    assert [t.dtype for t in afa_kernels.scale_space_weights([half, brain])] == [torch.float32] * 2
    assert [t.dtype for t in afa_kernels.scale_space_weights([brain, brain[..., :3, :4]])] == [torch.bfloat16] * 2
    with torch.autocast("cpu", torch.bfloat16):
        assert [t.dtype for t in afa_kernels.scale_space_weights(half)] == [torch.float32] * 2
        assert [t.dtype for t in afa_kernels.scale_space_weights(half.double())] == [torch.float64] * 2


def test_saves_its_logits_alone(kernel: str) -> None:
    logits = torch.randn(2, 3, 8, 9, requires_grad=True)
    saved = saved_storages(lambda: afa_kernels.scale_space_weights(logits))
    assert saved == {logits.untyped_storage().data_ptr(): logits.untyped_storage().nbytes()}


def test_one_output_used(backend: str) -> None:
    """A gradient that reaches one output alone is that with zeros for the other."""
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    outputs = afa_kernels.scale_space_weights(logits)
    for used in range(2):
        upstream = [torch.ones_like(o) * (i == used) for i, o in enumerate(outputs)]
        (both,) = torch.autograd.grad(outputs, logits, upstream, retain_graph=True)
        (one,) = torch.autograd.grad(outputs[used], logits, upstream[used], retain_graph=True)
        assert torch.equal(one, both)


def test_meta_tensors() -> None:
    weights, transmittance = afa_kernels.scale_space_weights(torch.empty(2, 3, 4, 5, device="meta"))
    assert weights.is_meta and weights.shape == (2, 3, 4, 5) and transmittance.shape == (2, 1, 4, 5)


SLOPE = {
    "abs": torch.sign,
    "relu": lambda y: (y > 0).to(y),
    "softplus": torch.sigmoid,
}
DEPTH = {"abs": torch.abs, "relu": torch.relu, "softplus": torch.nn.functional.softplus}
LOGITS = (-120.0, -40.0, -7.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 7.0, 40.0, 120.0)


def jacobian(phi: str, background: str, points: Tensor) -> Tensor:
    """dw_i/dy_j, (2, 2, points), of two scales at points (2, points), by autograd."""
    y = points[None, :, None].clone().requires_grad_()
    weights, _ = afa_kernels.scale_space_weights(y, phi=phi, background=background)
    return torch.stack([torch.autograd.grad(w.sum(), y, retain_graph=True)[0][0, :, 0] for w in weights[0, :, 0]])


@pytest.mark.parametrize("background", ["none", "last"])
@pytest.mark.parametrize("phi", SLOPE)
def test_jacobian_in_closed_form(phi: str, background: str, backend: str) -> None:
    """docs/training.md: the 2x2 Jacobian, also where gradients vanish."""
    grid = torch.tensor(LOGITS, dtype=torch.float64)
    y1, y2 = points = torch.cartesian_prod(grid, grid).t().contiguous()
    left, slope = torch.exp(-DEPTH[phi](y1)), SLOPE[phi]
    own, behind = slope(y1) * left, torch.exp(-DEPTH[phi](y2))
    zero = torch.zeros_like(y1)
    closed = torch.stack([own, zero, -own * (1 - behind), slope(y2) * left * behind]).view(2, 2, -1)
    if background == "last":
        closed = torch.stack([own, zero, -own, zero]).view(2, 2, -1)
    with afa_kernels.use_backend(backend):
        found = jacobian(phi, background, points)
    torch.testing.assert_close(found, closed, rtol=1e-10, atol=1e-15)
    assert not found[0, 1].any(), "weight 1 does not depend on logit 2"


@pytest.mark.parametrize("phi, own", [("abs", 0.0), ("relu", 0.0), ("softplus", 0.25)])
def test_gradients_at_zero_and_far_away(phi: str, own: float, backend: str) -> None:
    """docs/training.md, in its own words: the tables at logits 0 and to leading order at a = 20."""
    a, e = 20.0, math.exp(-20)
    tables = {
        "abs": [(e, -e, e * e), (-e, e, -e * e), (e, 0, 0), (0, 0, e)],
        "relu": [(e, -e, e * e), (0, 0, 0), (e, 0, 0), (0, 0, e)],
        "softplus": [(e, -e, e * e), (e, -e * e, e), (e, -e / 2, e / 4), (1 / 4, -1 / 4, e / 2)],
    }
    points = torch.tensor([(0, a, -a, a, 0), (0, a, -a, 0, a)], dtype=torch.float64)
    with afa_kernels.use_backend(backend):
        (dw1, _), (dw2_dy1, dw2_dy2) = jacobian(phi, "none", points)
    expected = torch.tensor([(own, -own / 2, own / 2), *tables[phi]], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([dw1, dw2_dy1, dw2_dy2], 1), expected, rtol=1e-6, atol=1e-25)
