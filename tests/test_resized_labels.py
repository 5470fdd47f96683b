"""resized_labels: values by hand, ties, infinity and NaN, memory, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import afa_kernels
from afa_kernels.testing import peak_bytes

NAN, INF = math.nan, math.inf


def test_values_by_hand(backend: str) -> None:
    """Class 0 goes from 0 to 1 over four pixels, class 1 is 1/2: the ramp is 0, 1/4, 3/4, 1."""
    logits = torch.tensor([[[[0.0, 1.0]], [[0.5, 0.5]]]])
    with afa_kernels.use_backend(backend):
        for dtype in (torch.uint8, torch.int32, torch.int64):
            labels = afa_kernels.resized_labels(logits, (1, 4), dtype=dtype)
            assert labels.dtype == dtype and labels.tolist() == [[[1, 1, 0, 0]]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(12, 20), (7, 11), (2, 3), (5, 6)])
def test_as_the_functions_of_pytorch(size: tuple[int, int], layout: torch.memory_format, backend: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 9, 5, 6, dtype=torch.float64).contiguous(memory_format=layout)
    with afa_kernels.use_backend(backend):
        labels = afa_kernels.resized_labels(logits, size)
    assert torch.equal(labels, F.interpolate(logits, size=size, mode="bilinear").argmax(1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_ties_infinity_and_nan(layout: torch.memory_format, backend: str) -> None:
    values = torch.tensor(
        [[1, 3, 3], [0, 0, 0], [-INF, -INF, -INF], [-INF, -INF, 2], [1, NAN, NAN], [NAN, INF, 5], [INF, NAN, 0]]
    )
    logits = values.t()[None, :, None].contiguous(memory_format=layout)
    with afa_kernels.use_backend(backend):
        labels = afa_kernels.resized_labels(logits, (1, 7))
    assert labels[0, 0].tolist() == values.argmax(1).tolist() == [1, 0, 0, 2, 1, 0, 1]


@pytest.mark.once
def test_no_gradient_and_no_resized_logits(kernel: str) -> None:
    logits = torch.randn(1, 19, 64, 128, requires_grad=True)
    with afa_kernels.use_backend(kernel):
        labels = afa_kernels.resized_labels(logits, (256, 512), dtype=torch.uint8)
        held = peak_bytes(lambda: afa_kernels.resized_labels(logits, (256, 512), dtype=torch.uint8))
    assert not labels.requires_grad and held < 0.1 * 19 * 256 * 512 * 4


@pytest.mark.once
def test_bad_channels_and_dtype() -> None:
    with pytest.raises(ValueError, match=r"logits must have 1 to 256 channels for labels of torch\.uint8, got 257"):
        afa_kernels.resized_labels(torch.zeros(1, 257, 4, 4), (8, 8), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"logits must have 1 to 9223372036854775808 channels .* got 0"):
        afa_kernels.resized_labels(torch.zeros(1, 0, 4, 4), (8, 8))
    with pytest.raises(ValueError, match=r"dtype must be one of torch\.uint8, torch\.int32, torch\.int64, got"):
        afa_kernels.resized_labels(torch.zeros(1, 3, 4, 4), (8, 8), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"size must have a positive height and width, got \(0, 8\)"):
        afa_kernels.resized_labels(torch.zeros(1, 3, 4, 4), (0, 8))
    with pytest.raises(TypeError, match="logits must be a Tensor, got list"):
        afa_kernels.resized_labels([torch.zeros(1, 3, 4, 4)], (8, 8))
