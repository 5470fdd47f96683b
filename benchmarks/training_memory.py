"""What a DLA-34-shaped up-path saves, holds and takes in training, with and without afa_kernels.

    python -m benchmarks.training_memory [--size 512 1024] [--plot docs/images/training.png]

AFADLAUp over channels 32 to 512 and the fusion of its three finest levels, batch 3, at half the size of the image. The
same network three times: on the chosen backend; on the backend "reference", which is plain PyTorch; and composed as in
the official code, where every batch norm and ReLU is a module that saves for itself. Saved bytes are those of unique
storages that autograd's hooks see, peak bytes the allocator's, times medians of alternating steps; then each trains for
20 SGD steps from the same weights on the same data.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
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
CHANNELS, BATCH, CLASSES, STEPS = (32, 64, 128, 256, 512), 3, 19, 20


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


def measure(height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    levels = [
        torch.randn(BATCH, c, height >> (i + 1), width >> (i + 1), generator=generator) for i, c in enumerate(CHANNELS)
    ]
    target = torch.randint(CLASSES, (BATCH, height // 2, width // 2), generator=generator)
    forwards: dict[str, Callable[[], Tensor]] = {}
    steps: dict[str, Callable[[], None]] = {}
    found: dict[str, Any] = {}
    models = networks()
    for name, (model, backend) in models.items():

        def forward(model: Network = model, backend: str | None = backend) -> Tensor:
            with on(backend):
                return model(levels, target)

        def step(model: Network = model, forward: Callable[[], Tensor] = forward) -> None:
            model.zero_grad()
            forward().backward()

        forwards[name], steps[name] = forward, step
        found[name] = {"saved bytes": saved_bytes(forward), "peak bytes": peak_bytes(step)}
        print(name, found[name], flush=True)
    for name, seconds in alternate(steps, repeats=5).items():
        found[name]["seconds"] = statistics.median(seconds)
    for name, (model, _) in networks().items():
        trained = models[name][0]
        trained.load_state_dict(model.state_dict())
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9)
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = forwards[name]()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        found[name]["losses"] = losses
        print(name, found[name]["seconds"], losses[-1], flush=True)
    return found


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
    parser.add_argument("--plot", type=Path, help="draw the losses of the record there")
    options = parser.parse_args()
    if options.plot is not None and RECORD.exists():
        plot(json.loads(RECORD.read_text()), options.plot)
        return
    record = {"batch": BATCH, "image": list(options.size), "networks": measure(*options.size), **circumstances()}
    record["command"] = "python -m benchmarks.training_memory"
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
