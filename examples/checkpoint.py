"""Checkpoints that are either whole or not there, and say what they are of."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch


def save(path: Path, content: Any) -> None:
    """torch.save to a file beside `path`, which then takes its place: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path, settings: dict[str, Any], needed: tuple[str, ...] = ("model",)) -> dict[str, Any]:
    """A checkpoint of a run of exactly these settings.

    Raises ValueError where the file cannot be read, is no checkpoint, or is of another network or run; says which
    settings differ. Nothing is written over.
    """
    try:
        found = torch.load(path, weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint {path} cannot be read (truncated, or none of ours): {reason}") from error
    missing = [k for k in ("settings", *needed) if not isinstance(found, dict) or k not in found]
    if missing:
        raise ValueError(f"{path} is no checkpoint of these scripts: it has no {', '.join(missing)}")
    of = found["settings"]
    differing = [k for k in {**settings, **of} if of.get(k) != settings.get(k)]
    if differing:
        told = "; ".join(f"{k} is {of.get(k)!r} there, {settings.get(k)!r} here" for k in differing)
        raise ValueError(f"checkpoint {path} is of another run: {told}. Choose another --output, or delete it.")
    return found
