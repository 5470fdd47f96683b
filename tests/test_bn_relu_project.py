"""bn_relu_project: a table computed by hand, its running statistics, and what the battery does not ask of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import afa_kernels
from afa_kernels.testing import saved_storages

# hidden z, gamma, beta, mean, variance, project weight w, slope; then the logit w r of y = gamma (z - mean) / sqrt(var)
# + beta and its derivatives by z, gamma, beta and w
BY_HAND = [
    (3.0, 2.0, 1.0, 1.0, 4.0, 0.5, 0.0, 1.5, 0.5, 0.5, 0.5, 3.0),
    (-3.0, 2.0, 1.0, 1.0, 4.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (-3.0, 2.0, 1.0, 1.0, 4.0, 0.5, 0.01, -0.015, 0.005, -0.01, 0.005, -0.03),
    (2.0, -1.0, 4.0, 0.0, 0.25, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),  # y = 0 lets no gradient through
    (2.0, -1.0, 4.0, 0.0, 0.25, 3.0, 0.5, 0.0, -3.0, 6.0, 1.5, 0.0),  # nor does the leaky ReLU's positive side
    (1.0, 0.0, 2.0, 1.0, 1.0, -1.0, 0.0, -2.0, 0.0, 0.0, -1.0, 2.0),
]


@pytest.mark.parametrize("row", BY_HAND)
def test_by_hand(row: tuple[float, ...], backend: str) -> None:
    z, gamma, beta, mean, var, w, slope, *expected = row
    hidden, project_weight = (torch.full((1, 1, 1, 1), v, dtype=torch.float64, requires_grad=True) for v in (z, w))
    weight, bias = (torch.full((1,), v, dtype=torch.float64, requires_grad=True) for v in (gamma, beta))
    running = (torch.full((1,), v, dtype=torch.float64) for v in (mean, var))
    with afa_kernels.use_backend(backend):
        out = afa_kernels.bn_relu_project(
            hidden, weight, bias, *running, project_weight, False, eps=0.0, activation_slope=slope
        )
        grads = torch.autograd.grad(out, (hidden, weight, bias, project_weight))
    assert [t.item() for t in (out, *grads)] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def parameters(channels: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    weight, bias, running_mean = (torch.randn(channels, generator=generator).to(dtype) for _ in range(3))
    running_var = torch.rand(channels, generator=generator).to(dtype) + 0.5
    project_weight = torch.randn(1, channels, 1, 1, generator=generator).to(dtype)
    return {
        "weight": weight,
        "bias": bias,
        "running_mean": running_mean,
        "running_var": running_var,
        "project_weight": project_weight,
    }


def eager(hidden: Tensor, weight: Tensor, bias: Tensor, project_weight: Tensor, slope: float, *rest: Any) -> Tensor:
    running_mean, running_var, training, momentum, eps = rest
    y = F.batch_norm(hidden, running_mean, running_var, weight, bias, training, momentum, eps)
    return F.conv2d(F.leaky_relu(y, slope), project_weight)


@pytest.mark.parametrize("momentum", [0.1, *(pytest.param(m, marks=pytest.mark.once) for m in (0.0, 1.0))])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("abs_weight, slope", [(False, 0.0), (True, 0.01)])
def test_as_pytorch(abs_weight: bool, slope: float, training: bool, momentum: float, backend: str) -> None:
    """Outputs, gradients and running statistics over three steps, against F.batch_norm."""
    given, theirs = parameters(5, torch.float64), parameters(5, torch.float64)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        hidden = torch.randn(2, 5, 4, 7, generator=generator, dtype=torch.float64).requires_grad_()
        leaves = [given[name].requires_grad_() for name in ("weight", "bias", "project_weight")]
        with afa_kernels.use_backend(backend):
            out = afa_kernels.bn_relu_project(
                hidden, **given, training=training, momentum=momentum, eps=1e-3, activation_slope=slope,
                abs_weight=abs_weight,
            )  # fmt: skip
            grads = torch.autograd.grad(out.square().sum(), (hidden, *leaves))
        weight, bias, project_weight = leaves
        gamma = weight.abs() + 1e-3 if abs_weight else weight
        running = theirs["running_mean"], theirs["running_var"]
        expected = eager(hidden, gamma, bias, project_weight, slope, *running, training, momentum, 1e-3)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(grads, torch.autograd.grad(expected.square().sum(), (hidden, *leaves)))
        torch.testing.assert_close((given["running_mean"], given["running_var"]), running)


def test_statistics_of_the_batch_without_running_ones(backend: str) -> None:
    hidden, given = torch.randn(2, 5, 4, 7), parameters(5)
    with afa_kernels.use_backend(backend):
        in_training = afa_kernels.bn_relu_project(hidden, **given, training=True)
        given["running_mean"] = given["running_var"] = None
        for training in (True, False):
            assert torch.equal(afa_kernels.bn_relu_project(hidden, **given, training=training), in_training)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_statistics_far_from_zero(offset: float, memory_format: torch.memory_format, backend: str) -> None:
    """The variance keeps float32's digits beside a mean a thousand times the deviation, over several tiles."""
    torch.manual_seed(0)
    hidden = (torch.randn(2, 3, 37, 71) + offset).contiguous(memory_format=memory_format)
    mean, var = torch.zeros(3), torch.zeros(3)
    with afa_kernels.use_backend(backend):
        afa_kernels.bn_relu_project(
            hidden, torch.ones(3), torch.zeros(3), mean, var, torch.ones(1, 3, 1, 1), training=True, momentum=1.0
        )
    torch.testing.assert_close(mean.double(), hidden.double().mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var.double(), hidden.double().var((0, 2, 3)), rtol=3e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("of_parameters", [torch.float32, torch.float64, torch.bfloat16])
def test_types(dtype: torch.dtype, of_parameters: torch.dtype, backend: str) -> None:
    """The result has the type of `hidden`, each gradient its argument's, the running statistics keep theirs."""
    hidden, given = torch.randn(2, 3, 4, 5).to(dtype).requires_grad_(), parameters(3, of_parameters)
    if backend == "triton" and {dtype, of_parameters} == {torch.float64, torch.bfloat16}:
        pytest.skip("Triton's interpreter reads a float64 as an integer to make a bfloat16 of it")
    leaves = [given[name].requires_grad_() for name in ("weight", "bias", "project_weight")]
    with afa_kernels.use_backend(backend):
        out = afa_kernels.bn_relu_project(hidden, **given, training=True)
        grads = torch.autograd.grad(out.sum(), (hidden, *leaves))
    assert out.dtype == dtype
    assert [g.dtype for g in grads] == [dtype, *3 * [of_parameters]]
    assert given["running_mean"].dtype == given["running_var"].dtype == of_parameters


@pytest.mark.parametrize("training", [True, False])
def test_nothing_to_sum(training: bool, backend: str) -> None:
    """No images, no pixels, no channels: zeros, and running statistics that stay."""
    for shape in ((0, 3, 4, 5), (2, 3, 0, 5), (2, 0, 4, 5)):
        given = parameters(shape[1])
        before = copy.deepcopy(given)
        leaves = [torch.randn(shape, requires_grad=True)]
        leaves += [given[name].requires_grad_() for name in ("weight", "bias", "project_weight")]
        with afa_kernels.use_backend(backend):
            out = afa_kernels.bn_relu_project(leaves[0], **given, training=training)
            grads = torch.autograd.grad(out.sum(), leaves)
        assert out.shape == (shape[0], 1, *shape[2:]) and not out.any()
        assert all(g.shape == t.shape and not g.any() for g, t in zip(grads, leaves, strict=True))
        assert torch.equal(given["running_mean"], before["running_mean"])
        assert torch.equal(given["running_var"], before["running_var"])


def test_parameters_of_any_stride(kernel: str) -> None:
    hidden, given = torch.randn(2, 5, 3, 4), parameters(5)
    strided = {name: torch.stack((t, t), dim=-1)[..., 0] for name, t in given.items()}
    with afa_kernels.use_backend(kernel):
        expected = afa_kernels.bn_relu_project(hidden, **given, training=True)
        assert torch.equal(afa_kernels.bn_relu_project(hidden, **strided, training=True), expected)
    assert torch.equal(strided["running_mean"], given["running_mean"])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
def test_saves_the_map_and_statistics_alone(training: bool, memory_format: torch.memory_format, kernel: str) -> None:
    hidden = torch.randn(2, 16, 24, 32).contiguous(memory_format=memory_format).requires_grad_()
    given = parameters(16)
    kept = [hidden, *(given[name].requires_grad_() for name in ("weight", "bias", "project_weight"))]
    with afa_kernels.use_backend(kernel):
        saved = saved_storages(lambda: afa_kernels.bn_relu_project(hidden, **given, training=training))
    for t in kept:
        assert saved.pop(t.untyped_storage().data_ptr()) == t.untyped_storage().nbytes()
    assert sorted(saved.values()) == [16 * 4, 16 * 4]  # mean and variance


def test_checkpointed(kernel: str) -> None:
    hidden, given = torch.randn(2, 5, 3, 4, requires_grad=True), parameters(5)

    def run(x: Tensor) -> Tensor:
        return afa_kernels.bn_relu_project(x, **given, training=True)

    with afa_kernels.use_backend(kernel):
        expected = torch.autograd.grad(run(hidden).square().sum(), hidden)
        got = torch.autograd.grad(checkpoint(run, hidden, use_reentrant=False).square().sum(), hidden)
    assert torch.equal(got[0], expected[0])


@pytest.mark.once
@pytest.mark.parametrize("training", [True, False])
def test_compiled_with_running_statistics(training: bool, kernel: str) -> None:
    """One graph, whose effect on the running statistics is that of the operation outside it."""
    torch.compiler.reset()
    hidden, given = torch.randn(2, 5, 3, 4, requires_grad=True), parameters(5)
    theirs = copy.deepcopy(given)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(x: Tensor) -> Tensor:
        return afa_kernels.bn_relu_project(x, **given, training=training)

    with afa_kernels.use_backend(kernel):
        for _ in range(2):
            got = torch.autograd.grad(compiled(hidden).square().sum(), hidden)
            out = afa_kernels.bn_relu_project(hidden, **theirs, training=training)
            torch.testing.assert_close(got, torch.autograd.grad(out.square().sum(), hidden))
    torch.testing.assert_close(given, theirs)


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_need_no_gradient(training: bool, backend: str) -> None:
    norm = nn.BatchNorm2d(5).train(training)
    with afa_kernels.use_backend(backend):
        out = afa_kernels.bn_relu_project(
            torch.randn(2, 5, 3, 4), norm.weight, norm.bias, norm.running_mean, norm.running_var,
            torch.ones(1, 5, 1, 1), training,
        )  # fmt: skip
    assert out.requires_grad and not norm.running_mean.requires_grad


def test_meta_tensors() -> None:
    given = {name: t.to("meta") for name, t in parameters(3).items()}
    out = afa_kernels.bn_relu_project(torch.empty(2, 3, 4, 5, device="meta"), **given, training=True)
    assert out.is_meta and out.shape == (2, 1, 4, 5)


@pytest.mark.parametrize("given", ["running_mean", "running_var"])
def test_of_one_running_statistic_the_gradient_is_that_of_the_batch(given: str, kernel: str) -> None:
    """By a direct call, which is not checked as the public function is."""
    hidden = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    statistics = {"running_mean": None, "running_var": None, given: torch.ones(3, dtype=torch.float64)}.values()
    w = torch.ones(1, 3, 1, 1, dtype=torch.float64)
    with afa_kernels.use_backend(kernel):
        assert torch.autograd.gradcheck(
            lambda h: torch.ops.afa.bn_relu_project(h, *rows, *statistics, w, 1e-5, 0.0, False)[0], hidden
        )
