"""Every bad input raises before a kernel starts, and says what the argument must be and what came."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import afa_kernels

pytestmark = pytest.mark.once

INT = torch.int64
META = "meta"


def t(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


NESTED = torch.nested.nested_tensor([torch.zeros(3, 4, 5)] * 2, layout=torch.jagged)
FLOATING = "must have dtype float16, bfloat16, float32 or float64, got"

FUSION = {
    "shallow": t(2, 3, 4, 5),
    "deep": t(2, 3, 4, 5),
    "spatial_logits": t(2, 1, 4, 5),
    "channel_logits": t(2, 3, 1, 1),
}
BAD_FUSION: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"shallow": None}, TypeError, "shallow must be a Tensor, got NoneType"),
    ({"shallow": [t(2, 3, 4, 5)]}, TypeError, "shallow must be a Tensor, got list"),
    ({"shallow": np.zeros((2, 3, 4, 5))}, TypeError, "shallow must be a Tensor, got ndarray"),
    ({"shallow": t(2, 3, 4, 5, dtype=INT)}, TypeError, f"shallow {FLOATING} torch.int64"),
    ({"shallow": t(2, 3, 4, 5, dtype=torch.bool)}, TypeError, f"shallow {FLOATING} torch.bool"),
    ({"shallow": t(2, 3, 4, 5, dtype=torch.complex64)}, TypeError, f"shallow {FLOATING} torch.complex64"),
    ({"shallow": t(2, 3, 4, 5, dtype=torch.float8_e5m2)}, TypeError, f"shallow {FLOATING} torch.float8_e5m2"),
    ({"shallow": t(3, 4, 5)}, ValueError, "shallow must have 4 dimensions, got shape (3, 4, 5)"),
    ({"shallow": t(1, 2, 3, 4, 5)}, ValueError, "shallow must have 4 dimensions, got shape (1, 2, 3, 4, 5)"),
    ({"shallow": t()}, ValueError, "shallow must have 4 dimensions, got shape ()"),
    (
        {"shallow": t(2, 3, 4, 5).to_sparse()},
        TypeError,
        "shallow must be a dense (strided) tensor, got layout torch.sparse",
    ),
    ({"shallow": NESTED}, TypeError, "shallow must be a dense (strided) tensor, got layout torch.jagged"),
    (
        {"shallow": t(2, 3, 4, 6)},
        ValueError,
        "deep must have shape (2, 3, 4, 6) to match shallow (2, 3, 4, 6), got (2, 3, 4, 5)",
    ),
    ({"deep": 1.0}, TypeError, "deep must be a Tensor, got float"),
    ({"deep": t(2, 3, 4, 5, dtype=torch.uint8)}, TypeError, f"deep {FLOATING} torch.uint8"),
    (
        {"deep": t(2, 4, 4, 5)},
        ValueError,
        "deep must have shape (2, 3, 4, 5) to match shallow (2, 3, 4, 5), got (2, 4, 4, 5)",
    ),
    (
        {"deep": t(1, 3, 4, 5)},
        ValueError,
        "deep must have shape (2, 3, 4, 5) to match shallow (2, 3, 4, 5), got (1, 3, 4, 5)",
    ),
    (
        {"deep": t(2, 3, 2, 3)},
        ValueError,
        "deep must have shape (2, 3, 4, 5) to match shallow (2, 3, 4, 5), got (2, 3, 2, 3)",
    ),
    ({"deep": t(3, 4, 5)}, ValueError, "deep must have 4 dimensions, got shape (3, 4, 5)"),
    ({"deep": t(2, 3, 4, 5, device=META)}, ValueError, "deep must be on cpu like shallow, got meta"),
    ({"spatial_logits": None}, TypeError, "spatial_logits must be a Tensor, got NoneType"),
    (
        {"spatial_logits": t(2, 3, 4, 5)},
        ValueError,
        "spatial_logits must have shape (2, 1, 4, 5) to match shallow (2, 3, 4, 5), got (2, 3, 4, 5)",
    ),
    (
        {"spatial_logits": t(2, 1, 5, 4)},
        ValueError,
        "spatial_logits must have shape (2, 1, 4, 5) to match shallow (2, 3, 4, 5), got (2, 1, 5, 4)",
    ),
    (
        {"spatial_logits": t(1, 1, 4, 5)},
        ValueError,
        "spatial_logits must have shape (2, 1, 4, 5) to match shallow (2, 3, 4, 5), got (1, 1, 4, 5)",
    ),
    ({"spatial_logits": t(2, 4, 5)}, ValueError, "spatial_logits must have 4 dimensions, got shape (2, 4, 5)"),
    ({"spatial_logits": t(2, 1, 4, 5, dtype=INT)}, TypeError, f"spatial_logits {FLOATING} torch.int64"),
    (
        {"spatial_logits": t(2, 1, 4, 5, device=META)},
        ValueError,
        "spatial_logits must be on cpu like shallow, got meta",
    ),
    ({"channel_logits": "0"}, TypeError, "channel_logits must be a Tensor, got str"),
    ({"channel_logits": t(2, 3)}, ValueError, "channel_logits must have 4 dimensions, got shape (2, 3)"),
    (
        {"channel_logits": t(2, 1, 1, 1)},
        ValueError,
        "channel_logits must have shape (2, 3, 1, 1) to match shallow (2, 3, 4, 5), got (2, 1, 1, 1)",
    ),
    (
        {"channel_logits": t(2, 3, 4, 5)},
        ValueError,
        "channel_logits must have shape (2, 3, 1, 1) to match shallow (2, 3, 4, 5), got (2, 3, 4, 5)",
    ),
    (
        {"channel_logits": t(2, 3, 1, 1, device=META)},
        ValueError,
        "channel_logits must be on cpu like shallow, got meta",
    ),
]

UPSAMPLED = {
    "shallow": t(2, 3, 8, 10),
    "deep": t(2, 3, 4, 5),
    "weight": t(3, 1, 4, 4),
    "spatial_logits": t(2, 1, 8, 10),
    "channel_logits": t(2, 3, 1, 1),
}
FACTOR = "weight must have shape (C, 1, 2 f, 2 f) with f one of 2, 4, 8, got"
BAD_WEIGHT: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"weight": None}, TypeError, "weight must be a Tensor, got NoneType"),
    ({"weight": 2.0}, TypeError, "weight must be a Tensor, got float"),
    ({"weight": t(3, 1, 4, 4, dtype=INT)}, TypeError, f"weight {FLOATING} torch.int64"),
    ({"weight": t(3, 4, 4)}, ValueError, "weight must have 4 dimensions, got shape (3, 4, 4)"),
    ({"weight": t(3, 1, 4, 8)}, ValueError, f"{FACTOR} (3, 1, 4, 8)"),
    ({"weight": t(3, 1, 5, 5)}, ValueError, f"{FACTOR} (3, 1, 5, 5)"),
    ({"weight": t(3, 1, 6, 6)}, ValueError, f"{FACTOR} (3, 1, 6, 6)"),
    ({"weight": t(3, 1, 2, 2)}, ValueError, f"{FACTOR} (3, 1, 2, 2)"),
    ({"weight": t(3, 1, 32, 32)}, ValueError, f"{FACTOR} (3, 1, 32, 32)"),
    ({"weight": t(3, 1, 0, 0)}, ValueError, f"{FACTOR} (3, 1, 0, 0)"),
    ({"weight": t(3, 3, 4, 4)}, ValueError, f"{FACTOR} (3, 3, 4, 4)"),
    (
        {"weight": t(1, 1, 4, 4)},
        ValueError,
        "weight must have shape (3, 1, 4, 4) to match deep (2, 3, 4, 5), got (1, 1, 4, 4)",
    ),
    ({"weight": t(3, 1, 4, 4, device=META)}, ValueError, "weight must be on cpu like deep, got meta"),
]
BAD_UPSAMPLED: list[tuple[dict[str, Any], type[Exception], str]] = [
    *BAD_WEIGHT,
    ({"shallow": None}, TypeError, "shallow must be a Tensor, got NoneType"),
    (
        {"shallow": t(2, 3, 4, 5)},
        ValueError,
        "shallow must have shape (2, 3, 8, 10) to match 2 times deep (2, 3, 4, 5), got (2, 3, 4, 5)",
    ),
    (
        {"weight": t(3, 1, 8, 8)},
        ValueError,
        "shallow must have shape (2, 3, 16, 20) to match 4 times deep (2, 3, 4, 5), got (2, 3, 8, 10)",
    ),
    ({"deep": [t(2, 3, 4, 5)]}, TypeError, "deep must be a Tensor, got list"),
    ({"deep": t(3, 4, 5)}, ValueError, "deep must have 4 dimensions, got shape (3, 4, 5)"),
    (
        {"spatial_logits": t(2, 1, 4, 5)},
        ValueError,
        "spatial_logits must have shape (2, 1, 8, 10) to match shallow (2, 3, 8, 10), got (2, 1, 4, 5)",
    ),
    (
        {"channel_logits": t(2, 1, 1, 1)},
        ValueError,
        "channel_logits must have shape (2, 3, 1, 1) to match shallow (2, 3, 8, 10), got (2, 1, 1, 1)",
    ),
]
BAD_UPSAMPLED_POOL: list[tuple[dict[str, Any], type[Exception], str]] = [
    *BAD_WEIGHT,
    ({"deep": None}, TypeError, "deep must be a Tensor, got NoneType"),
    ({"deep": np.zeros((2, 3, 4, 5))}, TypeError, "deep must be a Tensor, got ndarray"),
    ({"deep": t(2, 3, 4, 5, dtype=torch.bool)}, TypeError, f"deep {FLOATING} torch.bool"),
    ({"deep": t(2, 3, 4, 5, dtype=torch.complex64)}, TypeError, f"deep {FLOATING} torch.complex64"),
    ({"deep": t(3, 4, 5)}, ValueError, "deep must have 4 dimensions, got shape (3, 4, 5)"),
    ({"deep": t(2, 3, 0, 5)}, ValueError, "deep must have at least one pixel to be pooled, got shape (2, 3, 0, 5)"),
    ({"deep": t(2, 3, 4, 0)}, ValueError, "deep must have at least one pixel to be pooled, got shape (2, 3, 4, 0)"),
]

WEIGHTS = {"logits": t(2, 3, 4, 5), "phi": "abs", "background": "none"}
PHI = "phi must be one of 'abs', 'relu', 'softplus', 'exp', got"
BACKGROUND = "background must be one of 'none', 'last', got"


def bad_logits() -> list[tuple[dict[str, Any], type[Exception], str]]:
    """What is wrong with logits wherever they are given."""
    one = t(2, 1, 4, 5)
    return [
        ({"logits": None}, TypeError, "logits must be a list or tuple of tensors, got NoneType"),
        ({"logits": 1}, TypeError, "logits must be a list or tuple of tensors, got int"),
        ({"logits": np.zeros((2, 3, 4, 5))}, TypeError, "logits must be a list or tuple of tensors, got ndarray"),
        ({"logits": t(2, 3, 4, 5, dtype=INT)}, TypeError, f"logits {FLOATING} torch.int64"),
        ({"logits": t(2, 3, 4, 5, dtype=torch.complex128)}, TypeError, f"logits {FLOATING} torch.complex128"),
        ({"logits": t(2, 3, 4)}, ValueError, "logits must have 4 dimensions, got shape (2, 3, 4)"),
        ({"logits": t(2, 3, 4, 5, 6)}, ValueError, "logits must have 4 dimensions, got shape (2, 3, 4, 5, 6)"),
        (
            {"logits": t(2, 3, 4, 5).to_sparse()},
            TypeError,
            "logits must be a dense (strided) tensor, got layout torch.sparse",
        ),
        ({"logits": t(2, 0, 4, 5)}, ValueError, "logits must have 1 to 16 scales, got 0"),
        ({"logits": t(2, 17, 4, 5)}, ValueError, "logits must have 1 to 16 scales, got 17"),
        ({"logits": []}, ValueError, "logits must have 1 to 16 scales, got 0"),
        ({"logits": [one] * 17}, ValueError, "logits must have 1 to 16 scales, got 17"),
        ({"logits": [one, None, one]}, TypeError, "logits[1] must be a Tensor, got NoneType"),
        ({"logits": [one, one, t(2, 1, 4, 5, dtype=torch.bool)]}, TypeError, f"logits[2] {FLOATING} torch.bool"),
        ({"logits": [one, t(1, 4, 5), one]}, ValueError, "logits[1] must have 4 dimensions, got shape (1, 4, 5)"),
        (
            {"logits": [one, t(2, 2, 4, 5), one]},
            ValueError,
            "logits[1] must have shape (2, 1, 4, 5) to match logits[0] (2, 1, 4, 5), got (2, 2, 4, 5)",
        ),
        (
            {"logits": [t(2, 2, 4, 5), one, one]},
            ValueError,
            "logits[0] must have shape (2, 1, 4, 5) to match logits[0] (2, 2, 4, 5), got (2, 2, 4, 5)",
        ),
        (
            {"logits": [one, one, t(3, 1, 4, 5)]},
            ValueError,
            "logits[2] must have shape (2, 1, 4, 5) to match logits[0] (2, 1, 4, 5), got (3, 1, 4, 5)",
        ),
        (
            {"logits": [one, t(2, 1, 4, 5, device=META), one]},
            ValueError,
            "logits[1] must be on cpu like logits[0], got meta",
        ),
        (
            {"logits": [one, t(2, 1, 0, 5), one]},
            ValueError,
            "logits[1] must have at least one pixel to be resized, got shape (2, 1, 0, 5)",
        ),
        ({"phi": "sigmoid"}, ValueError, f"{PHI} 'sigmoid'"),
        ({"phi": None}, ValueError, f"{PHI} None"),
        ({"phi": "ABS"}, ValueError, f"{PHI} 'ABS'"),
        ({"background": "first"}, ValueError, f"{BACKGROUND} 'first'"),
        ({"background": True}, ValueError, f"{BACKGROUND} True"),
    ]


RENDER = {"predictions": [t(2, 3, 4, 5), t(2, 3, 8, 9), t(2, 3, 6, 6)], "logits": t(2, 3, 4, 5), "size": None}


def predictions(*changed: Any) -> dict[str, Sequence[Any]]:
    return {"predictions": [*changed, *RENDER["predictions"][len(changed) :]]}


BAD_RENDER: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"predictions": None}, TypeError, "predictions must be a list or tuple of tensors, got NoneType"),
    ({"predictions": t(2, 3, 4, 5)}, TypeError, "predictions must be a list or tuple of tensors, got Tensor"),
    ({"predictions": {0: t(2, 3, 4, 5)}}, TypeError, "predictions must be a list or tuple of tensors, got dict"),
    ({"predictions": []}, ValueError, "predictions must have 1 to 16 scales, got 0"),
    ({"predictions": [t(2, 3, 4, 5)] * 17}, ValueError, "predictions must have 1 to 16 scales, got 17"),
    (predictions(None), TypeError, "predictions[0] must be a Tensor, got NoneType"),
    (predictions(t(2, 3, 4, 5, dtype=INT)), TypeError, f"predictions[0] {FLOATING} torch.int64"),
    (predictions(t(2, 3, 4, 5), t(2, 3, 4, 5, dtype=torch.bool)), TypeError, f"predictions[1] {FLOATING} torch.bool"),
    (predictions(t(3, 4, 5)), ValueError, "predictions[0] must have 4 dimensions, got shape (3, 4, 5)"),
    (predictions(t(2, 3, 4, 5), t(4, 5)), ValueError, "predictions[1] must have 4 dimensions, got shape (4, 5)"),
    (
        predictions(t(2, 3, 4, 5), t(2, 4, 8, 9)),
        ValueError,
        "predictions[1] must have shape (2, 3, 8, 9) to match predictions[0] (2, 3, 4, 5), got (2, 4, 8, 9)",
    ),
    (
        predictions(t(1, 3, 4, 5)),
        ValueError,
        "predictions[1] must have shape (1, 3, 8, 9) to match predictions[0] (1, 3, 4, 5), got (2, 3, 8, 9)",
    ),
    (
        predictions(t(2, 3, 4, 5), t(2, 3, 4, 5, device=META)),
        ValueError,
        "predictions[1] must be on cpu like predictions[0], got meta",
    ),
    (
        predictions(t(2, 3, 0, 5)),
        ValueError,
        "predictions[0] must have at least one pixel to be resized, got shape (2, 3, 0, 5)",
    ),
    (
        predictions(t(2, 3, 4, 5).to_sparse()),
        TypeError,
        "predictions[0] must be a dense (strided) tensor, got layout torch.sparse",
    ),
    (
        {"logits": t(2, 2, 4, 5)},
        ValueError,
        "logits must have shape (2, 3, 4, 5) to match predictions[0] (2, 3, 4, 5), got (2, 2, 4, 5)",
    ),
    (
        {"logits": t(1, 3, 4, 5)},
        ValueError,
        "logits must have shape (2, 3, 4, 5) to match predictions[0] (2, 3, 4, 5), got (1, 3, 4, 5)",
    ),
    (
        {"logits": [t(2, 1, 4, 5)] * 2},
        ValueError,
        "logits must have shape (2, 3, 4, 5) to match predictions[0] (2, 3, 4, 5), got (2, 2, 4, 5)",
    ),
    ({"logits": t(2, 3, 4, 5, device=META)}, ValueError, "logits must be on cpu like predictions[0], got meta"),
    (
        {"logits": t(2, 3, 4, 0)},
        ValueError,
        "logits must have at least one pixel to be resized, got shape (2, 3, 4, 0)",
    ),
    ({"size": 4}, TypeError, "size must be a pair of integers (height, width), got 4"),
    ({"size": (4,)}, TypeError, "size must be a pair of integers (height, width), got (4,)"),
    ({"size": (4, 5, 6)}, TypeError, "size must be a pair of integers (height, width), got (4, 5, 6)"),
    ({"size": (4, 5.0)}, TypeError, "size must be a pair of integers (height, width), got (4, 5.0)"),
    ({"size": "45"}, TypeError, "size must be a pair of integers (height, width), got '45'"),
    ({"size": (0, 5)}, ValueError, "size must have a positive height and width, got (0, 5)"),
    ({"size": (4, -1)}, ValueError, "size must have a positive height and width, got (4, -1)"),
    ({"resize": "bicubic"}, ValueError, "resize must be one of 'weights', 'opacities', got 'bicubic'"),
    ({"resize": None}, ValueError, "resize must be one of 'weights', 'opacities', got None"),
    *bad_logits(),
]

PROGRESSIVE = {
    "features": [t(2, 3, 4, 5), t(2, 3, 4, 5)],
    "spatial_logits": [t(2, 1, 4, 5), t(2, 1, 4, 5)],
    "channel_logits": [t(2, 3, 1, 1), t(2, 3, 1, 1)],
}


def bad_lists() -> Iterator[tuple[dict[str, Any], type[Exception], str]]:
    """What is wrong with any list of progressive_fusion and resized_fusion."""
    for name, good in PROGRESSIVE.items():
        expected = tuple(good[1].shape)
        yield {name: good[0]}, TypeError, f"{name} must be a list or tuple of tensors, got Tensor"
        yield {name: None}, TypeError, f"{name} must be a list or tuple of tensors, got NoneType"
        yield {name: [good[0], 1.0]}, TypeError, f"{name}[1] must be a Tensor, got float"
        yield {name: [good[0], good[1].long()]}, TypeError, f"{name}[1] {FLOATING} torch.int64"
        yield {name: [good[0], good[1][0]]}, ValueError, f"{name}[1] must have 4 dimensions, got shape {expected[1:]}"
        yield (
            {name: [good[0], t(2, 7, 4, 5)]},
            ValueError,
            f"{name}[1] must have shape {expected} to match features[0] (2, 3, 4, 5), got (2, 7, 4, 5)",
        )
        yield (
            {name: [good[0], good[1].to("meta")]},
            ValueError,
            f"{name}[1] must be on cpu like features[0], got meta",
        )


BAD_PROGRESSIVE: list[tuple[dict[str, Any], type[Exception], str]] = [
    *bad_lists(),
    ({"features": []}, ValueError, "features must have 1 to 16 tensors, got 0"),
    ({"features": [t(2, 3, 4, 5)] * 17}, ValueError, "features must have 1 to 16 tensors, got 17"),
    ({"features": [None, None]}, TypeError, "features[0] must be a Tensor, got NoneType"),
    (
        {"spatial_logits": [t(2, 1, 4, 5)]},
        ValueError,
        "spatial_logits must have 2 tensors, one per feature map, got 1",
    ),
    ({"channel_logits": []}, ValueError, "channel_logits must have 2 tensors, one per feature map, got 0"),
]
BAD_LEVELS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *BAD_PROGRESSIVE,
    (
        {"features": [t(2, 3, 4, 5), t(2, 3, 0, 5)]},
        ValueError,
        "features[1] must have at least one pixel to be resized, got shape (2, 3, 0, 5)",
    ),
    (
        {"spatial_logits": [t(2, 1, 4, 0), t(2, 1, 4, 0)]},
        ValueError,
        "spatial_logits[0] must have at least one pixel to be resized to, got shape (2, 1, 4, 0)",
    ),
]

POOLED = "x must have at least one pixel to be pooled, got shape"
BAD_POOL: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(
        ({"x": value}, TypeError, f"x must be a Tensor, got {kind}")
        for value, kind in ((None, "NoneType"), ([t(2, 3, 4, 5)], "list"), (1.0, "float"), ("x", "str"), ((), "tuple"))
    ),
    ({"x": np.zeros((2, 3, 4, 5))}, TypeError, "x must be a Tensor, got ndarray"),
    *(
        ({"x": t(2, 3, 4, 5, dtype=dtype)}, TypeError, f"x {FLOATING} {dtype}")
        for dtype in (INT, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e5m2)
    ),
    ({"x": t(2, 3, 4, 5).to_sparse()}, TypeError, "x must be a dense (strided) tensor, got layout torch.sparse"),
    ({"x": NESTED}, TypeError, "x must be a dense (strided) tensor, got layout torch.jagged"),
    *(
        ({"x": t(*shape)}, ValueError, f"x must have 4 dimensions, got shape {shape}")
        for shape in ((), (5,), (4, 5), (3, 4, 5), (1, 2, 3, 4, 5))
    ),
    *(({"x": t(*shape)}, ValueError, f"{POOLED} {shape}") for shape in ((2, 3, 0, 5), (2, 3, 4, 0), (0, 0, 0, 0))),
]

NORM = {"weight": t(3), "bias": t(3), "running_mean": t(3), "running_var": t(3), "training": False}
HIDDEN = {"hidden": t(2, 3, 4, 5), **NORM}
PROJECT = {**HIDDEN, "project_weight": t(1, 3, 1, 1)}
CONV = {**HIDDEN, "conv_weight": t(4, 3, 3, 3), "training": True, "padding": 1}
CHANNEL = {"x": t(2, 5, 4, 5), "conv1_weight": t(3, 5, 1, 1), **NORM, "conv2_weight": t(4, 3, 1, 1)}


def bad_norm(like: str, shape: str) -> list[tuple[dict[str, Any], type[Exception], str]]:
    """What is wrong with a batch norm over three channels, whose number follows from the argument `like`."""
    vectors = "weight", "bias", "running_mean", "running_var"
    return [
        ({"weight": None}, TypeError, "weight must be a Tensor, got NoneType"),
        ({"bias": 0.0}, TypeError, "bias must be a Tensor, got float"),
        *(({n: t(3, dtype=INT)}, TypeError, f"{n} {FLOATING} torch.int64") for n in vectors),
        *(({n: t(1, 3)}, ValueError, f"{n} must have 1 dimensions, got shape (1, 3)") for n in vectors),
        *(({n: t(4)}, ValueError, f"{n} must have shape (3,) to match {like} {shape}, got (4,)") for n in vectors),
        *(({n: t(3, device=META)}, ValueError, f"{n} must be on cpu like {like}, got meta") for n in vectors),
        ({"running_mean": None}, ValueError, "running_mean must be a Tensor like running_var, or both None, got None"),
        ({"running_var": None}, ValueError, "running_var must be a Tensor like running_mean, or both None, got None"),
        ({"momentum": None}, TypeError, "momentum must be a number, got None"),
        ({"momentum": -0.1}, ValueError, "momentum must be at least 0, got -0.1"),
        ({"eps": "1e-5"}, TypeError, "eps must be a number, got '1e-5'"),
        ({"eps": -1e-5}, ValueError, "eps must be at least 0, got -1e-05"),
        ({"eps": float("nan")}, ValueError, "eps must be at least 0, got nan"),
        ({"activation_slope": True}, TypeError, "activation_slope must be a number, got True"),
        ({"activation_slope": -0.01}, ValueError, "activation_slope must be at least 0, got -0.01"),
        ({"training": None}, TypeError, "training must be True or False where there are running statistics, got None"),
    ]


ONE_VALUE = "Expected more than 1 value per channel when training, got input size torch.Size([1, 3, 1, 1]); use Sync"
BAD_HIDDEN: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"hidden": None}, TypeError, "hidden must be a Tensor, got NoneType"),
    ({"hidden": t(2, 3, 4, 5, dtype=INT)}, TypeError, f"hidden {FLOATING} torch.int64"),
    ({"hidden": t(3, 4, 5)}, ValueError, "hidden must have 4 dimensions, got shape (3, 4, 5)"),
    ({"hidden": NESTED}, TypeError, "hidden must be a dense (strided) tensor, got layout torch.jagged"),
    ({"hidden": t(1, 3, 1, 1), "training": True}, ValueError, ONE_VALUE),
    ({"hidden": t(1, 3, 1, 1), "running_mean": None, "running_var": None}, ValueError, ONE_VALUE),
    *bad_norm("hidden", "(2, 3, 4, 5)"),
]
BAD_PROJECT = [
    *BAD_HIDDEN,
    ({"project_weight": None}, TypeError, "project_weight must be a Tensor, got NoneType"),
    ({"project_weight": t(3)}, ValueError, "project_weight must have 4 dimensions, got shape (3,)"),
    (
        {"project_weight": t(2, 3, 1, 1)},
        ValueError,
        "project_weight must have shape (1, 3, 1, 1) to match hidden (2, 3, 4, 5), got (2, 3, 1, 1)",
    ),
    ({"project_weight": t(1, 3, 1, 1, device=META)}, ValueError, "project_weight must be on cpu like hidden, got meta"),
]
BAD_CONV = [
    *BAD_HIDDEN,
    ({"conv_weight": None}, TypeError, "conv_weight must be a Tensor, got NoneType"),
    ({"conv_weight": t(4, 3, 3)}, ValueError, "conv_weight must have 4 dimensions, got shape (4, 3, 3)"),
    (
        {"conv_weight": t(4, 2, 3, 3)},
        ValueError,
        "conv_weight must have shape (4, 3, 3, 3) to match hidden (2, 3, 4, 5), got (4, 2, 3, 3)",
    ),
    ({"conv_weight": t(4, 3, 3, 3, device=META)}, ValueError, "conv_weight must be on cpu like hidden, got meta"),
    ({"conv_bias": t(3)}, ValueError, "conv_bias must have shape (4,) to match conv_weight (4, 3, 3, 3), got (3,)"),
    ({"conv_bias": t(4, dtype=INT)}, TypeError, f"conv_bias {FLOATING} torch.int64"),
    ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    ({"stride": (1, 1, 1)}, TypeError, "stride must be an integer or a pair of them (height, width), got (1, 1, 1)"),
    ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    ({"padding": "same"}, TypeError, "padding must be an integer or a pair of them (height, width), got 'same'"),
    ({"dilation": 1.0}, TypeError, "dilation must be an integer or a pair of them (height, width), got 1.0"),
    (
        {"groups": 2},
        ValueError,
        "groups must divide the 3 channels of hidden and the 4 outputs of conv_weight, got 2",
    ),
    ({"groups": 1.0}, TypeError, "groups must be an integer, got 1.0"),
    (
        {"dilation": (9, 1)},
        ValueError,
        "conv_weight must not reach beyond the padded height of hidden, 6, got a kernel of 19",
    ),
]
BAD_CHANNEL: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": None}, TypeError, "x must be a Tensor, got NoneType"),
    ({"x": t(2, 5, 4, 5, dtype=INT)}, TypeError, f"x {FLOATING} torch.int64"),
    ({"x": t(2, 5, 0, 5)}, ValueError, "x must have at least one pixel to be pooled, got shape (2, 5, 0, 5)"),
    ({"x": t(1, 5, 4, 5), "training": True}, ValueError, ONE_VALUE),
    ({"conv1_weight": t(3, 5)}, ValueError, "conv1_weight must have 4 dimensions, got shape (3, 5)"),
    (
        {"conv1_weight": t(3, 4, 1, 1)},
        ValueError,
        "conv1_weight must have shape (3, 5, 1, 1) to match x (2, 5, 4, 5), got (3, 4, 1, 1)",
    ),
    ({"conv1_weight": t(3, 5, 1, 1, device=META)}, ValueError, "conv1_weight must be on cpu like x, got meta"),
    *bad_norm("conv1_weight", "(3, 5, 1, 1)"),
    ({"conv2_weight": None}, TypeError, "conv2_weight must be a Tensor, got NoneType"),
    (
        {"conv2_weight": t(4, 2, 1, 1)},
        ValueError,
        "conv2_weight must have shape (4, 3, 1, 1) to match conv1_weight (3, 5, 1, 1), got (4, 2, 1, 1)",
    ),
    ({"conv2_weight": t(4, 3, 1, 1, device=META)}, ValueError, "conv2_weight must be on cpu like x, got meta"),
]

LOSS = {k: v for k, v in RENDER.items() if k != "size"} | {"target": t(2, 8, 9, dtype=INT)}
INTEGRAL = "target must have dtype uint8, int32 or int64, got"
BAD_LOSS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(row for row in BAD_RENDER if "size" not in row[0]),
    ({"target": None}, TypeError, "target must be a Tensor, got NoneType"),
    ({"target": t(2, 8, 9)}, TypeError, f"{INTEGRAL} torch.float32"),
    ({"target": t(2, 8, 9, dtype=torch.bool)}, TypeError, f"{INTEGRAL} torch.bool"),
    ({"target": t(2, 1, 8, 9, dtype=INT)}, ValueError, "target must have 3 dimensions, got shape (2, 1, 8, 9)"),
    ({"target": t(2, 0, 9, dtype=INT)}, ValueError, "target must have at least one pixel, got shape (2, 0, 9)"),
    (
        {"target": t(3, 8, 9, dtype=INT)},
        ValueError,
        "target must have shape (2, 8, 9) to match predictions[0] (2, 3, 4, 5), got (3, 8, 9)",
    ),
    (
        {"target": t(2, 8, 9, dtype=INT, device=META)},
        ValueError,
        "target must be on cpu like predictions[0], got meta",
    ),
    (
        {"target": t(2, 8, 9, dtype=INT) + 3},
        ValueError,
        "target must hold classes from 0 to 2 or ignore_index -100, got 3",
    ),
    (
        {"target": t(2, 8, 9, dtype=INT) - 1, "ignore_index": 255},
        ValueError,
        "target must hold classes from 0 to 2 or ignore_index 255, got -1",
    ),
    (
        {"predictions": [t(2, 0, 4, 5)] * 3},
        ValueError,
        "predictions must have at least one channel, got shape (2, 0, 4, 5)",
    ),
    ({"weight": [1.0, 1.0, 1.0]}, TypeError, "weight must be a Tensor, got list"),
    ({"weight": t(3, dtype=INT)}, TypeError, f"weight {FLOATING} torch.int64"),
    ({"weight": t(1, 3)}, ValueError, "weight must have 1 dimensions, got shape (1, 3)"),
    ({"weight": t(4)}, ValueError, "weight must have shape (3,) to match predictions[0] (2, 3, 4, 5), got (4,)"),
    ({"weight": t(3, device=META)}, ValueError, "weight must be on cpu like predictions[0], got meta"),
    ({"weight": t(3).requires_grad_()}, ValueError, "weight must not require a gradient, which it does not get"),
    ({"ignore_index": None}, TypeError, "ignore_index must be an integer, got None"),
    ({"ignore_index": 255.0}, TypeError, "ignore_index must be an integer, got 255.0"),
    ({"reduction": "average"}, ValueError, "reduction must be one of 'mean', 'sum', 'none', got 'average'"),
]

BAD_SMOOTHING: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"label_smoothing": None}, TypeError, "label_smoothing must be a number, got None"),
    ({"label_smoothing": -0.1}, ValueError, "label_smoothing must be at least 0, got -0.1"),
    ({"label_smoothing": float("nan")}, ValueError, "label_smoothing must be at least 0, got nan"),
    ({"label_smoothing": 1.5}, ValueError, "label_smoothing must be at most 1, got 1.5"),
]
BAD_LOSS += BAD_SMOOTHING
RESIZED = {"logits": t(2, 3, 4, 5), "target": t(2, 8, 9, dtype=INT)}
BAD_RESIZED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"logits": None}, TypeError, "logits must be a Tensor, got NoneType"),
    ({"logits": [t(2, 3, 4, 5)]}, TypeError, "logits must be a Tensor, got list"),
    ({"logits": t(2, 3, 4, 5, dtype=INT)}, TypeError, f"logits {FLOATING} torch.int64"),
    ({"logits": t(3, 4, 5)}, ValueError, "logits must have 4 dimensions, got shape (3, 4, 5)"),
    (
        {"logits": t(2, 3, 0, 5)},
        ValueError,
        "logits must have at least one pixel to be resized, got shape (2, 3, 0, 5)",
    ),
    ({"logits": t(2, 0, 4, 5)}, ValueError, "logits must have at least one channel, got shape (2, 0, 4, 5)"),
    ({"target": None}, TypeError, "target must be a Tensor, got NoneType"),
    ({"target": t(2, 8, 9)}, TypeError, f"{INTEGRAL} torch.float32"),
    ({"target": t(2, 1, 8, 9, dtype=INT)}, ValueError, "target must have 3 dimensions, got shape (2, 1, 8, 9)"),
    ({"target": t(2, 0, 9, dtype=INT)}, ValueError, "target must have at least one pixel, got shape (2, 0, 9)"),
    (
        {"target": t(3, 8, 9, dtype=INT)},
        ValueError,
        "target must have shape (2, 8, 9) to match logits (2, 3, 4, 5), got (3, 8, 9)",
    ),
    ({"target": t(2, 8, 9, dtype=INT, device=META)}, ValueError, "target must be on cpu like logits, got meta"),
    (
        {"target": t(2, 8, 9, dtype=INT) + 3},
        ValueError,
        "target must hold classes from 0 to 2 or ignore_index -100, got 3",
    ),
    (
        {"target": t(2, 8, 9, dtype=INT) - 1, "ignore_index": 255},
        ValueError,
        "target must hold classes from 0 to 2 or ignore_index 255, got -1",
    ),
    ({"weight": [1.0, 1.0, 1.0]}, TypeError, "weight must be a Tensor, got list"),
    ({"weight": t(4)}, ValueError, "weight must have shape (3,) to match logits (2, 3, 4, 5), got (4,)"),
    ({"weight": t(3, device=META)}, ValueError, "weight must be on cpu like logits, got meta"),
    ({"weight": t(3).requires_grad_()}, ValueError, "weight must not require a gradient, which it does not get"),
    ({"ignore_index": 255.0}, TypeError, "ignore_index must be an integer, got 255.0"),
    ({"reduction": "average"}, ValueError, "reduction must be one of 'mean', 'sum', 'none', got 'average'"),
    *BAD_SMOOTHING,
]

HIERARCHICAL = {
    "predictions": [t(2, 3, 4, 5), t(2, 3, 8, 9)],
    "attentions": [t(2, 1, 4, 5)],
    "scales": (0.5, 1.0),
    "variant": "afa",
}
ONE_EACH = "attentions must have one tensor for each of the 2 scales, the finest one's optional, got"
BAD_HIERARCHICAL: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"predictions": None}, TypeError, "predictions must be a list or tuple of tensors, got NoneType"),
    ({"predictions": t(2, 3, 4, 5)}, TypeError, "predictions must be a list or tuple of tensors, got Tensor"),
    ({"predictions": []}, ValueError, "predictions must have 1 to 16 scales, got 0"),
    ({"predictions": [t(2, 3, 4, 5)] * 17}, ValueError, "predictions must have 1 to 16 scales, got 17"),
    ({"predictions": [None, None]}, TypeError, "predictions[0] must be a Tensor, got NoneType"),
    ({"predictions": [t(2, 3, 4, 5, dtype=INT)] * 2}, TypeError, f"predictions[0] {FLOATING} torch.int64"),
    ({"predictions": [t(3, 4, 5)] * 2}, ValueError, "predictions[0] must have 4 dimensions, got shape (3, 4, 5)"),
    (
        {"predictions": [t(2, 3, 4, 5), t(2, 4, 8, 9)]},
        ValueError,
        "predictions[1] must have shape (2, 3, 8, 9) to match predictions[0] (2, 3, 4, 5), got (2, 4, 8, 9)",
    ),
    (
        {"predictions": [t(2, 3, 4, 5), t(2, 3, 8, 9, device=META)]},
        ValueError,
        "predictions[1] must be on cpu like predictions[0], got meta",
    ),
    (
        {"predictions": [t(2, 3, 4, 5), t(2, 3, 0, 9)]},
        ValueError,
        "predictions[1] must have at least one pixel to be resized, got shape (2, 3, 0, 9)",
    ),
    ({"attentions": None}, TypeError, "attentions must be a list or tuple of tensors, got NoneType"),
    ({"attentions": []}, ValueError, f"{ONE_EACH} 0"),
    ({"attentions": [t(2, 1, 4, 5)] * 3}, ValueError, f"{ONE_EACH} 3"),
    ({"attentions": [0.5]}, TypeError, "attentions[0] must be a Tensor, got float"),
    ({"attentions": [t(2, 1, 4, 5, dtype=torch.bool)]}, TypeError, f"attentions[0] {FLOATING} torch.bool"),
    (
        {"attentions": [t(2, 3, 4, 5)]},
        ValueError,
        "attentions[0] must have shape (2, 1, 4, 5) to match predictions[0] (2, 3, 4, 5), got (2, 3, 4, 5)",
    ),
    (
        {"attentions": [t(2, 1, 8, 9)], "variant": "nvidia"},
        ValueError,
        "attentions[0] must have shape (2, 1, 4, 5) to match predictions[0] (2, 3, 4, 5), got (2, 1, 8, 9)",
    ),
    (
        {"attentions": [t(2, 1, 0, 5)]},
        ValueError,
        "attentions[0] must have at least one pixel to be resized, got shape (2, 1, 0, 5)",
    ),
    (
        {"attentions": [t(2, 1, 4, 5, device=META)]},
        ValueError,
        "attentions[0] must be on cpu like predictions[0], got meta",
    ),
    ({"scales": 1.0}, TypeError, "scales must be a list or tuple of numbers, got float"),
    ({"scales": ("1", "2")}, TypeError, "scales[0] must be a number, got '1'"),
    ({"scales": (1.0,)}, ValueError, "scales must have 2 numbers, one for each prediction, got 1"),
    ({"scales": (1.0, 0.5)}, ValueError, "scales must be positive and ascending, coarse to fine, got (1.0, 0.5)"),
    ({"scales": (0, 1)}, ValueError, "scales must be positive and ascending, coarse to fine, got (0, 1)"),
    ({"scales": (0.5, 2)}, ValueError, "size must be given where no scale is 1.0, got scales (0.5, 2)"),
    ({"variant": "hma"}, ValueError, "variant must be one of 'afa', 'nvidia', got 'hma'"),
    ({"size": 8}, TypeError, "size must be a pair of integers (height, width), got 8"),
    ({"size": (0, 8)}, ValueError, "size must have a positive height and width, got (0, 8)"),
]
BAD = {
    "bn_relu_conv2d": (CONV, BAD_CONV),
    "bn_relu_project": (PROJECT, BAD_PROJECT),
    "channel_attention": (CHANNEL, BAD_CHANNEL),
    "attentive_fusion": (FUSION, BAD_FUSION),
    "global_avg_max_pool": ({"x": t(2, 3, 4, 5)}, BAD_POOL),
    "upsampled_fusion": (UPSAMPLED, BAD_UPSAMPLED),
    "upsampled_pool": ({"deep": t(2, 3, 4, 5), "weight": t(3, 1, 4, 4)}, BAD_UPSAMPLED_POOL),
    "progressive_fusion": (PROGRESSIVE, BAD_PROGRESSIVE),
    "resized_fusion": (PROGRESSIVE, BAD_LEVELS),
    "scale_space_weights": (WEIGHTS, bad_logits()),
    "scale_space_render": (RENDER, BAD_RENDER),
    "resized_cross_entropy": (RESIZED, BAD_RESIZED),
    "scale_space_cross_entropy": (LOSS, BAD_LOSS),
    "hierarchical_fusion": (HIERARCHICAL, BAD_HIERARCHICAL),
}
ROWS = [(op, good, *row) for op, (good, rows) in BAD.items() for row in rows]


@pytest.mark.parametrize("op, good, bad, error, message", ROWS, ids=[f"{op}: {message}" for op, *_, message in ROWS])
def test_message(op: str, good: dict[str, Any], bad: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}") as raised:
        getattr(afa_kernels, op)(**{**good, **bad})
    assert type(raised.value) is error


@pytest.mark.parametrize("op", BAD)
def test_unchanged_the_input_is_good(op: str, backend: str) -> None:
    good, rows = BAD[op]
    assert len(rows) >= 20
    with afa_kernels.use_backend(backend):
        getattr(afa_kernels, op)(**good)
