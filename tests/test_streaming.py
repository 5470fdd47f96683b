"""Outputs so large that the C++ kernels store them past the cache: of odd sizes, whose rows share lines of it, and of
rows that are whole lines, in both layouts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import afa_kernels
from afa_kernels.testing import listed, tensors, with_tensors

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        "cpu" not in afa_kernels.backends.available("attentive_fusion", "cpu"), reason="the C++ library is not built"
    ),
]

SIZE = {torch.float32: (2, 3, 601, 701), torch.bfloat16: (2, 5, 701, 703), torch.float64: (1, 3, 601, 701)}
LINES = {torch.float32: (1, 16, 401, 331), torch.bfloat16: (1, 32, 401, 331), torch.float16: (1, 64, 301, 221)}
EVEN = {torch.float32: (1, 5, 512, 832), torch.bfloat16: (1, 9, 512, 1024), torch.float16: (1, 7, 640, 1024)}


def normal(*shape: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()


def attentive(dtype: torch.dtype) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    n, c, h, w = SIZE[dtype]
    maps = [normal(n, c, h, w, dtype=dtype) for _ in range(2)]
    return afa_kernels.attentive_fusion, (*maps, normal(n, 1, h, w, dtype=dtype), normal(n, c, 1, 1, dtype=dtype))


def progressive(dtype: torch.dtype, inputs: int = 3) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    n, c, h, w = SIZE[dtype]
    shapes = (n, c, h, w), (n, 1, h, w), (n, c, 1, 1)
    return afa_kernels.progressive_fusion, tuple([normal(*s, dtype=dtype) for _ in range(inputs)] for s in shapes)


def of_six(dtype: torch.dtype) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return progressive(dtype, inputs=6)


def projected(dtype: torch.dtype) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    n, c, h, w = SIZE[dtype]
    weights = normal(c, dtype=dtype), normal(c, dtype=dtype), normal(1, c, 1, 1, dtype=dtype)

    def call(hidden: Tensor, weight: Tensor, bias: Tensor, project_weight: Tensor) -> Tensor:
        return afa_kernels.bn_relu_project(hidden, weight, bias, None, None, project_weight)

    return call, (normal(n, c, h, w, dtype=dtype), *weights)


def convolved(dtype: torch.dtype) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    n, c, h, w = SIZE[dtype]
    weights = normal(c, dtype=dtype), normal(c, dtype=dtype), normal(1, c, 1, 1, dtype=dtype)

    def call(hidden: Tensor, weight: Tensor, bias: Tensor, conv_weight: Tensor) -> Tensor:
        return afa_kernels.bn_relu_conv2d(hidden, weight, bias, None, None, conv_weight)

    return call, (normal(n, c, h, w, dtype=dtype), *weights)


def rendered(dtype: torch.dtype) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    n, c, h, w = SIZE[dtype]
    predictions = [normal(n, c, h // k, w // k, dtype=dtype) for k in (2, 1)]

    def call(predictions: list[Tensor], logits: Tensor) -> Tensor:
        return afa_kernels.scale_space_render(predictions, logits, size=(h, w))

    return call, (predictions, normal(n, 2, h // 2, w // 2, dtype=dtype))


def of_levels(dtype: torch.dtype) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    n, c, h, w = SIZE[dtype]
    features = [normal(n, c, h // k, w // k, dtype=dtype) for k in (3, 1)]
    logits = [[normal(*shape, dtype=dtype) for _ in features] for shape in ((n, 1, h, w), (n, c, 1, 1))]
    return afa_kernels.resized_fusion, (features, *logits)


def shrunk(dtype: torch.dtype) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    call, ((_, of_its_size), logits) = rendered(dtype)
    n, c, h, w = SIZE[dtype]
    return call, ([normal(n, c, 3 * h, 2 * w + 1, dtype=dtype), of_its_size], logits)


def run(backend: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Tensor]:
    with afa_kernels.use_backend(backend):
        (out,) = listed(call(*arguments))
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
    return [out, *torch.autograd.grad(out, tensors(arguments), upstream)]


@pytest.mark.parametrize("dtype", SIZE, ids=str)
@pytest.mark.parametrize("make", [attentive, progressive, projected, convolved, rendered, of_levels])
def test_large_outputs(make: Any, dtype: torch.dtype) -> None:
    compare(*make(dtype), dtype)


@pytest.mark.parametrize("dtype", LINES, ids=str)
@pytest.mark.parametrize("make", [attentive, progressive, rendered, of_levels])
def test_whole_lines(make: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZE, dtype, LINES[dtype])
    call, arguments = make(dtype)
    last = [x.detach().to(memory_format=torch.channels_last).requires_grad_() for x in tensors(arguments)]
    compare(call, with_tensors(arguments, last), dtype)


@pytest.mark.parametrize("dtype", EVEN, ids=str)
@pytest.mark.parametrize("make", [attentive, progressive, of_six, rendered, of_levels])
def test_whole_lines_in_nchw(make: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZE, dtype, EVEN[dtype])
    compare(*make(dtype), dtype)


@pytest.mark.parametrize("size", [(1, 19, 401, 331), (1, 65, 201, 191), (1, 130, 131, 151)], ids=str)
@pytest.mark.parametrize("make", [rendered, shrunk, of_levels])
def test_spans_of_pixels(make: Any, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """In channels_last, of channels that are no whole vectors and of more than are summed at once."""
    monkeypatch.setitem(SIZE, torch.float32, size)
    call, arguments = make(torch.float32)
    last = [x.detach().to(memory_format=torch.channels_last).requires_grad_() for x in tensors(arguments)]
    compare(call, with_tensors(arguments, last), torch.float32)


def compare(call: Callable[..., Any], arguments: tuple[Any, ...], dtype: torch.dtype) -> None:
    found, again, expected = (run(backend, call, arguments) for backend in ("cpu", "cpu", "reference"))
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3, torch.float64: 1e-12}[dtype]
    for mine, repeated, reference in zip(found, again, expected):
        assert torch.equal(mine, repeated)
        assert torch.linalg.vector_norm(mine - reference) <= tolerance * torch.linalg.vector_norm(reference)
