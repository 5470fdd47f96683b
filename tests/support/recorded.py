"""Values recorded from the official code (tests/golden): inputs, outputs, cotangents, gradients and state dicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afa_kernels.testing import DEVICE

GOLDEN = Path(__file__).parents[1] / "golden"


def names(*prefixes: str) -> list[str]:
    """The recordings whose name starts with one of `prefixes`."""
    return sorted(path.stem for path in GOLDEN.glob("*.npz") if path.stem.startswith(prefixes))


def meta(name: str) -> dict[str, Any]:
    """Where a recording is from, and with which options."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return json.loads(str(file["meta"]))


def load(name: str) -> dict[str, Tensor]:
    """The arrays of a recording, on the device of the session."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]).to(DEVICE) for key in file.files if key != "meta"}


def group(record: dict[str, Tensor], prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """What `record` has under "prefix.key", by key; its integers stay integers."""
    found = {key.removeprefix(f"{prefix}."): t for key, t in record.items() if key.startswith(f"{prefix}.")}
    return {key: t.to(dtype) if t.is_floating_point() else t for key, t in found.items()}
