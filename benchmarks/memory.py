"""The memory of multi-scale inference by the number of scales, and of training an up-path.

    python -m benchmarks.memory inference --record                  1024x2048, 19 classes; about a minute
    python -m benchmarks.memory inference --size 256 512 --plot demo/memory.png
    python -m benchmarks.memory training --record                   about 10 minutes
    python -m benchmarks.memory training --parts losses --record    one of its parts; the record keeps the other
    python -m benchmarks.memory training --plot docs/images/training.png      the losses of the record

Inference: a network predicts at half the size of its input, coarse to fine at 0.5, 1, 1.5, 1.75 and 2 times the
image's. What a call holds at most is counted in units of one rendered map, the network's predictions left out ("beyond
the network's own") or, as `with predictions`, counted while they are needed. The official composition resizes every
prediction to the image, keeps it until the weights of all scales are known, and adds them up. Exact counts of the
allocator; resident bytes are how much the process grows, memory that native code takes for itself included.

Training: the network of `networks.py` at batch 3 and half the size of the image. Saved bytes are those of unique
storages that autograd's hooks see, peak bytes the allocator's, times medians of alternating steps. Then each trains for
20 SGD steps from the same weights on the same data, whose target is the largest of the finest level's first channels.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import afa_kernels
from afa_kernels.testing import alternate, peak_bytes, saved_bytes
from benchmarks.networks import BATCH, Network, data, networks, on
from benchmarks.ops._shapes import CLASSES, SCALES, resize
from benchmarks.ops.scale_space_weights import eager as weigh
from benchmarks.run import ROOT, circumstances, peak_resident_bytes

if TYPE_CHECKING:  # drawn with --plot alone
    from matplotlib.figure import Figure

RESULTS = ROOT / "benchmarks" / "results"
STEPS, RATE = 20, 0.3

Scales = Iterable[tuple[Tensor, Tensor]]  # predictions and logits, made one after the other
Contestant = Callable[[Scales, tuple[int, int]], Tensor]
Found = dict[str, list[dict[str, Any]]]


def official(scales: Scales, size: tuple[int, int]) -> Tensor:
    predictions, logits = [], []
    for prediction, y in scales:
        predictions.append(resize(prediction, size))
        logits.append(y)
        del prediction
    weights, _ = weigh(torch.cat(logits, 1))
    rendered = torch.zeros(())
    for k, prediction in enumerate(predictions):
        rendered = rendered + resize(weights[:, k : k + 1], size) * prediction
    return rendered


def all_at_once(scales: Scales, size: tuple[int, int]) -> Tensor:
    predictions, logits = zip(*scales)
    return afa_kernels.scale_space_render(predictions, logits, size)


def renderer(scales: Scales, size: tuple[int, int]) -> Tensor:
    state = afa_kernels.ScaleSpaceRenderer(size)
    for prediction, y in scales:
        state.add(prediction, y)
        del prediction
    return state.render()


def labels(scales: Scales, size: tuple[int, int]) -> Tensor:
    predictions, logits = zip(*scales)
    found = afa_kernels.scale_space_labels(predictions, logits, size, dtype=torch.uint8)
    assert isinstance(found, Tensor)
    return found


CONTESTANTS: dict[str, Contestant] = {
    "official composition": official,
    "scale_space_render": all_at_once,
    "ScaleSpaceRenderer": renderer,
    "scale_space_labels": labels,
}


def inference(size: tuple[int, int]) -> dict[str, list[dict[str, Any]]]:
    """For each contestant, of 1 to 5 scales the most bytes held, in rendered maps."""
    height, width = size
    one_map = 4 * CLASSES * height * width
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}

    def predict(scale: float) -> tuple[Tensor, Tensor]:
        prediction = torch.randn(1, CLASSES, int(scale / 2 * height), int(scale / 2 * width))
        return prediction, torch.randn(1, 1, height // 2, width // 2)

    def fuse_as_they_come(contestant: Contestant, count: int) -> Tensor:
        return contestant(map(predict, SCALES[:count]), size)

    for count in range(1, len(SCALES) + 1):
        given = [predict(scale) for scale in SCALES[:count]]
        for name, contestant in CONTESTANTS.items():
            fuse = functools.partial(contestant, given, size)
            counts = {
                "beyond the network": peak_bytes(fuse),
                "with predictions": peak_bytes(functools.partial(fuse_as_they_come, contestant, count)),
                "resident": peak_resident_bytes(fuse),
            }
            found[name].append({"scales": count} | {k: v and v / one_map for k, v in counts.items()})
    return found


def inference_table(found: dict[str, list[dict[str, Any]]]) -> str:
    kinds = [kind for kind in next(iter(found.values()))[0] if kind != "scales"]
    lines = ["| rendered maps held, of 5 scales | " + " | ".join(kinds) + " |", "| --- |" + " ---: |" * len(kinds)]
    for name, rows in found.items():
        values = ("-" if rows[-1][kind] is None else f"{rows[-1][kind]:.2f}" for kind in kinds)
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def inference_figure(found: dict[str, list[dict[str, Any]]], size: tuple[int, int]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for name, rows in found.items():
        axes.plot([row["scales"] for row in rows], [row["with predictions"] for row in rows], "o-", label=name)
    axes.set(
        xlabel="scales",
        ylabel=f"rendered maps ({4 * CLASSES * size[0] * size[1] / 2**20:.1f} MiB)",
        title=f"Most memory held, predictions included, {size[0]} x {size[1]}, {CLASSES} classes",
        xticks=range(1, len(SCALES) + 1),
        ylim=(0, None),
    )
    axes.legend()
    return figure


def bytes_and_time(height: int, width: int) -> dict[str, dict[str, Any]]:
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


PARTS = {"memory": bytes_and_time, "losses": losses}


def training_table(record: dict[str, Any]) -> str:
    lines = ["| network | saved for backward | peak | step |", "| --- | ---: | ---: | ---: |"]
    for name, found in record["networks"].items():
        saved, peak = (f"{found[key] / 1e6:.0f} MB" for key in ("saved bytes", "peak bytes"))
        lines.append(f"| {name} | {saved} | {peak} | {found['seconds']:.1f} s |")
    return "\n".join(lines)


def losses_figure(record: dict[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    styles = {"afa_kernels": "-", "reference backend": "--", "official composition": ":"}
    for name, style in styles.items():
        axes.plot(range(1, STEPS + 1), record["networks"][name]["losses"], style, linewidth=2, label=name)
    axes.set(xlabel="SGD step", ylabel="cross-entropy", title="The same network, trained three ways")
    axes.legend()
    return figure


def record_path(subject: str) -> Path:
    return RESULTS / f"{subject}_memory.json"


def load(subject: str) -> dict[str, Any]:
    """Return the record of "inference" or "training"."""
    return json.loads(record_path(subject).read_text())


def save(subject: str, record: dict[str, Any]) -> None:
    record_path(subject).write_text(json.dumps(record, indent=1) + "\n")


def command() -> str:
    return shlex.join(["python", "-m", "benchmarks.memory", *sys.argv[1:]])


def run_inference(options: argparse.Namespace) -> None:
    size: tuple[int, int] = tuple(options.size or (1024, 2048))  # type: ignore[assignment]
    with torch.inference_mode():
        found = inference(size)
    print(f"Multi-scale inference at {size[0]} x {size[1]}, {CLASSES} classes\n\n{inference_table(found)}")
    if options.record:
        circumstance = {**circumstances(), "size": size, "classes": CLASSES, "command": command()}
        save("inference", {**circumstance, "found": found})
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        inference_figure(found, size).savefig(options.plot, dpi=100)
        print(f"\nPlot: {options.plot}")


def run_training(options: argparse.Namespace) -> None:
    record = load("training") if record_path("training").exists() else {"networks": {}}
    if options.plot is not None:
        losses_figure(record).savefig(options.plot, dpi=120)
        return
    size = tuple(options.size or (512, 1024))
    for part in options.parts:
        for name, found in PARTS[part](*size).items():
            record["networks"].setdefault(name, {}).update(found)
        record[part] = {**circumstances(), "batch": BATCH, "image": list(size), "command": command()}
    if options.record:
        save("training", record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = parser.add_subparsers(required=True)
    for run, parts in ((run_inference, False), (run_training, True)):
        subject = subjects.add_parser(run.__name__.removeprefix("run_"))
        subject.set_defaults(run=run)
        subject.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the image")
        subject.add_argument("--record", action="store_true", help="write the record in benchmarks/results")
        subject.add_argument("--plot", type=Path, metavar="FILE", help="of training: of its record, measuring nothing")
        if parts:
            subject.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
