"""scale_space_labels: values by hand, and over the cases of scale_space_render against the argmax of the reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import CASES
from torch import Tensor
from torch._subclasses import FakeTensorMode

import afa_kernels
from afa_kernels.testing import Case, Dtypes, doubled, peak_bytes

# Every case on the CPU; in Triton's interpreter, which is slow, the thorough ones.
RENDERS = [
    pytest.param(case, dtypes, marks=() if case.thorough else pytest.mark.once)
    for case in CASES
    if case.op == "scale_space_render" and case.shapes[0][0][1] > 0
    for dtypes in case.dtypes[: 2 if case.thorough else 1]
]
LABELS = {"value": "score", "dtype": torch.uint8}


def test_values_by_hand(backend: str) -> None:
    """Weights 1/2 and 3/8: scores (1, 4, 3) and probabilities of these."""
    scores = [torch.tensor([[2.0, 2.0, 6.0], [0.0, 8.0, 0.0]][k]).view(1, 3, 1, 1) for k in range(2)]
    logits = torch.tensor([math.log(2), math.log(4)]).view(1, 2, 1, 1)
    with afa_kernels.use_backend(backend):
        labels, value = afa_kernels.scale_space_labels(scores, logits, value="score")
        assert labels.tolist() == [[[1]]] and labels.dtype == torch.int64
        torch.testing.assert_close(value, torch.tensor([[[4.0]]]))
        _, value = afa_kernels.scale_space_labels(scores, logits, value="probability")
        expected = 1 / (1 + math.exp(-1) + math.exp(-3))
        torch.testing.assert_close(value, torch.tensor([[[expected]]]))


@pytest.mark.parametrize("case, dtypes", RENDERS, ids=str)
def test_as_the_rendering(case: Case, dtypes: Dtypes, backend: str) -> None:
    """The label's score is the largest, up to rounding; so is its probability."""
    if backend == "triton" and isinstance(dtypes, tuple) and {torch.float64, torch.bfloat16} <= set(dtypes):
        pytest.skip("Triton's interpreter reads a float64 as an integer to make a bfloat16 of it")
    arguments = case.inputs(dtypes)
    rendered = case.outputs(doubled(arguments), "reference")[0]
    with afa_kernels.use_backend(backend):
        labels, scores = afa_kernels.scale_space_labels(*arguments, **case.options, value="score")
        same, probabilities = afa_kernels.scale_space_labels(
            *arguments, **case.options, value="probability", dtype=torch.int32
        )
        alone = afa_kernels.scale_space_labels(*arguments, **case.options, dtype=torch.uint8)
    for other in (same, alone):
        assert torch.equal(other.long(), labels)
    assert labels.shape == (rendered.shape[0], *rendered.shape[2:]) and labels.is_contiguous()
    if labels.numel() == 0:
        return
    tolerance = 1e-12 if scores.dtype == torch.float64 else 2e-5
    budget = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
    best = rendered.max(1).values
    assert scores.dtype == probabilities.dtype and not scores.requires_grad
    torch.testing.assert_close(scores.double(), best, **budget)
    torch.testing.assert_close(rendered.gather(1, labels[:, None])[:, 0], best, **budget)
    torch.testing.assert_close(probabilities.double(), rendered.softmax(1).max(1).values, **budget)


def arguments(values: Tensor) -> tuple[list[Tensor], Tensor]:
    """Predictions (1, C, 1, W) of one scale that is opaque, so that the rendering is the prediction."""
    return [values.t()[None, :, None].contiguous()], torch.full((1, 1, 1, values.shape[0]), 1e4)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("channels_last", [False, True])
def test_ties_infinity_and_nan(channels_last: bool, backend: str) -> None:
    values = torch.tensor(
        [[1, 3, 3], [0, 0, 0], [-INF, -INF, -INF], [-INF, -INF, 2], [1, NAN, NAN], [NAN, INF, 5], [INF, NAN, 0]]
    )
    (scores,), logits = arguments(values)
    if channels_last:
        scores = scores.contiguous(memory_format=torch.channels_last)
    with afa_kernels.use_backend(backend):
        labels, best = afa_kernels.scale_space_labels([scores], logits, value="score")
        _, probability = afa_kernels.scale_space_labels([scores], logits, value="probability")
    assert labels[0, 0].tolist() == values.argmax(1).tolist() == [1, 0, 0, 2, 1, 0, 1]
    torch.testing.assert_close(best[0, 0], values.max(1).values, equal_nan=True)
    torch.testing.assert_close(probability[0, 0, :2], torch.tensor([1 / (2 + math.exp(-2)), 1 / 3]))
    assert probability[0, 0, 3] == 1 and probability[0, 0, 4:6].isnan().all()


@pytest.mark.once
@pytest.mark.parametrize("options", [{}, LABELS])
def test_fake_and_compiled(options: dict[str, Any], kernel: str) -> None:
    torch.compiler.reset()
    predictions = [torch.randn(2, 5, 4, 6), torch.randn(2, 5, 8, 12)]
    logits = torch.randn(2, 2, 8, 12)

    def labels(predictions: list[Tensor], logits: Tensor) -> Any:
        return afa_kernels.scale_space_labels(predictions, logits, (16, 24), **options)

    with afa_kernels.use_backend(kernel):
        real = labels(predictions, logits)
        torch.testing.assert_close(
            torch.compile(labels, fullgraph=True, backend="aot_eager")(predictions, logits), real
        )
        with FakeTensorMode() as mode:
            fake = labels([mode.from_tensor(p) for p in predictions], mode.from_tensor(logits))
    for f, r in zip(*(x if isinstance(x, tuple) else (x,) for x in (fake, real)), strict=True):
        assert (f.shape, f.stride(), f.dtype) == (r.shape, r.stride(), r.dtype)


@pytest.mark.once
def test_no_gradient(backend: str) -> None:
    predictions, logits = [torch.randn(1, 3, 4, 4, requires_grad=True)], torch.randn(1, 1, 4, 4, requires_grad=True)
    with afa_kernels.use_backend(backend):
        assert not afa_kernels.scale_space_labels(predictions, logits, value="score")[1].requires_grad


@pytest.mark.once
def test_never_holds_a_rendering(kernel: str) -> None:
    predictions, logits = [torch.randn(1, 19, 32, 64)] * 3, torch.randn(1, 3, 32, 64)
    with afa_kernels.use_backend(kernel):
        held = peak_bytes(lambda: afa_kernels.scale_space_labels(predictions, logits, (256, 512), dtype=torch.uint8))
    assert held < 0.1 * 19 * 256 * 512 * 4


@pytest.mark.once
def test_bad_channels_value_and_dtype() -> None:
    logits = torch.zeros(1, 1, 4, 4)
    with pytest.raises(
        ValueError, match=r"predictions must have 1 to 256 channels for labels of torch\.uint8, got 257"
    ):
        afa_kernels.scale_space_labels([torch.zeros(1, 257, 4, 4)], logits, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"predictions must have 1 to 9223372036854775808 channels .* got 0"):
        afa_kernels.scale_space_labels([torch.zeros(1, 0, 4, 4)], logits)
    with pytest.raises(ValueError, match="value must be one of 'score', 'probability', got 'logit'"):
        afa_kernels.scale_space_labels([torch.zeros(1, 3, 4, 4)], logits, value="logit")
    with pytest.raises(
        ValueError, match=r"dtype must be one of torch\.uint8, torch\.int32, torch\.int64, got torch\.float32"
    ):
        afa_kernels.scale_space_labels([torch.zeros(1, 3, 4, 4)], logits, dtype=torch.float32)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_infinite_scores_have_no_probability(format: torch.memory_format, backend: str) -> None:
    scores = torch.tensor([[1.0, torch.inf, 2.0], [-torch.inf] * 3, [0.0, 0.0, -torch.inf]]).T.reshape(1, 3, 1, 3)
    scores = scores.contiguous(memory_format=format)
    with afa_kernels.use_backend(backend):
        opaque = torch.full((1, 1, 1, 3), torch.inf)
        labels, value = afa_kernels.scale_space_labels([scores], opaque, value="probability")
    assert labels.flatten().tolist() == [1, 0, 0]
    torch.testing.assert_close(value.flatten(), torch.tensor([torch.nan, torch.nan, 0.5]), equal_nan=True)
