"""scale_space_cross_entropy: values by hand, memory, targets that are no class, and bands of rows on a GPU."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from cases import CASES
from torch import Tensor

import afa_kernels
from afa_kernels.ops.scale_space_cross_entropy import _op
from afa_kernels.testing import check, gradients, peak_bytes

LOG2 = math.log(2)


def test_values_by_hand(backend: str) -> None:
    """Weights 1/2 and 3/8 and predictions of (2, 0) and (0, 8): scores (1, 3), of which class 1 is right."""
    scores = [torch.tensor(s).view(1, 2, 1, 1).requires_grad_() for s in ([2.0, 0.0], [0.0, 8.0])]
    logits = torch.tensor([LOG2, 2 * LOG2]).view(1, 2, 1, 1).requires_grad_()
    with afa_kernels.use_backend(backend):
        loss = afa_kernels.scale_space_cross_entropy(scores, logits, torch.ones(1, 1, 1, dtype=torch.int64))
        loss.backward()
    wrong = 1 / (1 + math.exp(2))  # the softmax of class 0
    torch.testing.assert_close(loss, torch.tensor(-math.log(1 - wrong)))
    torch.testing.assert_close(scores[0].grad.flatten(), 0.5 * wrong * torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(scores[1].grad.flatten(), 0.375 * wrong * torch.tensor([1.0, -1.0]))
    # what reaches the weights is (2 wrong, -8 wrong); dw1/dy1 = 1/2, dw2/dy1 = -w2, dw2/dy2 = T1 / 4
    torch.testing.assert_close(logits.grad.flatten(), wrong * torch.tensor([2 * 0.5 + 8 * 0.375, -8 * 0.125]))


def test_ignored_and_weighted(backend: str) -> None:
    """One opaque scale: scores (0, 0) and weights (1, 3); the third pixel does not count."""
    scores, logits = torch.zeros(1, 2, 1, 3), torch.full((1, 1, 1, 3), 1e4)
    target = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)

    def loss(reduction: str, weight: Tensor | None, target: Tensor = target) -> Tensor:
        with afa_kernels.use_backend(backend):
            return afa_kernels.scale_space_cross_entropy(
                [scores], logits, target, weight, ignore_index=255, reduction=reduction
            )

    weight = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(loss("none", weight), LOG2 * torch.tensor([[[1.0, 3.0, 0.0]]]))
    torch.testing.assert_close(loss("sum", weight), torch.tensor(4 * LOG2))
    torch.testing.assert_close(loss("mean", weight), torch.tensor(LOG2))
    torch.testing.assert_close(loss("mean", None), torch.tensor(LOG2))
    assert loss("mean", None, torch.full_like(target, 255)).isnan()


@pytest.mark.once
def test_upstream_gradient_of_any_stride(kernel: str) -> None:
    case = next(c for c in CASES if c.op == "scale_space_cross_entropy" and c.covers == "an unreduced loss")
    arguments = case.inputs(torch.float32)
    grad = torch.randn(2, 5, 21)
    plain, strided = (
        gradients(lambda a: case.outputs(a, kernel), arguments, [g]) for g in (grad, grad.mT.contiguous().mT)
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, strided, strict=True))


@pytest.mark.once
def test_never_holds_a_rendering(kernel: str) -> None:
    """Nor its softmax, in a training step."""
    predictions, logits = [torch.randn(1, 64, 8, 16, requires_grad=True)] * 2, torch.randn(1, 2, 8, 16)
    target = torch.randint(64, (1, 128, 256), dtype=torch.uint8)

    def step() -> None:
        afa_kernels.scale_space_cross_entropy(predictions, logits.requires_grad_(), target).backward()

    with afa_kernels.use_backend(kernel):
        assert peak_bytes(step) < 0.2 * 64 * 128 * 256 * 4


@pytest.mark.once
def test_targets_that_are_no_class(kernel: str) -> None:
    """Where nobody looked, they give NaN and read no memory of others."""
    predictions, logits = [torch.randn(1, 3, 2, 4)], torch.randn(1, 1, 2, 4)
    target = torch.tensor([0, 1, 2, 3, -1, -100, 2**40, -(2**40)]).view(1, 2, 4)
    launch = afa_kernels.backends.launcher
    with afa_kernels.use_backend(kernel):
        options = -100, "abs", False, False
        losses, lse = torch.empty(1, 2, 4), torch.empty(1, 2, 4)
        launch("scale_space_cross_entropy_forward", "cpu", kernel)(
            predictions, logits, target, None, None, *options, losses, lse
        )
        assert losses.flatten().isfinite().tolist() == [True, True, True, False, False, True, False, False]
        assert losses[0, 1, 1] == 0
        grad = torch.empty_like(predictions[0])
        launch("scale_space_cross_entropy_backward", "cpu", kernel)(
            torch.ones(1, 2, 4), predictions, logits, target, torch.ones(3), None, lse, *options, [True, False], [grad]
        )
        assert torch.equal(grad.isnan(), losses.isnan()[:, None].expand_as(grad))
        with pytest.raises(ValueError, match="target must hold classes from 0 to 2 or ignore_index -100, got 3"):
            _op(predictions, logits, target, None, None, *options)


@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
def test_bands_of_rows(layout: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Triton backward goes an image and a few rows at a time."""
    if backend != "triton":
        pytest.skip("bands of rows are made in Triton only; on cpu the case of many rows has several")
    kernels = importlib.import_module("afa_kernels.triton_kernels._cross_entropy")
    covers = "three scales, prime sizes, NCHW" if layout == "NCHW" else "channels_last"
    case = next(c for c in CASES if c.op == "scale_space_cross_entropy" and c.covers == covers)
    monkeypatch.setattr(kernels, "BAND_BYTES", 2 * 3 * 21 * 4)  # two rows of one image
    check(case, case.inputs(torch.float32), backend)


@pytest.mark.parametrize("height", [1, 5, 64, 97])
def test_bands_share_out_every_row(height: int) -> None:
    pytest.importorskip("triton")
    kernels = importlib.import_module("afa_kernels.triton_kernels._cross_entropy")
    for sources in ([1], [3, 64], [height], [2 * height + 1, height // 2 + 1], []):
        for rows in (0, 1, 7, 1000):
            found = kernels.bands(height, sources, rows)
            for k, source in enumerate(sources):
                assert [i for owned, _, _ in found for i in range(*owned[k])] == list(range(source))
            resized = torch.nn.functional.interpolate(
                torch.eye(max(sources, default=1), dtype=torch.float64)[None], height, mode="linear"
            )
            for owned, first, last in found:
                for (begin, end), source in zip(owned, sources, strict=True):
                    if source == max(sources):
                        readers = resized[0, begin:end].abs().sum(0).nonzero().flatten().tolist()
                        assert all(first <= y < last for y in readers)
