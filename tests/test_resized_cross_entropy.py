"""resized_cross_entropy: as the two functions of PyTorch, values by hand, memory, and targets that are no class."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import afa_kernels
from afa_kernels.ops import _cross_entropy as cross_entropy
from afa_kernels.ops.resized_cross_entropy import _op
from afa_kernels.testing import peak_bytes

LOG2 = math.log(2)


def test_values_by_hand(backend: str) -> None:
    """Of one pixel with logits (0, log 3), made two: probabilities (1/4, 3/4)."""
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1).requires_grad_()
    target = torch.tensor([[[0, 1]]])
    with afa_kernels.use_backend(backend):
        losses = afa_kernels.resized_cross_entropy(logits, target, reduction="none")
        (grad,) = torch.autograd.grad(losses, logits, torch.tensor([[[1.0, 10.0]]]))
        smooth = afa_kernels.resized_cross_entropy(logits, target[..., :1], label_smoothing=0.5)
    torch.testing.assert_close(losses, torch.tensor([[[2 * LOG2, 2 * LOG2 - math.log(3)]]]))
    torch.testing.assert_close(grad.flatten(), torch.tensor([-0.75 + 10 * 0.25, 0.75 - 10 * 0.25]))
    torch.testing.assert_close(smooth, torch.tensor(0.75 * 2 * LOG2 + 0.25 * (2 * LOG2 - math.log(3))))


def test_a_ramp_by_hand(backend: str) -> None:
    """Two pixels, 0 and 1, made four: 0, 1/4, 3/4 and 1, against a class of 0."""
    logits = torch.tensor([[[[0.0, 1.0]], [[0.0, 0.0]]]])
    with afa_kernels.use_backend(backend):
        losses = afa_kernels.resized_cross_entropy(logits, torch.ones(1, 2, 4, dtype=torch.uint8), reduction="none")
    expected = torch.tensor([0.0, 0.25, 0.75, 1.0]).exp().add(1).log()
    torch.testing.assert_close(losses, expected.expand(1, 2, 4))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_as_the_functions_of_pytorch(reduction: str, smoothing: float, weighted: bool, backend: str) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True), torch.randint(5, (2, 7, 9))
    target[0, :3] = 255
    options = {"ignore_index": 255, "reduction": reduction, "label_smoothing": smoothing}
    weight = torch.rand(5, dtype=torch.float64) if weighted else None
    expected = F.cross_entropy(F.interpolate(logits, size=(7, 9), mode="bilinear"), target, weight, **options)
    with afa_kernels.use_backend(backend):
        loss = afa_kernels.resized_cross_entropy(logits, target, weight, **options)
        upstream = torch.randn_like(loss)
        (grad,) = torch.autograd.grad(loss, logits, upstream)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits, upstream)[0])


def test_every_pixel_ignored(backend: str) -> None:
    logits, target = torch.randn(1, 3, 2, 2, requires_grad=True), torch.full((1, 4, 4), 255, dtype=torch.uint8)
    with afa_kernels.use_backend(backend):
        assert afa_kernels.resized_cross_entropy(logits, target, ignore_index=255).isnan()
        total = afa_kernels.resized_cross_entropy(logits, target, ignore_index=255, reduction="sum")
        assert total == 0 and not torch.autograd.grad(total, logits)[0].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("upstream", [math.inf, math.nan])
def test_an_ignored_pixel_has_no_gradient(upstream: float, smoothing: float, backend: str) -> None:
    """Whatever reaches its loss."""
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 2, 3, requires_grad=True), torch.randint(3, (2, 5, 7))
    target[0, 1:3, ::2] = target[1] = -100

    def gradient(of_ignored: float) -> Tensor:
        losses = afa_kernels.resized_cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
        return torch.autograd.grad(losses, logits, torch.where(target == -100, of_ignored, 1.0))[0]

    if backend == "reference":
        pytest.skip("F.cross_entropy multiplies by 0")
    with afa_kernels.use_backend(backend):
        assert torch.equal(gradient(upstream), gradient(0.0)) and not gradient(0.0)[1].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_infinite_logits(smoothing: float, backend: str) -> None:
    """A class of -inf is impossible and costs nothing, unless it is the target or the labels are smooth.

    At the target's size: elsewhere a resize multiplies infinities by 0.
    """
    logits = torch.tensor([1.0, 2.0, -math.inf]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
    target = torch.tensor([[[0, 1, 2]]])
    with afa_kernels.use_backend(backend):
        losses = afa_kernels.resized_cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
    finite = [True, True, False] if smoothing == 0 else [False] * 3
    assert losses.flatten().isfinite().tolist() == finite and not losses.isnan().any()


@pytest.mark.once
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_never_holds_the_resized_logits(layout: torch.memory_format, kernel: str) -> None:
    """Nor their softmax or gradient: a training step holds at most a tenth of what eager PyTorch does."""
    logits = torch.randn(1, 64, 32, 64).contiguous(memory_format=layout).requires_grad_()
    target = torch.randint(64, (1, 128, 256))

    def eager() -> None:
        F.cross_entropy(F.interpolate(logits, size=(128, 256), mode="bilinear"), target).backward()

    def step() -> None:
        afa_kernels.resized_cross_entropy(logits, target, label_smoothing=0.1).backward()

    with afa_kernels.use_backend(kernel):
        assert peak_bytes(step) <= 0.1 * peak_bytes(eager)


@pytest.mark.once
def test_targets_that_are_no_class(kernel: str) -> None:
    """Where nobody looked, they give NaN and read no memory of others."""
    logits = torch.randn(1, 3, 2, 4)
    target = torch.tensor([0, 1, 2, 3, -1, -100, 2**40, -(2**40)]).view(1, 2, 4)
    launch = afa_kernels.backends.launcher
    smoothing = torch.tensor([0.1, 0.2, 0.3, 0.6])
    with afa_kernels.use_backend(kernel):
        losses, lse, grad = torch.empty(1, 2, 4), torch.empty(1, 2, 4), torch.empty_like(logits)
        classes = logits, target, torch.ones(3), smoothing
        launch("resized_cross_entropy_forward", "cpu", kernel)(*classes, -100, losses, lse)
        assert losses.flatten().isfinite().tolist() == [True, True, True, False, False, True, False, False]
        assert losses[0, 1, 1] == 0
        launch("resized_cross_entropy_backward", "cpu", kernel)(torch.ones(1, 2, 4), *classes, lse, -100, grad)
        assert torch.equal(grad.isnan(), losses.isnan()[:, None].expand_as(grad))
        with pytest.raises(ValueError, match="target must hold classes from 0 to 2 or ignore_index -100, got 3"):
            _op(logits, target, None, None, -100)


@pytest.mark.once
def test_labels_are_compared_in_64_bits(backend: str) -> None:
    """156 and -100 are the same 8 bits, and not the same class."""
    logits, target = torch.randn(1, 160, 1, 2), torch.full((1, 1, 4), 156, dtype=torch.uint8)
    with afa_kernels.use_backend(backend):
        loss = afa_kernels.resized_cross_entropy(logits, target)
    resized = F.interpolate(logits, size=(1, 4), mode="bilinear")
    torch.testing.assert_close(loss, F.cross_entropy(resized, target.long()))


@pytest.mark.once
@pytest.mark.parametrize("label", [3, -1, 2**40])
def test_no_class_where_nobody_looks(label: int, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the mean is NaN, and no weight is read beside the weights."""
    monkeypatch.setattr(cross_entropy, "check_classes", lambda *arguments: None)
    target = torch.tensor([0, 1, 2, label]).view(1, 1, 4)
    with afa_kernels.use_backend(kernel):
        loss = afa_kernels.resized_cross_entropy(torch.randn(1, 3, 2, 4), target, torch.rand(3))
    assert loss.isnan()
