"""Weights from a file: those that the official code has released, and one's own."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from afa_kernels.models.dla import check_entries


@dataclass
class Loaded:
    """What `load_checkpoint` did: how many entries it loaded, and, with the reason, what it left."""

    loaded: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # entries of the file
    kept: dict[str, str] = field(default_factory=dict)  # entries of the model, which are as they were

    def __str__(self) -> str:
        return f"{self.loaded} entries loaded, {len(self.skipped)} of the file skipped, {len(self.kept)} kept"


def load_checkpoint(
    model: nn.Module,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any],
    *,
    skip: Sequence[str] = (),
    trusted: bool = False,
) -> Loaded:
    """Load a checkpoint of the official code, or a state dict, into a model.

    Of a Lightning checkpoint the entries under "net." are the network's, and the others are skipped. Norms may be
    BatchNorm or InPlaceABN, whose entries are the same, with or without num_batches_tracked. Everything else is
    strict: an entry too many, too few or of another shape is an error, and nothing is loaded then.

    Args:
        model: one of this package's networks, or any module.
        checkpoint: a file that torch.save wrote, or what torch.load returned.
        skip: names of submodules whose entries are neither loaded nor missed: ("fc", "up") for other classes.
        trusted: whether the file may run code when it is read, which old checkpoints with objects need. Only for files
            whose origin you know.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or is no checkpoint.
        RuntimeError: the checkpoint is that of another network.

    >>> from afa_kernels import models
    >>> model = models.create("afa_dla34", num_classes=2)
    >>> checkpoint = {"state_dict": {f"net.{key}": t for key, t in model.state_dict().items()}, "epoch": 3}
    >>> print(models.load_checkpoint(model, checkpoint))
    553 entries loaded, 0 of the file skipped, 0 kept
    """
    found = Loaded()
    entries = _network_entries(checkpoint if isinstance(checkpoint, Mapping) else _read(checkpoint, trusted), found)
    state, own = {}, model.state_dict()
    for key, value in entries.items():
        if _is_within(key, skip):
            found.skipped[key] = "asked for"
        elif key.endswith("num_batches_tracked") and key not in own:
            found.skipped[key] = "the model's norm counts no batches"
        else:
            state[key] = value
    found.loaded = len(state)
    for key, value in own.items():
        if key in state:
            continue
        if _is_within(key, skip):
            found.kept[key] = "asked for"
        elif key.endswith("num_batches_tracked"):
            found.kept[key] = "the checkpoint's norms count no batches"
        elif _is_within(key, ("criterion", "auxiliary_criterion")):
            found.kept[key] = "of the loss, not of the network"
        else:
            continue
        state[key] = value
    check_entries(model, state)
    model.load_state_dict(state, strict=True)
    return found


def _is_within(key: str, modules: Sequence[str]) -> bool:
    return any(key == name or key.startswith(name + ".") for name in modules)


def _read(path: str | os.PathLike[str], trusted: bool) -> Mapping[str, Any]:
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=not trusted)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error):
            raise ValueError(
                f"checkpoint {path} holds objects that torch.load does not read safely: give trusted=True if you know "
                "where it comes from"
            ) from error
        raise ValueError(f"checkpoint {path} cannot be read, it is damaged or no checkpoint: {error}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"checkpoint {path} cannot be read, it is damaged or no checkpoint: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"checkpoint {path} must hold a dictionary, got a {type(content).__name__}")
    return content


def _network_entries(content: Mapping[str, Any], found: Loaded) -> dict[str, Tensor]:
    """Of a checkpoint or a state dict the network's entries, by their names within the network."""
    entries = content.get("state_dict", content)
    if not isinstance(entries, Mapping) or not entries:
        raise ValueError("checkpoint must hold the entries of a state dict, got none")
    if "state_dict" not in content and not all(isinstance(value, Tensor) for value in entries.values()):
        wrong = next(key for key, value in entries.items() if not isinstance(value, Tensor))
        raise ValueError(
            f"checkpoint must be a state dict or have one by the name state_dict, got {wrong!r}, a "
            f"{type(entries[wrong]).__name__}"
        )
    prefix = next((p for p in ("net.", "module.") if any(key.startswith(p) for key in entries)), "")
    network = {}
    for key, value in entries.items():
        if key.startswith(prefix):
            network[key.removeprefix(prefix)] = value
        else:
            found.skipped[key] = f"not under {prefix!r}, so not of the network"
    return network
