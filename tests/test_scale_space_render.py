"""scale_space_render: a table computed by hand, recorded values of the paper's code, and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from support import recorded
from torch import Tensor

import afa_kernels
from afa_kernels.testing import saved_storages

LN2, LN4 = math.log(2), math.log(4)
OPTIONS = [(resize, background) for resize in ("weights", "opacities") for background in ("none", "last")]

# One row. Logits [1, 2] per scale and predictions of 2 and 1 pixels, rendered to 4 pixels, which lie at -1/4 (so 0),
# 1/4, 3/4 and 5/4 (so 1) of 2. The opacities are (1/2, 3/4) in front and (3/4, 1/2) behind; the weights (1/2, 3/4) and
# (3/8, 1/8). The predictions are (0, 8) in front and 16 behind.
BY_HAND = {
    ("weights", "none"): (
        0 / 2 + 16 * 3 / 8,
        2 * 9 / 16 + 16 * 5 / 16,
        6 * 11 / 16 + 16 * 3 / 16,
        8 * 3 / 4 + 16 * 1 / 8,
    ),
    ("weights", "last"): (
        0 / 2 + 16 * 1 / 2,
        2 * 9 / 16 + 16 * 7 / 16,
        6 * 11 / 16 + 16 * 5 / 16,
        8 * 3 / 4 + 16 * 1 / 4,
    ),
    ("opacities", "none"): (
        0 / 2 + 16 * 1 / 2 * 3 / 4,
        2 * 9 / 16 + 16 * 7 / 16 * 11 / 16,
        6 * 11 / 16 + 16 * 5 / 16 * 9 / 16,
        8 * 3 / 4 + 16 * 1 / 4 * 1 / 2,
    ),
    ("opacities", "last"): (
        0 / 2 + 16 * 1 / 2,
        2 * 9 / 16 + 16 * 7 / 16,
        6 * 11 / 16 + 16 * 5 / 16,
        8 * 3 / 4 + 16 * 1 / 4,
    ),
}


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


@pytest.mark.parametrize("resize, background", OPTIONS)
def test_by_hand(resize: str, background: str, backend: str) -> None:
    logits = [row(LN2, LN4), row(-LN4, LN2)]
    out = afa_kernels.scale_space_render(
        [row(0, 8), row(16)], logits, size=(1, 4), background=background, resize=resize
    )
    assert out.flatten().tolist() == pytest.approx(BY_HAND[resize, background], rel=1e-14)


def test_gradient_by_hand(backend: str) -> None:
    """One logit of ln 2 over one pixel enlarged to four: w = 1/2, and dw/dy = 1/2."""
    prediction, logit = row(3.0).requires_grad_(), row(LN2).requires_grad_()
    out = afa_kernels.scale_space_render([prediction], logit, size=(2, 2))
    grads = torch.autograd.grad(out, (prediction, logit), torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()[None, None])
    assert [g.item() for g in grads] == pytest.approx([10 / 2, 3 * 10 / 2], rel=1e-14)


@pytest.mark.device
def test_recorded_inference(backend: str) -> None:
    """The paper's code over five scales, which resizes what the logits are made of to the size at scale 1."""
    record = recorded.load("ssr_compose_5scales_eval")
    scales = record["in.scales"].tolist()
    leaves = {f"{n}_{s}": record[f"in.{n}_{s}"].double().requires_grad_() for s in scales for n in ("pred", "feat")}
    size = leaves["feat_1.0"].shape[2:]
    logits = torch.cat([F.interpolate(leaves[f"feat_{s}"], size, mode="bilinear") for s in scales], dim=1)
    out = afa_kernels.scale_space_render([leaves[f"pred_{s}"] for s in scales], logits, size=(16, 16))
    torch.testing.assert_close(out, record["out.pred"], rtol=1e-13, atol=1e-14)
    assert_recorded_gradients(leaves, out, record["cot.pred"].double(), record)


@pytest.mark.device
def test_recorded_training(backend: str) -> None:
    """The paper's code over two scales, its four auxiliary predictions rendered with the same logits."""
    record = recorded.load("ssr_compose_2scales_train")
    scales = record["in.scales"].tolist()
    maps = ["pred", "feat", *(f"final_{{}}_{j}" for j in range(4))]
    names = [m.format(s) if "{}" in m else f"{m}_{s}" for s in scales for m in maps]
    leaves = {name: record[f"in.{name}"].double().requires_grad_() for name in names}
    logits = [leaves[f"feat_{s}"] for s in scales]
    predictions = {"pred": [leaves[f"pred_{s}"] for s in scales]}
    predictions |= {f"aux{j}": [leaves[f"final_{s}_{j}"] for s in scales] for j in range(4)}
    outputs = {name: afa_kernels.scale_space_render(p, logits, size=(16, 16)) for name, p in predictions.items()}
    outputs |= {f"pred_{s}_resized": F.interpolate(leaves[f"pred_{s}"], (16, 16), mode="bilinear") for s in scales}
    for name, out in outputs.items():
        torch.testing.assert_close(out, record[f"out.{name}"], rtol=1e-13, atol=1e-14)
    loss = sum((1 if name == "pred" else 0.05) * (out * record[f"cot.{name}"]).sum() for name, out in outputs.items())
    torch.testing.assert_close(loss, record["out.loss_total"], rtol=1e-13, atol=0)
    assert_recorded_gradients(leaves, loss, None, record)


def assert_recorded_gradients(
    leaves: dict[str, Tensor], out: Tensor, cotangent: Tensor | None, record: dict[str, Tensor]
) -> None:
    grads = torch.autograd.grad(out, list(leaves.values()), cotangent)
    for name, grad in zip(leaves, grads, strict=True):
        torch.testing.assert_close(grad.float(), record[f"gin.{name}"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("resize, background", OPTIONS)
def test_one_resolution(resize: str, background: str, backend: str) -> None:
    """Where nothing is resized, both orders are the weighted sum of the predictions, and so are their gradients."""
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(4)]
    *predictions, logits = leaves
    out = afa_kernels.scale_space_render(predictions, logits, background=background, resize=resize)
    weights, _ = afa_kernels.scale_space_weights(logits, background=background)
    expected = sum(weights[:, k : k + 1] * p for k, p in enumerate(predictions))
    torch.testing.assert_close(out, expected, rtol=1e-13, atol=1e-14)
    for grad, expected_grad in zip(
        *(torch.autograd.grad(o.square().sum(), leaves) for o in (out, expected)), strict=True
    ):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("resize", ["weights", "opacities"])
def test_opaque_background_keeps_a_constant(resize: str, backend: str) -> None:
    """With background="last" a rendering is a mean: scales that agree on 5 give 5 in every resolution."""
    predictions = [torch.full((1, 2, *size), 5.0, dtype=torch.float64) for size in ((3, 4), (7, 5), (11, 9))]
    logits = torch.randn(1, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = afa_kernels.scale_space_render(predictions, logits, (8, 13), background="last", resize=resize)
    torch.testing.assert_close(out, torch.full_like(out, 5.0), rtol=1e-13, atol=0)


@pytest.mark.parametrize("size_in, size_out", [((5, 7), (9, 8)), ((9, 8), (4, 3)), ((6, 9), (6, 4)), ((1, 3), (4, 3))])
def test_resize_is_interpolate(size_in: tuple[int, int], size_out: tuple[int, int], backend: str) -> None:
    """One opaque scale is F.interpolate itself, its gradient that of F.interpolate."""
    x = torch.randn(2, 3, *size_in, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = afa_kernels.scale_space_render([x], torch.zeros(2, 1, 2, 2), size_out, background="last")
    expected = F.interpolate(x, size_out, mode="bilinear", align_corners=False)
    torch.testing.assert_close(out, expected, rtol=1e-13, atol=1e-14)
    (grad,), (expected_grad,) = (torch.autograd.grad(o, x, expected.detach() ** 2) for o in (out, expected))
    torch.testing.assert_close(grad, expected_grad, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("resize", ["weights", "opacities"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_saturated(dtype: torch.dtype, resize: str, backend: str) -> None:
    """An opaque scale in front is all that is seen, and none but it has a gradient."""
    generator = torch.Generator().manual_seed(0)
    predictions = [
        torch.randn(1, 2, *size, generator=generator).to(dtype).requires_grad_() for size in ((4, 6), (3, 2))
    ]
    logits = torch.full((1, 2, 2, 3), 1e4, dtype=dtype, requires_grad=True)
    out = afa_kernels.scale_space_render(predictions, logits, resize=resize)
    assert torch.equal(out, predictions[0])
    grads = torch.autograd.grad(out.sum(), [*predictions, logits])
    assert torch.equal(grads[0], torch.ones_like(predictions[0]))
    assert not grads[1].any() and not grads[2].any()


def test_infinite_score_at_the_output_resolution(backend: str) -> None:
    """A prediction of the output's size is not interpolated, so that a log-probability of -inf stays where it is."""
    prediction = torch.zeros(1, 2, 3, 4)
    prediction[0, 1, 1, 2] = -torch.inf
    out = afa_kernels.scale_space_render([prediction], torch.ones(1, 1, 2, 2))
    assert torch.equal(out.isinf(), prediction.isinf()) and not out.isnan().any()


def test_default_size(backend: str) -> None:
    predictions = [torch.randn(1, 2, *size) for size in ((9, 4), (5, 8), (3, 12))]
    assert afa_kernels.scale_space_render(predictions, torch.randn(1, 3, 4, 4)).shape == (1, 2, 5, 8)


def test_type_of_the_result(backend: str) -> None:
    """The promoted type of the predictions, whatever the logits' type; under autocast float32."""
    half, brain, single, double = torch.float16, torch.bfloat16, torch.float32, torch.float64
    for first, second, logits, expected in (
        (half, half, double, half),
        (half, brain, brain, single),
        (brain, single, half, single),
        (double, half, half, double),
    ):
        predictions = [torch.randn(1, 2, 3, 4).to(first), torch.randn(1, 2, 5, 6).to(second)]
        y = torch.randn(1, 2, 3, 3).to(logits)
        assert afa_kernels.scale_space_render(predictions, y).dtype == expected
        with torch.autocast("cpu", brain):
            out = afa_kernels.scale_space_render(predictions, y)
        assert out.dtype == (double if expected == double else single)


def test_autocast_rounds_nothing(backend: str) -> None:
    """Under autocast, half-precision predictions give what the same numbers in float32 do, to the bit."""
    predictions = [torch.randn(1, 2, 3, 4).bfloat16(), torch.randn(1, 2, 5, 6).bfloat16()]
    logits = torch.randn(1, 2, 3, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = afa_kernels.scale_space_render(predictions, logits)
    assert torch.equal(out, afa_kernels.scale_space_render([p.float() for p in predictions], logits.float()))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_saves_its_arguments_alone(memory_format: torch.memory_format, kernel: str) -> None:
    sizes = ((6, 8), (12, 16))
    inputs = [torch.randn(2, 5, *s).contiguous(memory_format=memory_format).requires_grad_() for s in sizes]
    inputs.append(torch.randn(2, 2, 6, 8, requires_grad=True))
    saved = saved_storages(lambda: afa_kernels.scale_space_render(inputs[:-1], inputs[-1], size=(24, 32)))
    assert saved == {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in inputs}


def test_meta_tensors() -> None:
    predictions = [torch.empty(2, 3, 4, 5, device="meta"), torch.empty(2, 3, 8, 10, device="meta")]
    out = afa_kernels.scale_space_render(predictions, torch.empty(2, 2, 4, 5, device="meta"), size=(16, 20))
    assert out.is_meta and out.shape == (2, 3, 16, 20)


@pytest.mark.parametrize("size", [(8, 3), (2, 9), (2, 40)])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_an_axis_that_is_not_resized_reads_no_neighbour(
    size: tuple[int, int], format: torch.memory_format, backend: str
) -> None:
    """An infinite score beside a pixel has weight 0 there, and is not read: 0 times it would be NaN."""
    x = torch.randn(1, 4, size[0] if size[0] == 2 else 4, size[1] if size[1] == 3 else 3)
    x[0, :, :, 1] = -torch.inf
    x = x.contiguous(memory_format=format)
    logits = torch.full((1, 1, *size), 2.0)
    with afa_kernels.use_backend("reference"):
        expected = afa_kernels.scale_space_render([x], logits, size)
    with afa_kernels.use_backend(backend):
        torch.testing.assert_close(afa_kernels.scale_space_render([x], logits, size), expected, equal_nan=True)


@pytest.mark.parametrize("x", [torch.randn(2, 9, 1, 1)[:, :7], torch.randn(1, 5, 1, 1).expand(3, 5, 1, 1)])
def test_one_pixel_in_odd_strides(x: Tensor, backend: str) -> None:
    with afa_kernels.use_backend(backend):
        rendered = afa_kernels.scale_space_render([x], torch.full((x.shape[0], 1, 4, 4), torch.inf), (4, 4))
    torch.testing.assert_close(rendered, x.expand(-1, -1, 4, 4))
