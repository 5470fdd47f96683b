"""The memory of multi-scale inference by the number of scales: a table, a record and a plot.

    python -m benchmarks.inference_memory --output benchmarks/results/inference_memory.json      1024x2048, 19 classes
    python -m benchmarks.inference_memory --size 256 512 --plot demo/memory.png

A network predicts at half the size of its input, coarse to fine at 0.5, 1, 1.5, 1.75 and 2 times the image's. What a
call holds at most is counted in units of one rendered map, the network's predictions left out ("beyond the network's
own") or, as `with predictions`, counted while they are needed. The official composition resizes every prediction to the
image, keeps it until the weights of all scales are known, and adds them up. Exact counts of the allocator; resident
bytes are how much the process grows, memory that native code takes for itself included.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import afa_kernels
from afa_kernels.testing import peak_bytes
from benchmarks.run import circumstances, peak_resident_bytes
from benchmarks.shapes import CLASSES, SCALES, resize, scale_space_weights

Scales = Iterable[tuple[Tensor, Tensor]]  # predictions and logits, made one after the other
Contestant = Callable[[Scales, tuple[int, int]], Tensor]


def official(scales: Scales, size: tuple[int, int]) -> Tensor:
    predictions, logits = [], []
    for prediction, y in scales:
        predictions.append(resize(prediction, size))
        logits.append(y)
        del prediction
    weights, _ = scale_space_weights(torch.cat(logits, 1))
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


def measure(size: tuple[int, int]) -> dict[str, list[dict[str, Any]]]:
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


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    kinds = [kind for kind in next(iter(found.values()))[0] if kind != "scales"]
    lines = ["| rendered maps held, of 5 scales | " + " | ".join(kinds) + " |", "| --- |" + " ---: |" * len(kinds)]
    for name, rows in found.items():
        values = ("-" if rows[-1][kind] is None else f"{rows[-1][kind]:.2f}" for kind in kinds)
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def plot(found: dict[str, list[dict[str, Any]]], size: tuple[int, int], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.8), layout="constrained")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("HEIGHT", "WIDTH"), help="image")
    parser.add_argument("--output", type=Path, help="write the record there")
    parser.add_argument("--plot", type=Path, help="draw the memory by scales there")
    options = parser.parse_args()
    size = options.size[0], options.size[1]
    with torch.inference_mode():
        found = measure(size)
    print(f"Multi-scale inference at {size[0]} x {size[1]}, {CLASSES} classes\n\n{table(found)}")
    if options.output is not None:
        command = shlex.join(["python", "-m", "benchmarks.inference_memory", *sys.argv[1:]])
        record = {**circumstances(), "size": size, "classes": CLASSES, "command": command, "found": found}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    if options.plot is not None:
        plot(found, size, options.plot)
        print(f"\nPlot: {options.plot}")


if __name__ == "__main__":
    main()
