"""bn_relu_conv2d: against F.batch_norm, F.relu and F.conv2d, whose kernels it may use, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import afa_kernels
from afa_kernels import backends, layout
from afa_kernels.aten_kernels import bn_relu_conv2d as kernels
from afa_kernels.testing import LAYOUTS, disagreement, saved_storages

pytestmark = pytest.mark.once  # the battery has its kernels in the interpreter

CONVOLUTIONS: list[dict[str, Any]] = [
    {"padding": 1},
    {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
    {"stride": 2, "groups": 2},
]


def inputs(dtype: torch.dtype, layout: str = "contiguous", groups: int = 1, channels: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "hidden": (2, channels, 7, 9),
        "weight": (channels,),
        "bias": (channels,),
        "conv_weight": (4, channels // groups, 3, 3),
        "conv_bias": (4,),
    }
    made = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()
    }
    made["hidden"] = LAYOUTS[layout](made["hidden"])
    return {name: t.requires_grad_() for name, t in made.items()}


def eager(
    hidden: Tensor, weight: Tensor, bias: Tensor, running_mean: Any, running_var: Any, conv_weight: Tensor,
    conv_bias: Any = None, training: bool = True, activation_slope: float = 0.0, abs_weight: bool = False,
    **convolution: Any,
) -> Tensor:  # fmt: skip
    gamma = weight.abs() + 1e-5 if abs_weight else weight
    y = F.batch_norm(hidden, running_mean, running_var, gamma, bias, training)
    return F.conv2d(F.leaky_relu(y, activation_slope), conv_weight, conv_bias, **convolution)


def run(function: Callable[..., Tensor], given: dict[str, Tensor], **options: Any) -> list[Tensor]:
    """The output, each gradient, and the running statistics afterwards."""
    channels = given["hidden"].shape[1]
    running = {
        "running_mean": torch.linspace(-1, 1, channels, dtype=given["weight"].dtype),
        "running_var": torch.linspace(0.5, 2, channels, dtype=given["weight"].dtype),
    }
    out = function(**given, **running, **options)
    grads = torch.autograd.grad((out.double() * torch.arange(out.numel()).view(out.shape).sin()).sum(), given.values())
    return [out, *grads, *running.values()]


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last", "permuted", "sliced"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("abs_weight, slope", [(False, 0.0), (True, 0.01)])
def test_as_pytorch(
    abs_weight: bool, slope: float, training: bool, memory_format: str, convolution: dict[str, Any], backend: str
) -> None:
    given = inputs(torch.float64, memory_format, convolution.get("groups", 1))
    options = {**convolution, "training": training, "activation_slope": slope, "abs_weight": abs_weight}
    got = run(afa_kernels.bn_relu_conv2d, given, **options)
    torch.testing.assert_close(got, run(eager, given, **options))
    if backend != "reference":
        assert layout.memory_format(got[1]) == layout.memory_format(given["hidden"])


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last", "permuted", "sliced"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("abs_weight, slope", [(False, 0.0), (True, 0.01)])
def test_without_kernels_of_the_parts(
    abs_weight: bool, slope: float, training: bool, memory_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch norm is ATen's where no backend has kernels, as on the device of another vendor."""
    monkeypatch.setattr(backends, "parts", lambda op, device_type, backend: None)
    given = inputs(torch.float64, memory_format)
    options = {"padding": 1, "training": training, "activation_slope": slope, "abs_weight": abs_weight}
    got = run(afa_kernels.bn_relu_conv2d, given, **options)
    torch.testing.assert_close(got, run(eager, given, **options))


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values(dtype: torch.dtype, training: bool, memory_format: str, backend: str) -> None:
    """As near to float64 as PyTorch in the same type."""
    given = inputs(dtype, memory_format)
    oracle = run(eager, {name: t.detach().double().requires_grad_() for name, t in given.items()}, training=training)
    theirs = run(eager, given, training=training)
    for i, results in enumerate(zip(run(afa_kernels.bn_relu_conv2d, given, training=training), oracle, theirs)):
        reason = disagreement(*results, arithmetic=dtype)
        assert reason is None, f"result {i}: {reason}"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("abs_weight, slope", [(False, 0.0), (True, 0.01)])
def test_gradcheck(abs_weight: bool, slope: float, training: bool, backend: str) -> None:
    given = inputs(torch.float64, channels=2)
    running = torch.tensor([0.1, -0.2]).double(), torch.tensor([0.5, 2.0]).double()

    def function(hidden: Tensor, weight: Tensor, bias: Tensor, conv_weight: Tensor, conv_bias: Tensor) -> Tensor:
        return afa_kernels.bn_relu_conv2d(
            hidden, weight, bias, *running, conv_weight, training, conv_bias, padding=1,
            activation_slope=slope, abs_weight=abs_weight,
        )  # fmt: skip

    assert torch.autograd.gradcheck(function, tuple(given.values()))


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last", "permuted"])
@pytest.mark.parametrize("training", [True, False])
def test_opcheck(training: bool, memory_format: str, kernel: str) -> None:
    given = inputs(torch.float32, memory_format)
    hidden, weight, bias, conv_weight, conv_bias = given.values()
    running = (None, None) if training else (torch.zeros(6), torch.ones(6))
    options = [2, 1], [1, 1], [1, 1], 1, 1e-5, 0.01, True
    torch.library.opcheck(
        torch.ops.afa.bn_relu_conv2d.default, (hidden, weight, bias, *running, conv_weight, conv_bias, *options)
    )
    with torch.no_grad():
        out, mean, variance = torch.ops.afa.bn_relu_conv2d(
            hidden, weight, bias, *running, conv_weight, conv_bias, *options
        )
    saved = [t.detach() for t in (out.cos(), hidden, weight, bias, conv_weight, mean, variance)]
    for needed in ([True] * 5, [True, False, True, False, True]):
        torch.library.opcheck(torch.ops.afa.bn_relu_conv2d_backward.default, (*saved, training, *options, needed))


@pytest.mark.parametrize("training", [True, False])
def test_partial_requires_grad(training: bool, kernel: str) -> None:
    given = inputs(torch.float32)
    every = dict(zip(given, run(afa_kernels.bn_relu_conv2d, given, training=training)[1:]))
    for name in given:
        for wanted in ([name], [other for other in given if other != name]):
            leaves = {n: t.detach().requires_grad_(n in wanted) for n, t in given.items()}
            running = torch.linspace(-1, 1, 6), torch.linspace(0.5, 2, 6)
            out = afa_kernels.bn_relu_conv2d(
                **leaves, running_mean=running[0], running_var=running[1], training=training
            )
            upstream = torch.arange(out.numel()).view(out.shape).sin()
            grads = torch.autograd.grad(out, [leaves[n] for n in wanted], upstream)
            for n, grad in zip(wanted, grads, strict=True):
                torch.testing.assert_close(grad, every[n])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
def test_saves_the_map_and_statistics_alone(training: bool, memory_format: torch.memory_format, kernel: str) -> None:
    given = inputs(torch.float32)
    hidden = given["hidden"] = given["hidden"].detach().contiguous(memory_format=memory_format).requires_grad_()
    running = {"running_mean": torch.zeros(6), "running_var": torch.ones(6)}
    saved = saved_storages(lambda: afa_kernels.bn_relu_conv2d(**given, **running, training=training))
    for t in (hidden, given["weight"], given["bias"], given["conv_weight"]):
        assert saved.pop(t.untyped_storage().data_ptr()) == t.untyped_storage().nbytes()
    assert sorted(saved.values()) == [6 * 4, 6 * 4]  # mean and variance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_autocast(dtype: torch.dtype, backend: str) -> None:
    """The convolution computes in autocast's type, as F.conv2d does, which leaves float64 alone."""
    given = inputs(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = run(afa_kernels.bn_relu_conv2d, given, training=True), run(eager, given, training=True)
    assert got[0].dtype == (torch.float64 if dtype == torch.float64 else torch.bfloat16)
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.1)


def test_mixed_types(backend: str) -> None:
    """The result has the type of `hidden`, each gradient its argument's."""
    given = inputs(torch.float32)
    given["hidden"] = given["hidden"].detach().bfloat16().requires_grad_()
    given["bias"] = given["bias"].detach().double().requires_grad_()
    out, *results = run(afa_kernels.bn_relu_conv2d, given, training=True)
    assert out.dtype == torch.bfloat16
    assert [g.dtype for g in results[:5]] == [t.dtype for t in given.values()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled(compiler: str, training: bool, kernel: str) -> None:
    torch.compiler.reset()
    given = inputs(torch.float32)
    compiled = torch.compile(afa_kernels.bn_relu_conv2d, fullgraph=True, backend=compiler)
    got = run(compiled, given, training=training, padding=1)
    torch.testing.assert_close(got, run(afa_kernels.bn_relu_conv2d, given, training=training, padding=1))


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_any_number_of_threads(memory_format: str, kernel: str) -> None:
    """What is not the convolution has the same bits with any."""
    if (parts := backends.parts("bn_relu_conv2d", "cpu", kernel)) is None:
        pytest.skip("its batch norm is ATen's")
    hidden, grad = (LAYOUTS[memory_format](torch.randn(3, 5, 97, 89)) for _ in range(2))
    weight, bias = torch.randn(5), torch.randn(5)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (threads, 1, 2, 5):
            torch.set_num_threads(count)
            mean, variance, of_weight, of_bias = (torch.empty(5) for _ in range(4))
            parts.statistics(hidden, mean, variance)
            norm = hidden, weight, bias, mean, variance
            activated, of_hidden = torch.empty_like(hidden), torch.empty_like(hidden)
            parts.activate(*norm, 1e-5, 0.01, True, activated)
            grads = [of_hidden, of_weight, of_bias]
            parts.differentiate(grad, *norm, True, 1e-5, 0.01, True, [True] * 3, grads)
            found.append([mean, variance, activated, *grads])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found for a, b in zip(found[0], other, strict=True))


def test_parameters_in_strides_of_their_own(backend: str) -> None:
    given = inputs(torch.float32)
    expected = run(afa_kernels.bn_relu_conv2d, given, training=True)
    for name in ("weight", "bias"):
        given[name] = torch.stack((given[name].detach(), torch.zeros(6)), 1)[:, 0].requires_grad_()
    torch.testing.assert_close(run(afa_kernels.bn_relu_conv2d, given, training=True), expected)


def test_checkpointed(kernel: str) -> None:
    given = inputs(torch.float32)
    hidden = given.pop("hidden")

    def function(x: Tensor) -> Tensor:
        return afa_kernels.bn_relu_conv2d(x, **given, running_mean=None, running_var=None, training=True)

    (expected,) = torch.autograd.grad(function(hidden).square().sum(), hidden)
    (got,) = torch.autograd.grad(checkpoint(function, hidden, use_reentrant=False).square().sum(), hidden)
    torch.testing.assert_close(got, expected)


def test_double_backward(kernel: str) -> None:
    given = inputs(torch.float64)
    out = afa_kernels.bn_relu_conv2d(**given, running_mean=None, running_var=None, training=True)
    (grad,) = torch.autograd.grad(out.square().sum(), given["hidden"], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"bn_relu_conv2d is differentiable once.*use_backend.'reference'."):
        torch.autograd.grad(grad.square().sum(), given["hidden"])


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(training: bool, backend: str) -> None:
    given = inputs(torch.float32)
    given["hidden"] = given["hidden"].detach()[:0].requires_grad_()
    out, *results = run(afa_kernels.bn_relu_conv2d, given, training=training, padding=1)
    assert out.shape == (0, 4, 7, 9)
    assert not any(g.any() for g in results[:5])
    assert torch.equal(results[5], torch.linspace(-1, 1, 6)) and torch.equal(results[6], torch.linspace(0.5, 2, 6))


def test_meta_tensors() -> None:
    given = {name: t.detach().to("meta") for name, t in inputs(torch.float32).items()}
    out = afa_kernels.bn_relu_conv2d(**given, running_mean=None, running_var=None, training=True, stride=2)
    assert out.is_meta and out.shape == (2, 4, 3, 4)


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_gets_no_empty_map(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """ATen's kernel for CUDA refuses one: so does this."""

    class OfCuda:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch.ops.aten, name)

        def native_batch_norm(self, x: Tensor, *rest: Any) -> Any:
            return torch.ops.aten.native_batch_norm(x.reshape(x.shape[0], x.shape[1], -1), *rest)

    monkeypatch.setattr(kernels, "aten", OfCuda())
    hidden, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((0, 6, 7, 9), (6,), (6,)))
    conv_weight, mean, var = torch.randn(4, 6, 3, 3, requires_grad=True), torch.zeros(6), torch.ones(6)
    out = afa_kernels.bn_relu_conv2d(hidden, weight, bias, mean, var, conv_weight, training)
    assert out.shape == (0, 4, 5, 7) and not mean.any() and bool((var == 1).all())
    for grad in torch.autograd.grad(out, (hidden, weight, bias, conv_weight), torch.ones_like(out)):
        assert not grad.any()


def test_what_the_convolution_rounds_to_zero_has_its_gradient(kernel: str) -> None:
    """The ReLU is open where y > 0, in the type of the arithmetic and not in the convolution's."""
    hidden = torch.zeros(1, 2, 3, 3, requires_grad=True)
    norm = torch.ones(2), torch.full((2,), 1e-9), torch.zeros(2), torch.ones(2)
    with afa_kernels.use_backend(kernel), torch.autocast("cpu", torch.float16):
        out = afa_kernels.bn_relu_conv2d(hidden, *norm, torch.ones(1, 2, 1, 1), False)
    assert out.dtype == torch.float16 and not out.any()
    (grad,) = torch.autograd.grad(out, hidden, torch.ones_like(out))
    torch.testing.assert_close(grad, torch.ones_like(grad))
