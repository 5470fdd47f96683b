"""Train the attention that fuses the scales of a frozen HED, on half of the photographs, and score it on the others.

    python -m examples.boundary_detection.train --data bsds500_test100.zip --fusion ssr

A run that was killed goes on from its checkpoint when it is started again; --compare trains every fusion and seed, and
writes one record of all.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import afa_kernels
from benchmarks.run import circumstances
from examples.boundary_detection import bsds
from examples.boundary_detection.bsds import Photograph
from examples.boundary_detection.fusions import FUSIONS, HEAD, SCALES
from examples.boundary_detection.hed import load_hed
from examples.boundary_detection.scales import HEDAtAScale, Scales, cached_scales
from examples.training import optimise, remembered, save

# ---- configuration ----
EPOCHS = 6
RATE = 2e-3  # of Adam; falls to 0 by half a cosine
WEIGHT_DECAY = 1e-4
CHECKPOINT_EVERY = 25  # steps
SEEDS = (0, 1, 2)
EXACT_ABOVE = (0.0, 0.05, 0.1)  # thresholds of the exact matching, above the best of the fast one, which is kinder
# -----------------------


def target_of(photograph: Photograph) -> tuple[Tensor, Tensor]:
    """Where there is a boundary (1, 1, H, W), and how much each pixel counts.

    A boundary is where at least half of the people drew one within a pixel; where fewer did, a pixel counts nothing.
    The two classes count the same in total, as in HED.
    """
    drawn = torch.from_numpy(photograph.boundaries).float()[:, None]
    agreed = F.max_pool2d(drawn, 3, stride=1, padding=1).mean(0)[None]
    thin = torch.from_numpy(photograph.boundaries.any(0)).float()[None, None]
    target = (agreed >= 0.5).float() * thin
    counted = ((target > 0) | (agreed == 0)).float()
    share = (target.sum() / counted.sum()).clamp(0.01, 0.99)
    return target, counted * torch.where(target > 0, 0.5 / share, 0.5 / (1 - share))


def loss_of(probability: Tensor, photograph: Photograph) -> Tensor:
    target, weight = target_of(photograph)
    each = F.binary_cross_entropy(probability.clamp(1e-4, 1 - 1e-4), target, reduction="none")
    return (each * weight).sum() / weight.sum()


def order(seed: int, count: int, epoch: int) -> list[tuple[int, bool]]:
    """Every photograph once, and whether it is mirrored: by the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    mirrored = torch.rand(count, generator=generator) < 0.5
    return [(index, bool(mirrored[index])) for index in torch.randperm(count, generator=generator).tolist()]


def train(
    fusion: nn.Module,
    photographs: Sequence[Photograph],
    scales: Sequence[Scales],
    settings: dict[str, Any],
    checkpoint: Path,
) -> tuple[list[float], float]:
    """Train `fusion` on a photograph a step; the loss of each, and the seconds of CPU they took."""

    def loss_at(step: int) -> Tensor:
        epoch, place = divmod(step, len(photographs))
        index, is_mirrored = order(settings["seed"], len(photographs), epoch)[place]
        photograph, seen = photographs[index], scales[index].to(torch.float32)
        if is_mirrored:
            boundaries = photograph.boundaries[..., ::-1].copy()
            photograph, seen = Photograph(photograph.name, photograph.image, boundaries), seen.flipped()
        return loss_of(fusion(seen), photograph)

    fusion.train()
    return optimise(fusion, loss_at, settings, checkpoint)


@torch.no_grad()
def maps_of(fusion: nn.Module, scales: Sequence[Scales]) -> Iterator[np.ndarray]:
    fusion.eval()
    for seen in tqdm(scales, "scoring", unit="image", disable=None, leave=False):
        yield fusion(seen.to(torch.float32))[0, 0].numpy()


def settings_of(fusion: str, seed: int, scales: Sequence[float], data: Sequence[Photograph]) -> dict[str, Any]:
    return {
        "task": "boundary_detection",
        "name": fusion,
        "scales": list(scales),
        "seed": seed,
        "steps": EPOCHS * len(data),
        "rate": RATE,
        "weight_decay": WEIGHT_DECAY,
        "checkpoint_every": CHECKPOINT_EVERY,
        "photographs": len(data),
    }


def build(name: str, seed: int, scales: Sequence[float]) -> nn.Module:
    torch.manual_seed(seed)
    return FUSIONS[name](scales)


@dataclass(frozen=True)
class Bench:
    """What all runs share: photographs, what HED says of them, and the folder of checkpoints and scores."""

    learnt: Sequence[Photograph]
    unseen: Sequence[Photograph]
    made: dict[str, Scales]
    scales: Sequence[float]
    output: Path

    def seen(self, photographs: Sequence[Photograph]) -> list[Scales]:
        return [self.made[p.name] for p in photographs]


def trained(name: str, seed: int, bench: Bench) -> tuple[nn.Module, dict[str, Any]]:
    """A fusion, and how it was trained, if it is one that is."""
    fusion = build(name, seed, bench.scales)
    if not list(fusion.parameters()):
        return fusion, {"seed": None}
    settings = settings_of(name, seed, bench.scales, bench.learnt)
    checkpoint = bench.output / f"{name}_seed{seed}.pt"
    losses, seconds = train(fusion, bench.learnt, bench.seen(bench.learnt), settings, checkpoint)
    last = float(np.mean(losses[-len(bench.learnt) :]))
    parameters = sum(p.numel() for p in fusion.parameters())
    return fusion, {"seed": seed, "parameters": parameters, "last_loss": last, "train_cpu_s": round(seconds, 1)}


def row_of(name: str, seed: int, bench: Bench) -> dict[str, Any]:
    """Train one fusion and score it by the fast matching."""

    def make() -> dict[str, Any]:
        fusion, how = trained(name, seed, bench)
        counts = bsds.count(maps_of(fusion, bench.seen(bench.unseen)), bench.unseen)
        best = [round(100 * bsds.image_f(c), 3) for c in counts]
        return {"fusion": name, **how, **bsds.scores(counts), "image_f": best}

    of = {**settings_of(name, seed, bench.scales, bench.learnt), "scored": len(bench.unseen)}
    row = remembered(bench.output / f"fast_{name}_seed{seed}.json", of, make)
    told = "  ".join(f"{key} {row[key]:.2f}" for key in ("ods", "ois", "precision", "recall"))
    print(f"{name:8}  seed {row['seed']}  {told}  (fast matching)", flush=True)
    return row


def exact_row(name: str, seed: int, best: float, bench: Bench) -> dict[str, Any]:
    """Score one fusion by the one-to-one matching, at thresholds that are `EXACT_ABOVE` the best of the fast."""
    thresholds = np.round(np.clip(best + np.array(EXACT_ABOVE), 0.01, 0.99), 2)

    def make() -> dict[str, Any]:
        fusion, _ = trained(name, seed, bench)
        maps = maps_of(fusion, bench.seen(bench.unseen))
        counts = bsds.count(maps, bench.unseen, bsds.count_exact, thresholds)
        return {"fusion": name, "thresholds": thresholds.tolist(), **bsds.scores(counts, thresholds)}

    of = {**settings_of(name, seed, bench.scales, bench.learnt), "thresholds": thresholds.tolist()}
    row = remembered(bench.output / f"exact_{name}_seed{seed}.json", of | {"scored": len(bench.unseen)}, make)
    told = "  ".join(f"{key} {row[key]:.2f}" for key in ("ods", "ois", "threshold"))
    print(f"{name:8}  {told}  (exact matching)", flush=True)
    return row


def against_mean(row: dict[str, Any], mean: dict[str, Any]) -> dict[str, float]:
    """How much the best F of an image is above that of the mean over the scales: mean and standard error, in points."""
    gains = np.array(row["image_f"]) - np.array(mean["image_f"])
    return {"f_above_mean": float(gains.mean()), "standard_error": float(gains.std(ddof=1) / math.sqrt(len(gains)))}


def compare(bench: Bench, exactly: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Every fusion with every seed; of `exactly`, the first seed by the exact matching too."""
    rows = [
        row_of(name, seed, bench)
        for name in FUSIONS
        for seed in (seeds if list(FUSIONS[name](bench.scales).parameters()) else seeds[:1])
    ]
    exact = [
        exact_row(r["fusion"], SEEDS[0], r["threshold"], bench)
        for r in rows
        if r["fusion"] in exactly and not r["seed"]
    ]
    (mean,) = (row for row in rows if row["fusion"] == "mean")
    settings = settings_of("all", -1, bench.scales, bench.learnt) | {"seeds": list(seeds)}
    del settings["name"], settings["seed"]
    command = "python -m examples.boundary_detection.train --data bsds500_test100.zip --compare --seeds "
    command += " ".join(map(str, seeds))
    return {
        **circumstances(),
        "command": command + "".join([" --exact", *(f" {name}" for name in exactly)] if exactly else ""),
        "settings": settings,
        "scored": len(bench.unseen),
        "fast": [{**{k: v for k, v in row.items() if k != "image_f"}, **against_mean(row, mean)} for row in rows],
        "exact": exact,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="bsds500_test100.zip; without it this says where it comes from")
    parser.add_argument("--fusion", choices=tuple(FUSIONS), default="ssr")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="ascending, with 1.0")
    parser.add_argument("--seed", type=int, default=SEEDS[0])
    parser.add_argument(
        "--backend", choices=("reference", "cpu", "triton"), help="of afa_kernels (default: its choice)"
    )
    parser.add_argument("--output", type=Path, default=Path("demo/boundary_detection"), help="folder of checkpoints")
    parser.add_argument("--compare", action="store_true", help="every fusion with each of --seeds, into --record")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help=f"of --compare (default: {SEEDS})")
    parser.add_argument(
        "--exact",
        nargs="+",
        choices=tuple(FUSIONS),
        default=[],
        metavar="FUSION",
        help="score these by the one-to-one matching too (pyedgeeval; 50 seconds a threshold for 50 images)",
    )
    parser.add_argument("--record", type=Path, help="with --compare: the JSON file to write")
    parser.add_argument("--head", type=Path, help=f"where to write the trained SSR head (shipped: {HEAD.name})")
    arguments = parser.parse_args(argv)
    scales = arguments.scales = tuple(arguments.scales)
    if list(scales) != sorted(set(scales)) or 1.0 not in scales or scales[0] <= 0:
        parser.error(f"--scales must be positive, ascend and contain 1.0, got {' '.join(map(str, scales))}")
    if arguments.head and (arguments.fusion != "ssr" or arguments.compare):
        parser.error("--head is written by --fusion ssr, without --compare")
    if arguments.data is None:
        raise SystemExit(f"error: --data PATH is needed, and no data was read. {bsds.WHERE}")
    try:
        data = bsds.read_bsds(arguments.data)
        made = cached_scales(HEDAtAScale(load_hed()).eval(), {p.name: p.image for p in data}, scales)
        bench = Bench(data[0::2], data[1::2], made, scales, arguments.output)
        with afa_kernels.use_backend(arguments.backend) if arguments.backend else nullcontext():
            if arguments.compare:
                record = compare(bench, arguments.exact, arguments.seeds)
                if arguments.record:
                    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
                return
            row = row_of(arguments.fusion, arguments.seed, bench)
            if arguments.head:
                fusion, _ = trained(arguments.fusion, arguments.seed, bench)
                settings = settings_of(arguments.fusion, arguments.seed, scales, bench.learnt)
                score = {key: value for key, value in row.items() if key != "image_f"}
                save(
                    arguments.head,
                    {"settings": settings, "score": score, "model": fusion.get_submodule("head").state_dict()},
                )
            if arguments.fusion in arguments.exact:
                exact_row(arguments.fusion, arguments.seed, row["threshold"], bench)
    except (ValueError, RuntimeError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
