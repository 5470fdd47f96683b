"""patch, on stand-ins with the structure, the names and the return values of the official modules."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import afa_kernels
from afa_kernels.nn.aggregation import upsampling

pytestmark = pytest.mark.once


class InPlaceABNSync(nn.BatchNorm2d):
    """By name and attributes as the norm of released checkpoints, in plain PyTorch."""

    activation, activation_param = "leaky_relu", 0.01

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        del self.num_batches_tracked

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        gamma = self.weight.abs() + self.eps
        y = F.batch_norm(x, *statistics, gamma, self.bias, self.training, self.momentum, self.eps)
        return F.leaky_relu(y, self.activation_param)


def layer(inputs: int, outputs: int, kernel: int, abn: bool) -> nn.Sequential:
    norm = [InPlaceABNSync(outputs)] if abn else [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.Sequential(*norm))


class Spatial(nn.Module):
    def __init__(self, channels: int, abn: bool, activation: str = "sigmoid") -> None:
        super().__init__()
        self.activation = activation
        self.conv, self.conv_inner = (layer(channels, channels, 3, abn) for _ in range(2))
        self.final = nn.Sequential(nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        logits = self.final(self.conv_inner(self.conv(x)))
        return (None, logits.abs()) if self.activation == "abs" else (logits.sigmoid(), logits)


class Channel(nn.Module):
    def __init__(self, channels: int, abn: bool) -> None:
        super().__init__()
        self.conv1 = layer(channels, channels // 8, 1, abn)
        self.conv2 = nn.Sequential(nn.Conv2d(channels // 8, channels, 1, bias=False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        of_max = self.conv1(F.adaptive_max_pool2d(x, 1))
        logits = self.conv2(of_max) + self.conv2(self.conv1(F.adaptive_avg_pool2d(x, 1)))
        return logits.sigmoid(), logits


class IDAUp(nn.Module):
    def __init__(self, abn: bool) -> None:
        super().__init__()
        self.proj_0, self.up_0, self.proj_1, self.up_1 = (
            nn.Identity(), nn.Identity(), layer(24, 16, 1, abn), upsampling(16, 2)
        )  # fmt: skip
        self.sa_1, self.ca_1 = Spatial(16, abn), Channel(16, abn)

    def forward(self, layers: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        shallow, deep = layers[0], self.up_1(self.proj_1(layers[1]))
        (a, _), (b, _) = self.sa_1(shallow), self.ca_1(deep)
        x = a * (1 - b) * shallow + (1 - a) * b * deep
        return x, [x]


class Trunk(nn.Module):
    def __init__(self, abn: bool) -> None:
        super().__init__()
        self.ida = IDAUp(abn)
        self.level_sa, self.level_ca, self.proj_1 = Spatial(16, abn), Channel(16, abn), layer(24, 16, 1, abn)
        self.scale_attention = Spatial(16, abn, "abs")

    def final_feature_fusion(self, layers: Sequence[Tensor]) -> Tensor:
        up = F.interpolate(self.proj_1(layers[0]), size=layers[1].shape[2:], mode="bilinear")
        out: Any = 0
        for x in (up, layers[1]):
            (a, _), (b, _) = self.level_sa(x), self.level_ca(x)
            out = a * b * x + (1 - a) * (1 - b) * out
        return out

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        x, every = self.ida([shallow, deep])
        assert every[-1] is x
        fused = self.final_feature_fusion([deep, x])
        nothing, logits = self.scale_attention(fused)
        assert nothing is None
        return fused * logits


REPLACED = [
    "ida.sa_1", "ida.ca_1", "ida", "level_sa", "level_ca", "scale_attention", "final_feature_fusion",
]  # fmt: skip


def results(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shallow, deep = torch.randn(3, 16, 8, 12).double(), torch.randn(3, 24, 4, 6).double()
    model.zero_grad()
    out = model(shallow, deep)
    out.square().sum().backward()
    grads = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return {"out": out.detach(), **grads, **{n: b.clone() for n, b in model.named_buffers()}}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("abn", [False, True])
def test_same_outputs_and_gradients(abn: bool, training: bool, backend: str) -> None:
    torch.manual_seed(1)
    model = Trunk(abn).double().train(training)
    expected = results(copy.deepcopy(model))
    parameters = dict(model.named_parameters())
    keys = list(model.state_dict())
    done = afa_kernels.patch(model)
    assert sorted(done.replaced) == sorted(REPLACED)
    assert dict(model.named_parameters()) == parameters, "the parameters are not the same objects"
    assert sorted(model.state_dict()) == sorted(keys)
    with afa_kernels.use_backend(backend):
        got = results(model)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=lambda m, name=name: f"{name}: {m}")


def test_undone() -> None:
    model = Trunk(abn=True)
    before = dict(model.named_modules())
    done = afa_kernels.patch(model)
    assert dict(model.named_modules()) != before
    done.undo()
    assert dict(model.named_modules()) == before
    assert "final_feature_fusion" not in vars(model) and done.replaced == []


def test_twice_replaces_nothing_more() -> None:
    model = Trunk(abn=False)
    assert afa_kernels.patch(model).replaced
    assert afa_kernels.patch(model).replaced == []


def test_leaves_others_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), InPlaceABNSync(8))
    before = list(model.modules())
    assert afa_kernels.patch(model).replaced == [] and list(model.modules()) == before


def test_no_module() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got dict"):
        afa_kernels.patch({})
