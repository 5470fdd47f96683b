"""Up-paths leave an upsampling to the operations that use its result, where it is just that; else they call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import afa_kernels
from afa_kernels.nn import AFADLAUp, AFAIDAUp
from afa_kernels.nn.aggregation import upsampling
from afa_kernels.nn.upsampling import weight_where_used
from afa_kernels.testing import saved_storages


class Called(TorchDispatchMode):
    """How often each operator is called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def levels(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 4 << i, 16 >> i, 16 >> i, dtype=dtype, requires_grad=True) for i in range(3)]


def up_path(dtype: torch.dtype = torch.float64) -> AFADLAUp:
    torch.manual_seed(1)
    model = AFADLAUp([4, 8, 16], [1, 2, 4]).to(dtype)
    for name, parameter in model.named_parameters():
        if ".up_" in name:
            nn.init.normal_(parameter, 0.3, 0.2)
    return model


def convolutions(model: nn.Module, given: Any) -> int:
    """Transposed ones that one call makes."""
    with torch.no_grad(), Called() as called:
        model(given)
    return sum(name in ("aten::convolution", "aten::conv_transpose2d") for name in called.names)


@pytest.mark.parametrize("training", [False, True])
def test_the_same_as_by_calling_it(training: bool, kernel: str) -> None:
    results = []
    for hooked in (False, True):
        model, given = up_path().train(training), levels()
        if hooked:
            for module in model.modules():
                if isinstance(module, nn.ConvTranspose2d):
                    module.register_forward_hook(lambda *args: None)
        with afa_kernels.use_backend(kernel):
            outputs = model(given)
            grads = torch.autograd.grad(sum(x.square().sum() for x in outputs), [*given, *model.parameters()])
        results.append([*outputs, *grads, *model.buffers()])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


def test_no_convolution_and_no_map_is_left_of_it(kernel: str) -> None:
    given, model = levels(torch.float32), up_path(torch.float32).eval()
    ups = sum(isinstance(module, nn.ConvTranspose2d) for module in model.modules())
    assert ups == 3
    with afa_kernels.use_backend(kernel):
        counts = [convolutions(model, given)]
        saved = [sum(saved_storages(lambda: tuple(model(given))).values())]
        for module in model.modules():
            if isinstance(module, nn.ConvTranspose2d):
                module.register_forward_hook(lambda *args: None)
        counts.append(convolutions(model, given))
        saved.append(sum(saved_storages(lambda: tuple(model(given))).values()))
    assert counts[1] - counts[0] == ups
    maps = sum(4 * 2 * c * h * w for c, h, w in ((8, 8, 8), (4, 16, 16), (4, 16, 16)))
    assert saved[1] - saved[0] >= maps


def test_plain_pytorch_calls_it() -> None:
    """The reference would make the map twice."""
    layer, x = upsampling(8, 2), torch.randn(1, 8, 4, 4)
    with afa_kernels.use_backend("reference"):
        assert weight_where_used(layer, x) is None


def hooked(layer: nn.ConvTranspose2d) -> nn.Module:
    layer.register_forward_hook(lambda *args: None)
    return layer


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "a bias": lambda: nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=8),
    "another kernel": lambda: nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8, bias=False),
    "another padding": lambda: nn.ConvTranspose2d(8, 8, 4, stride=2, groups=8, bias=False),
    "a padding of the output": lambda: nn.ConvTranspose2d(
        8, 8, 4, stride=2, padding=1, output_padding=1, groups=8, bias=False
    ),
    "a dilation": lambda: nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, dilation=2, groups=8, bias=False),
    "another factor": lambda: nn.ConvTranspose2d(8, 8, 6, stride=3, padding=1, groups=8, bias=False),
    "one stride of two": lambda: nn.ConvTranspose2d(8, 8, 4, stride=(2, 1), padding=1, groups=8, bias=False),
    "channels that mix": lambda: nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, bias=False),
    "fewer groups": lambda: nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=4, bias=False),
    "other channels": lambda: upsampling(16, 2),
    "hooks": lambda: hooked(upsampling(8, 2)),
    "a subclass": lambda: type("Mine", (nn.ConvTranspose2d,), {})(8, 8, 4, 2, 1, groups=8, bias=False),
    "a parametrization": lambda: nn.utils.parametrizations.weight_norm(upsampling(8, 2)),
    "nothing": nn.Identity,
}


@pytest.mark.parametrize("what", OTHERS)
def test_anything_else_is_called(what: str, kernel: str) -> None:
    x = torch.randn(1, 8, 4, 4)
    with afa_kernels.use_backend(kernel):
        assert weight_where_used(OTHERS[what](), x) is None
        for factor in (2, 4, 8):
            assert weight_where_used(upsampling(8, factor), x) is not None


def test_a_level_of_another_size(backend: str) -> None:
    up = AFAIDAUp(16, [16, 32], [1, 2])
    message = r"layers\[1\] of shape \(2, 32, 4, 5\), projected and upsampled to \(2, 16, 8, 10\), must have the shape"
    with pytest.raises(ValueError, match=message), afa_kernels.use_backend(backend):
        up([torch.randn(2, 16, 8, 8), torch.randn(2, 32, 4, 5)])


@pytest.mark.parametrize("projected", [False, True])
def test_types_under_autocast(projected: bool, kernel: str) -> None:
    """Those of the layers, whose results the convolution leaves in autocast's type."""
    model, x = AFAIDAUp(8, [8, 16 if projected else 8], [1, 2]), torch.randn(2, 8, 8, 8)
    y = torch.randn(2, 16 if projected else 8, 4, 4)
    outputs = []
    with afa_kernels.use_backend(kernel), torch.autocast("cpu", torch.bfloat16):
        outputs.append(model([x, y])[0])
        model.up_1.register_forward_hook(lambda *args: None)
        outputs.append(model([x, y])[0])
    assert outputs[0].dtype == outputs[1].dtype
    torch.testing.assert_close(*outputs, rtol=0.05, atol=0.05)
