"""channel_attention: values by hand, the order of its two batch norms, and what it keeps for backward."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import afa_kernels
from afa_kernels.testing import saved_storages


def parameters(inputs: int, hidden: int, outputs: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {
        "conv1_weight": torch.randn(hidden, inputs, 1, 1, generator=generator, dtype=dtype),
        "weight": torch.linspace(-1, 2, hidden, dtype=dtype),
        "bias": torch.linspace(1, -1, hidden, dtype=dtype),
        "conv2_weight": torch.randn(outputs, hidden, 1, 1, generator=generator, dtype=dtype),
    }
    running = {"running_mean": torch.linspace(-1, 1, hidden), "running_var": torch.linspace(0.5, 2, hidden)}
    return {**{name: t.requires_grad_() for name, t in made.items()}, **{n: t.to(dtype) for n, t in running.items()}}


class Official(nn.Module):
    """The composition of the paper's code, whose pooled branches go through one norm, the maximum first."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU())
        self.conv2 = nn.Conv2d(hidden, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        highest = self.conv2(self.conv1(nn.functional.adaptive_max_pool2d(x, 1)))
        return highest + self.conv2(self.conv1(nn.functional.adaptive_avg_pool2d(x, 1)))

    def parameters_of_ours(self) -> dict[str, Any]:
        conv, norm, _ = self.conv1
        return {
            "conv1_weight": conv.weight,
            "weight": norm.weight,
            "bias": norm.bias,
            "running_mean": norm.running_mean,
            "running_var": norm.running_var,
            "conv2_weight": self.conv2.weight,
        }


def test_values_by_hand(backend: str) -> None:
    """W1 = (1 -1), W2 = (2), gamma 3, beta 1, mean 0.5, variance 4: with max (3 5), avg (2 1): y = -2.75, 1.75."""
    x = torch.tensor([[[1.0, 3.0]], [[5.0, -3.0]]], dtype=torch.float64)[None]
    one = torch.ones(1, dtype=torch.float64)
    with afa_kernels.use_backend(backend):
        logits = afa_kernels.channel_attention(
            x, torch.tensor([[1.0, -1.0]], dtype=torch.float64)[..., None, None], 3 * one, one, 0.5 * one, 4 * one,
            2 * one.view(1, 1, 1, 1), training=False, eps=0.0, activation_slope=0.5,
        )  # fmt: skip
    torch.testing.assert_close(logits, torch.full((1, 1, 1, 1), 2 * (-2.75 / 2 + 1.75)).double())


@pytest.mark.parametrize("training", [True, False])
def test_as_the_official_composition(training: bool, backend: str) -> None:
    """Values, gradients, and running statistics that move twice, by those of the maximum first."""
    torch.manual_seed(0)
    theirs = Official(5, 3, 4).double().train(training)
    with torch.no_grad():
        theirs.conv1[1].running_mean.normal_()
        theirs.conv1[1].running_var.uniform_(0.5, 2)
    ours = copy.deepcopy(theirs)
    x = torch.randn(6, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    expected = theirs(x)
    with afa_kernels.use_backend(backend):
        got = afa_kernels.channel_attention(x, **ours.parameters_of_ours(), training=training)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn_like(expected)
    of_theirs = torch.autograd.grad(expected, [x, *theirs.parameters()], upstream)
    torch.testing.assert_close(torch.autograd.grad(got, [x, *ours.parameters()], upstream), of_theirs)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours.conv1[1], name), getattr(theirs.conv1[1], name))


def test_one_image_in_training() -> None:
    message = r"Expected more than 1 value per channel when training.*SyncBatchNorm, another norm_layer, or eval mode"
    with pytest.raises(ValueError, match=message):
        afa_kernels.channel_attention(torch.randn(1, 5, 3, 4), **parameters(5, 3, 4), training=True)


@pytest.mark.once
def test_opcheck(kernel: str) -> None:
    given = parameters(5, 3, 4)
    order = "conv1_weight", "weight", "bias", "running_mean", "running_var", "conv2_weight"
    pooled = [torch.randn(2, 5, 1, 1, requires_grad=True) for _ in range(2)]
    with afa_kernels.use_backend(kernel):
        arguments = (*pooled, *(given[name] for name in order), 1e-5, 0.01, True)
        torch.library.opcheck(torch.ops.afa.channel_attention.default, arguments)


def test_saves_vectors_alone(kernel: str) -> None:
    x, given = torch.randn(2, 16, 24, 32, requires_grad=True), parameters(16, 2, 16)
    with afa_kernels.use_backend(kernel):
        saved = saved_storages(lambda: afa_kernels.channel_attention(x, **given, training=False))
    assert max(saved.values()) <= 2 * 16 * 8  # the places of the maxima


def test_partial_requires_grad(kernel: str) -> None:
    given = parameters(5, 3, 4)
    x = torch.randn(2, 5, 3, 4)
    with afa_kernels.use_backend(kernel):
        every = torch.autograd.grad(afa_kernels.channel_attention(x, **given, training=False).sum(), given["weight"])
        alone = {name: t.detach().requires_grad_(name == "weight") for name, t in given.items()}
        out = afa_kernels.channel_attention(x, **alone, training=False)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), alone["weight"]), every)


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_backward_of_statistics_of_another_size(kernel: str, batch_statistics: bool) -> None:
    """Nobody but a program of the operations calls it so: it raises before a kernel reads beside them."""
    given = parameters(5, 3, 4)
    pooled = [torch.randn(2, 5, 1, 1) for _ in range(2)]
    arguments = (*pooled, *(given[name].detach() for name in ("conv1_weight", "weight", "bias")))
    options = batch_statistics, 1e-5, 0.0, False, [True] * 6, kernel
    for sizes in ((1, 1), (2, 2)):
        with pytest.raises((RuntimeError, ValueError), match=r"mean|shape"):
            torch.ops.afa.channel_attention_backward(
                torch.randn(2, 4, 1, 1), *arguments, *torch.zeros(2, *sizes), given["conv2_weight"].detach(), *options
            )


def test_no_input_channels_leave_the_bias(backend: str) -> None:
    given = torch.ones(2, 0, 3, 3), torch.ones(4, 0, 1, 1), torch.ones(4), torch.ones(4), torch.zeros(4), torch.ones(4)
    with afa_kernels.use_backend(backend):
        logits = afa_kernels.channel_attention(*given, torch.ones(2, 4, 1, 1), training=False, eps=0.0)
    torch.testing.assert_close(logits, torch.full((2, 2, 1, 1), 8.0))  # of two branches, four hidden channels of 1
