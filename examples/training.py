"""What the training scripts share: checkpoints that are whole or not there, and the loop that goes on from them."""

from __future__ import annotations

import json
import math
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm


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


def load(path: Path, settings: dict[str, Any] | None, needed: tuple[str, ...] = ("model",)) -> dict[str, Any]:
    """A checkpoint of a run of exactly these settings, or, of None, of any.

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
    settings = of if settings is None else settings
    differing = [k for k in {**settings, **of} if of.get(k) != settings.get(k)]
    if differing:
        told = "; ".join(f"{k} is {of.get(k)!r} there, {settings.get(k)!r} here" for k in differing)
        raise ValueError(f"checkpoint {path} is of another run: {told}. Choose another --output, or delete it.")
    return found


def remembered(path: Path, of: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make()` returned when it was last called for exactly `of`, from the file `path`; else its result."""
    if path.exists():
        found = json.loads(path.read_text())
        if found["of"] == of:
            return found["result"]
    result = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    beside.write_text(json.dumps({"of": of, "result": result}))
    os.replace(beside, path)
    return result


def optimise(
    model: nn.Module, loss_at: Callable[[int], Tensor], settings: dict[str, Any], checkpoint: Path
) -> tuple[list[float], float]:
    """Adam on what of `model` requires a gradient, from `checkpoint` where that is.

    Args:
        loss_at: of a step's number the loss. It must depend on that and on the model alone, its random numbers on a
            seed and the step: so a killed run comes to the numbers of an unbroken one.
        settings: what the run is, with steps, rate (which falls to 0 by half a cosine), weight_decay,
            checkpoint_every and, for the bar, name. A checkpoint of other settings raises ValueError.

    Returns the loss of every step and the seconds of CPU that all took, those before a kill included.
    """
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learnt, settings["rate"], weight_decay=settings["weight_decay"])
    steps, losses, earlier = settings["steps"], list[float](), 0.0
    if checkpoint.exists():
        found = load(checkpoint, settings, ("model", "optimizer", "losses", "cpu_s"))
        model.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
        losses, earlier = found["losses"], found["cpu_s"]
        print(f"goes on at step {len(losses)} of {steps} from {checkpoint}", file=sys.stderr)
    began = time.process_time() - earlier
    with tqdm(total=steps, initial=len(losses), desc=settings["name"], unit="step", disable=None) as bar:
        for step in range(len(losses), steps):
            for group in optimizer.param_groups:
                group["lr"] = settings["rate"] * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = loss_at(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise ValueError(f"the loss of step {step} is {losses[-1]}: a smaller rate than {settings['rate']}?")
            bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.4f}", refresh=False)
            bar.update()
            if len(losses) % settings["checkpoint_every"] == 0 or len(losses) == steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                seconds = time.process_time() - began
                save(checkpoint, {"settings": settings, "losses": losses, "cpu_s": seconds, **state})
    return losses, time.process_time() - began
