"""attentive_fusion: a table computed by hand, and what the battery does not ask of it."""

from __future__ import annotations

import math

import pytest
import torch

import afa_kernels
from afa_kernels.testing import saved_storages

# shallow x, deep y, a = sigmoid(spatial logit), b = sigmoid(channel logit); then the output a (1-b) x + (1-a) b y and
# its derivatives a (1-b), (1-a) b, a (1-a) ((1-b) x - b y), b (1-b) ((1-a) y - a x)
BY_HAND = [
    (2.0, 10.0, 0.75, 0.2, 1.7, 0.6, 0.05, -0.075, 0.16),
    (1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.0, 0.0),
    (4.0, 0.0, 0.5, 0.5, 1.0, 0.25, 0.25, 0.5, -0.5),
    (0.0, -4.0, 0.5, 0.5, -1.0, 0.25, 0.25, 0.5, -0.5),
    (5.0, 5.0, 0.8, 0.8, 1.6, 0.16, 0.16, -0.48, -0.48),
    (-1.0, 3.0, 0.25, 0.75, 1.625, 0.0625, 0.5625, -0.46875, 0.46875),
    (7.0, 0.0, 0.9, 0.1, 5.67, 0.81, 0.01, 0.567, -0.567),
]


@pytest.mark.parametrize("row", BY_HAND)
def test_by_hand(row: tuple[float, ...], backend: str) -> None:
    x, y, a, b, *expected = row
    values = (x, y, math.log(a / (1 - a)), math.log(b / (1 - b)))
    leaves = [torch.full((1, 1, 1, 1), v, dtype=torch.float64, requires_grad=True) for v in values]
    with afa_kernels.use_backend(backend):
        out = afa_kernels.attentive_fusion(*leaves)
    got = [out, *torch.autograd.grad(out, leaves)]
    assert [t.item() for t in got] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding(dtype: torch.dtype, backend: str) -> None:
    """The sum is rounded as PyTorch rounds: to nearest, ties to even, from the smallest numbers to NaN."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(1, 1, 256, 256)  # every number there is
    y = x.flatten().roll(12345).view_as(x)
    gates = torch.zeros(1, 1, 256, 256, dtype=dtype), torch.zeros(1, 1, 1, 1, dtype=dtype)  # both are 1/2
    with afa_kernels.use_backend(backend):
        got = afa_kernels.attentive_fusion(x, y, *gates)
    expected = (0.25 * x.float() + 0.25 * y.float()).to(dtype)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("x, y", [(1.0, 0.0), (0.0, 1.0)])
def test_small_gate_beside_a_large_one(x: float, y: float, dtype: torch.dtype, backend: str) -> None:
    """Where sigmoid(z) rounds to 1, 1 - sigmoid(z) is still e^-z and not 0."""
    shape = (1, 8, 4, 4)
    features = torch.full(shape, x, dtype=dtype), torch.full(shape, y, dtype=dtype)
    logits = torch.full((1, 1, 4, 4), 10.0, dtype=dtype), torch.full((1, 8, 1, 1), 10.0, dtype=dtype)
    with afa_kernels.use_backend(backend):
        out = afa_kernels.attentive_fusion(*features, *logits).double()
    expected = torch.full_like(out, 1 / (1 + math.exp(10)) / (1 + math.exp(-10)))
    torch.testing.assert_close(out, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("channel", [1e4, -1e4])
@pytest.mark.parametrize("spatial", [1e4, -1e4])
def test_saturated(spatial: float, channel: float, dtype: torch.dtype, backend: str) -> None:
    """A saturated pair of gates lets through one input, the other, or nothing; every gradient is finite."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 1, 5, 7, 9).to(dtype)
    s, q = torch.full((1, 1, 7, 9), spatial, dtype=dtype), torch.full((1, 5, 1, 1), channel, dtype=dtype)
    leaves = [t.requires_grad_() for t in (x, y, s, q)]
    with afa_kernels.use_backend(backend):
        out = afa_kernels.attentive_fusion(*leaves)
    grads = torch.autograd.grad(out.sum(), leaves)
    passed = x if spatial > 0 > channel else y if channel > 0 > spatial else torch.zeros_like(x)
    assert torch.equal(out, passed)
    assert torch.equal(grads[0], torch.full_like(x, float(spatial > 0 > channel)))
    assert torch.equal(grads[1], torch.full_like(y, float(channel > 0 > spatial)))
    assert not grads[2].any() and not grads[3].any()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_saves_its_arguments_alone(memory_format: torch.memory_format, kernel: str) -> None:
    shape = (2, 16, 24, 32)
    inputs = [torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_() for _ in range(2)]
    inputs += [torch.randn(2, 1, 24, 32, requires_grad=True), torch.randn(2, 16, 1, 1, requires_grad=True)]
    with afa_kernels.use_backend(kernel):
        saved = saved_storages(lambda: afa_kernels.attentive_fusion(*inputs))
    assert saved == {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in inputs}


def test_type_of_the_result(backend: str) -> None:
    """The promoted type of the feature maps, whatever the logits' types."""
    half, brain, single, double = torch.float16, torch.bfloat16, torch.float32, torch.float64
    for shallow, deep, spatial, channel, expected in (
        (half, half, single, single, half),
        (half, brain, half, brain, single),
        (brain, brain, double, double, brain),
        (single, brain, half, half, single),
        (single, double, half, single, double),
    ):
        inputs = (
            torch.randn(1, 2, 3, 4).to(shallow),
            torch.randn(1, 2, 3, 4).to(deep),
            torch.randn(1, 1, 3, 4).to(spatial),
            torch.randn(1, 2, 1, 1).to(channel),
        )
        with afa_kernels.use_backend(backend):
            assert afa_kernels.attentive_fusion(*inputs).dtype == expected


@pytest.mark.parametrize("names", ["spatial", "channel", "both"])
def test_nan_stays_where_it_is(names: str, backend: str) -> None:
    """A NaN logit spoils its own pixel, or its own channel, and nothing else."""
    x, y = torch.randn(2, 2, 5, 6, 7)
    s, q = torch.randn(2, 1, 6, 7), torch.randn(2, 5, 1, 1)
    expected = torch.zeros(2, 5, 6, 7, dtype=torch.bool)
    if names != "channel":
        s[1, 0, 2, 3] = torch.nan
        expected[1, :, 2, 3] = True
    if names != "spatial":
        q[0, 4] = torch.nan
        expected[0, 4] = True
    with afa_kernels.use_backend(backend):
        assert torch.equal(afa_kernels.attentive_fusion(x, y, s, q).isnan(), expected)


def test_meta_tensors() -> None:
    out = afa_kernels.attentive_fusion(
        *(torch.empty(shape, device="meta") for shape in ((2, 3, 4, 5), (2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1)))
    )
    assert out.is_meta and out.shape == (2, 3, 4, 5)
