"""`fold`: a copy for evaluation whose convolutions carry the norms behind them."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.networks import KINDS, small
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import afa_kernels
from afa_kernels import models
from afa_kernels.nn import ABN, AttentiveFusion, SpatialAttention

pytestmark = pytest.mark.once
IMAGES = torch.randn(2, 3, 64, 128)


def worn(model: nn.Module) -> nn.Module:
    """With statistics and parameters as after a training."""
    torch.manual_seed(0)
    for norm in (m for m in model.modules() if isinstance(m, (nn.BatchNorm2d, ABN))):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.data.normal_()
        norm.running_var.uniform_(0.5, 2)
    return model.eval()


def norms_of(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, (nn.BatchNorm2d, ABN))]


def by_hand(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = 0 if conv.bias is None else conv.bias
    return conv.weight * gain[:, None, None, None], norm.bias + (bias - norm.running_mean) * gain


@pytest.mark.parametrize("bias", [True, False])
def test_weights(bias: bool) -> None:
    model = worn(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, groups=1, bias=bias), nn.BatchNorm2d(4), nn.ReLU()))
    before = copy.deepcopy(model.state_dict())
    folded = afa_kernels.fold(model, torch.randn(1, 3, 8, 8))
    weight, of_bias = by_hand(model[0], model[1])
    torch.testing.assert_close(folded[0].weight, weight)
    torch.testing.assert_close(folded[0].bias, of_bias)
    assert type(folded[1]) is nn.Identity
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_networks(kind: str, dtype: torch.dtype) -> None:
    network = worn(small(**KINDS[kind]))
    model, images = network.to(dtype), IMAGES.to(dtype)
    folded = afa_kernels.fold(model, images)
    with torch.no_grad():
        expected, got = model(images), folded(images)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    left = [name for name in norms_of(folded) if ".ca_" not in name and "level_ca" not in name and "_inner" not in name]
    assert left == []


@pytest.mark.parametrize("name", ["dla46_c", "dla34"])
def test_backbone(name: str) -> None:
    model = worn(models.DLA(name, first_level=1))
    folded = afa_kernels.fold(model, torch.randn(1, 3, 64, 64))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for got, expected in zip(folded(images), model(images), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    # The trees of more than one level have a projection that nobody uses.
    assert all("project" in path for path in norms_of(folded))


@pytest.mark.parametrize("norm", ["bn", "abn"])
def test_modules_still_fuse(norm: str) -> None:
    model = worn(AttentiveFusion(8, 16, norm=norm))
    given = torch.randn(2, 8, 12, 12), torch.randn(2, 16, 6, 6)
    folded = afa_kernels.fold(model, *given)
    with torch.no_grad():
        torch.testing.assert_close(folded(*given), model(*given), rtol=1e-5, atol=1e-5)
        assert set(afa_kernels.nn.fusing(folded).values()) == {None}
    torch.testing.assert_close(folded(*given), model(*given), rtol=1e-5, atol=1e-5)  # where gradients are recorded
    assert {name.partition(".")[0] for name in norms_of(folded)} == {"sa", "ca"}
    assert "sa.conv.1.0" not in norms_of(folded)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Residual(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)) + x)


class BeforeIt(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(F.relu(self.bn1(x)))


class Twice(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.bn1(self.conv1(x)))


class Both(Block):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(x)
        return self.bn1(hidden) + hidden


class Noise(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)) + torch.randn_like(x)


@pytest.mark.parametrize("block, norms", [(Residual, 0), (BeforeIt, 1), (Twice, 1)])
def test_what_runs_decides(block: type[Block], norms: int) -> None:
    """Names say nothing: what the norm gets does."""
    model, x = worn(block()), torch.randn(1, 4, 6, 6)
    folded = afa_kernels.fold(model, x)
    assert len(norms_of(folded)) == norms
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x))


@pytest.mark.parametrize("block", [Both, Noise])
def test_refused(block: type[Block]) -> None:
    with pytest.raises(RuntimeError, match=f"the folded {block.__name__} differs from it by"):
        afa_kernels.fold(worn(block()), torch.randn(1, 4, 6, 6))


@pytest.mark.parametrize("layer", [0, 1])
def test_hooks_are_kept(layer: int) -> None:
    model: Any = worn(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    seen = []
    model[layer].register_forward_hook(lambda *_: seen.append(layer))
    x = torch.randn(1, 3, 4, 4)
    folded = afa_kernels.fold(model, x)
    assert norms_of(folded) == ["1"]
    seen.clear()
    folded(x)
    assert seen == [layer]


class Shared(Block):
    """The convolution has a norm behind it at one of two calls."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"normed": self.bn1(input=self.conv1(x)), "plain": self.conv1(x).relu(), "empty": x[:0], "even": x > 0}


def test_a_convolution_with_two_uses_is_left_alone() -> None:
    model, x = worn(Shared()), torch.randn(1, 4, 6, 6)
    folded = afa_kernels.fold(model, x)
    assert norms_of(folded) == ["bn1"]
    torch.testing.assert_close(folded(x), model(x))


def test_errors_and_what_is_left_alone() -> None:
    with pytest.raises(TypeError, match=r"fold needs an example: fold\(model, image\)"):
        afa_kernels.fold(nn.Conv2d(3, 4, 1))
    untracked = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert norms_of(afa_kernels.fold(untracked, torch.randn(1, 3, 4, 4))) == ["1"]
    alone = afa_kernels.fold(SpatialAttention(4), torch.randn(1, 4, 4, 4))
    assert norms_of(alone) == ["conv_inner.1.0"]


class Operators(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not op.is_view
        return op(*args, **(kwargs or {}))


def test_what_a_call_dispatches() -> None:
    """The figures of docs/networks.md, give or take what versions of PyTorch differ by."""
    text = (Path(__file__).parents[1] / "docs" / "networks.md").read_text()
    images = torch.randn(1, 3, 128, 128)
    for name in ("afa_dla34", "afa_dla34_ssr"):
        model = models.create(name, num_classes=19).eval()
        for said, network in zip(("after", "before"), (afa_kernels.fold(model, images), model)):
            with torch.no_grad(), Operators() as operators:
                network(images)
            figures = re.search(rf"`{name}`[^`]*?(?P<after>\d+)\s(?:operators )?in place of (?P<before>\d+)", text)
            assert figures is not None
            assert operators.count == pytest.approx(int(figures[said]), rel=0.03)
