"""What a DLA-34-shaped up-path saves, holds and takes in training, with and without afa_kernels.

    python -m benchmarks.training_memory                                      both parts, about 10 minutes
    python -m benchmarks.training_memory --parts losses                       one of them; the record keeps the other
    python -m benchmarks.training_memory --plot docs/images/training.png      the losses of the record

AFADLAUp over channels 32 to 512 and the fusion of its three finest levels, batch 3, at half the size of the image. The
same network three times: on the chosen backend; on the backend "reference", which is plain PyTorch; and composed as in
the official code, where every batch norm and ReLU is a module that saves for itself. Saved bytes are those of unique
storages that autograd's hooks see, peak bytes the allocator's, times medians of alternating steps. Then each trains for
20 SGD steps from the same weights on the same data, whose target is the largest of the finest level's first channels.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import afa_kernels
from afa_kernels.models import AFADLAUp, AFALevelFusion
from afa_kernels.testing import alternate, peak_bytes, saved_bytes
from benchmarks.run import ROOT, circumstances

RECORD = ROOT / "benchmarks" / "results" / "training_memory.json"
CHANNELS, BATCH, CLASSES, STEPS, RATE = (32, 64, 128, 256, 512), 3, 19, 20, 0.3


class OfficialNorm(nn.BatchNorm2d):
    """A batch norm that no operation of this package takes for its own."""


class Network(nn.Module):
    def __init__(self, norm: Any = "bn") -> None:
        super().__init__()
        self.up = AFADLAUp(CHANNELS, [2**i for i in range(len(CHANNELS))], norm=norm)
        self.fusion = AFALevelFusion(CHANNELS[2::-1], norm)
        self.classes = nn.Conv2d(CHANNELS[0], CLASSES, 1)

    def forward(self, levels: list[Tensor], target: Tensor) -> Tensor:
        return F.cross_entropy(self.classes(self.fusion(self.up(levels)[1:])), target)


def networks() -> dict[str, tuple[Network, str | None]]:
    """Each with its backend; all with the same parameters."""
    torch.manual_seed(0)
    ours, official = Network(), Network(OfficialNorm)
    official.load_state_dict(ours.state_dict())
    return {
        "afa_kernels": (ours, None),
        "reference backend": (copy.deepcopy(ours), "reference"),
        "official composition": (official, "reference"),
    }


def on(backend: str | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if backend is None else afa_kernels.use_backend(backend)


def data(height: int, width: int) -> tuple[list[Tensor], Tensor]:
    """Levels for an image of that size, and a target that can be learned from the finest."""
    generator = torch.Generator().manual_seed(1)
    levels = [
        torch.randn(BATCH, c, height >> (i + 1), width >> (i + 1), generator=generator) for i, c in enumerate(CHANNELS)
    ]
    return levels, levels[0][:, :CLASSES].argmax(1)


def memory(height: int, width: int) -> dict[str, dict[str, Any]]:
    levels, target = data(height, width)
    found: dict[str, dict[str, Any]] = {}
    steps: dict[str, Callable[[], None]] = {}
    for name, (model, backend) in networks().items():

        def forward(model: Network = model, backend: str | None = backend) -> Tensor:
            with on(backend):
                return model(levels, target)

        def step(model: Network = model, forward: Callable[[], Tensor] = forward) -> None:
            model.zero_grad()
            forward().backward()

        steps[name] = step
        found[name] = {"saved bytes": saved_bytes(forward), "peak bytes": peak_bytes(step)}
        print(name, found[name], flush=True)
    for name, seconds in alternate(steps, repeats=5).items():
        found[name]["seconds"] = statistics.median(seconds)
        print(name, found[name]["seconds"], flush=True)
    return found


def losses(height: int, width: int) -> dict[str, dict[str, Any]]:
    levels, target = data(height, width)
    found: dict[str, dict[str, Any]] = {}
    for name, (model, backend) in networks().items():
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
        found[name] = {"losses": []}
        for _ in range(STEPS):
            optimizer.zero_grad()
            with on(backend):
                loss = model(levels, target)
            loss.backward()
            optimizer.step()
            found[name]["losses"].append(loss.item())
        print(name, found[name], flush=True)
    return found


PARTS = {"memory": memory, "losses": losses}


def plot(record: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    styles = {"afa_kernels": "-", "reference backend": "--", "official composition": ":"}
    for name, style in styles.items():
        axes.plot(range(1, STEPS + 1), record["networks"][name]["losses"], style, linewidth=2, label=name)
    axes.set(xlabel="SGD step", ylabel="cross-entropy", title="The same network, trained three ways")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("HEIGHT", "WIDTH"), help="image")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--plot", type=Path, help="draw the losses of the record there, and measure nothing")
    options = parser.parse_args()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"networks": {}}
    if options.plot is not None:
        plot(record, options.plot)
        return
    for part in options.parts:
        for name, found in PARTS[part](*options.size).items():
            record["networks"].setdefault(name, {}).update(found)
        command = shlex.join(["python", "-m", "benchmarks.training_memory", *sys.argv[1:]])
        record[part] = {**circumstances(), "batch": BATCH, "image": list(options.size), "command": command}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
