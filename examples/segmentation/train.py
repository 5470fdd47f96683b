"""Train a small network to find cell nuclei and the boundaries between them, and the attention that fuses its scales.

    python -m examples.segmentation.train --data dsb2018_256.zip
    python -m examples.segmentation.train --data stardist        the one picture that PyPI has: learns on its left half

First the network at one scale, its levels fused by --levels; then, the network frozen, the head of --fusion over
--scales. A run that was killed goes on from its checkpoint when it is started again. --compare trains every way to
fuse the levels, with the same steps, and writes one record of all.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import afa_kernels
from afa_kernels.nn import MultiScale, ScaleSpaceRendering, SpatialAttention
from benchmarks.run import circumstances
from examples import tables
from examples.segmentation import nuclei
from examples.segmentation.network import CHANNELS, LEVELS, NucleiNet
from examples.segmentation.nuclei import CLASSES, Picture
from examples.training import load, optimise, remembered, save

# ---- configuration ----
SCALES = (0.5, 1.0, 2.0)
STEPS, BATCH = 3000, 8
HEAD_STEPS = 300
COMPARED_STEPS, COMPARED_BATCH = 1500, 4
CROP = 96
RATE = 3e-3  # of Adam; falls to 0 by half a cosine
WEIGHT_DECAY = 1e-4
CLASS_WEIGHTS = (1.0, 1.0, 10.0)  # few pixels are boundary
CHECKPOINT_EVERY = 100  # steps
TEST_EVERY = 5  # every fifth tile is for scoring alone
SEEDS = (0, 1, 2)
COMPARED = ("concat", "sum", "sum_convs", "afa", "afa_bare", "afa_quiet", "afa_calm", "afa_calm_quiet")
MODEL = Path(__file__).parent / "nuclei.pt"
# -----------------------


def batch_at(step: int, settings: dict[str, Any], pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
    """Images (N, 1, crop, crop) and targets (N, crop, crop) of pictures cut, zoomed, turned and lit at random."""
    random, crop = np.random.default_rng((settings["seed"], settings["steps"], step)), settings["crop"]
    images, targets = [], []
    for _ in range(settings["batch"]):
        picture = pictures[int(random.integers(len(pictures)))]
        side = min(round(crop / random.uniform(0.7, 1.6)), *picture.image.shape)
        y, x = (random.integers(length - side + 1) for length in picture.image.shape)
        turns, is_mirrored = int(random.integers(4)), random.integers(2)
        gain, power, noise = random.uniform(0.7, 1.2), random.uniform(0.7, 1.4), random.uniform(0, 0.04)
        pieces = []
        for pixels in (picture.image, picture.target):
            piece = np.rot90(pixels[y : y + side, x : x + side], turns)
            pieces.append(torch.from_numpy((piece[:, ::-1] if is_mirrored else piece).copy())[None, None].float())
        image = F.interpolate(pieces[0], size=(crop, crop), mode="bilinear", align_corners=False)
        image = gain * image.clamp(min=0) ** power
        images.append(image + noise * torch.from_numpy(random.standard_normal(image.shape)).float())
        targets.append(F.interpolate(pieces[1], size=(crop, crop), mode="nearest-exact")[:, 0].long())
    return torch.cat(images), torch.cat(targets)


def train_network(
    pictures: Sequence[Picture], settings: dict[str, Any], checkpoint: Path
) -> tuple[NucleiNet, list[float], float]:
    """The network after settings["steps"], the loss of each, and the seconds of CPU they took."""
    torch.manual_seed(settings["seed"])
    network = NucleiNet(settings["levels"]).train()
    weight = torch.tensor(CLASS_WEIGHTS)

    def loss_at(step: int) -> Tensor:
        image, target = batch_at(step, settings, pictures)
        scores = F.interpolate(network(image)[0], size=target.shape[1:], mode="bilinear", align_corners=False)
        return F.cross_entropy(scores, target, weight)

    return network, *optimise(network, loss_at, settings, checkpoint)


def multi_scale(network: nn.Module, fusion: str, scales: Sequence[float]) -> MultiScale:
    """`network` at `scales`, fused by "ssr", "hma", "mean" or, at scale 1.0 alone, "single"."""
    if fusion in ("single", "mean"):
        return MultiScale(network, (1.0,) if fusion == "single" else scales, "mean", multiple=16)
    head = {"ssr": ScaleSpaceRendering(CHANNELS[0]), "hma": SpatialAttention(CHANNELS[0])}[fusion]
    return MultiScale(network, scales, fusion, head, multiple=16)


def load_model(path: Path = MODEL) -> MultiScale:
    """What --model wrote, in evaluation mode. Raises ValueError with the reason where it is none of that."""
    found = load(path, None, ("model",))
    try:
        network = NucleiNet(found["settings"]["levels"])
        network.load_state_dict(found["model"]["network"])
        model = multi_scale(network, found["settings"]["fusion"], found["settings"]["scales"])
        if model.head is not None:
            model.head.load_state_dict(found["model"]["head"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no model of this script: {reason}") from error
    return model.eval().requires_grad_(False)


def train_head(
    network: NucleiNet, pictures: Sequence[Picture], settings: dict[str, Any], checkpoint: Path
) -> MultiScale:
    """The head over the scales of a network that is frozen, its norms too."""
    torch.manual_seed(settings["seed"])
    model = multi_scale(network.eval().requires_grad_(False), settings["fusion"], settings["scales"]).train()
    network.eval()
    weight = torch.tensor(CLASS_WEIGHTS)

    def loss_at(step: int) -> Tensor:
        image, target = batch_at(step, settings, pictures)
        return F.cross_entropy(model(image), target, weight)

    if list(p for p in model.parameters() if p.requires_grad):
        optimise(model, loss_at, settings, checkpoint)
    return model.eval()


@torch.no_grad()
def score(model: MultiScale, pictures: Sequence[Picture]) -> dict[str, Any]:
    """IoU of each class over all pictures, their mean, and the mean F of nuclei of a picture, in per cent."""
    counted, f = np.zeros((len(CLASSES),) * 2, int), []
    for picture in pictures:
        labels = model.labels(torch.from_numpy(picture.image)[None, None])
        found = labels[0].numpy()
        counted += nuclei.confusion(found, picture.target)
        f.append(nuclei.f_of_nuclei(nuclei.nuclei_of(found), picture.nuclei))
    iou = nuclei.ious(counted)
    return {"miou": float(iou.mean()), **dict(zip(CLASSES, map(float, iou))), "nuclei_f": float(np.mean(f))}


def told(row: dict[str, Any]) -> str:
    return "  ".join(f"{key} {row[key]:.2f}" for key in ("miou", *CLASSES, "nuclei_f"))


def settings_of(name: str, levels: str, seed: int, data: Path, steps: int, learnt: Sequence[Picture]) -> dict[str, Any]:
    return {
        "task": "segmentation",
        "name": name,
        "levels": levels,
        "seed": seed,
        "data": data.name,
        "pictures": len(learnt),
        "steps": steps,
        "batch": BATCH,
        "crop": CROP,
        "rate": RATE,
        "weight_decay": WEIGHT_DECAY,
        "class_weights": list(CLASS_WEIGHTS),
        "checkpoint_every": CHECKPOINT_EVERY,
    }


def read(data: Path) -> tuple[list[Picture], list[Picture]]:
    """What is learnt of, and what is scored: every fifth tile, or the halves of the one picture."""
    if data.name != "stardist":
        tiles = nuclei.read_tiles(data)
        return [t for i, t in enumerate(tiles) if i % TEST_EVERY], tiles[::TEST_EVERY]
    whole = nuclei.stardist_picture()
    middle = whole.image.shape[1] // 2
    left, right = (
        Picture(name, np.ascontiguousarray(whole.image[:, part]), np.ascontiguousarray(whole.nuclei[:, part]))
        for name, part in (("left", slice(middle)), ("right", slice(middle, None)))
    )
    return [left], [right]


def compare(arguments: argparse.Namespace, learnt: Sequence[Picture], unseen: Sequence[Picture]) -> dict[str, Any]:
    rows = []
    for levels, seed in itertools.product(arguments.levels, arguments.seeds):
        settings = settings_of(f"{levels} {seed}", levels, seed, arguments.data, arguments.steps, learnt)
        settings["batch"] = COMPARED_BATCH
        path = arguments.output / f"compare_{levels}_seed{seed}.pt"

        def make(settings: dict[str, Any] = settings, path: Path = path) -> dict[str, Any]:
            network, losses, seconds = train_network(learnt, settings, path)
            row = {"levels": settings["levels"], "seed": settings["seed"], "loss": float(np.mean(losses[-50:]))}
            row |= {"train_cpu_s": round(seconds, 1), "parameters": sum(p.numel() for p in network.parameters())}
            return row | score(multi_scale(network, "single", SCALES).eval(), unseen)

        row = remembered(path.with_suffix(".json"), settings | {"scored": len(unseen)}, make)
        print(f"{levels:10}  seed {seed}  loss {row['loss']:.4f}  {told(row)}", flush=True)
        rows.append(row)
    print(f"\n{tables.levels(rows)}")
    return {
        **circumstances(),
        "command": f"python -m examples.segmentation.train --data {arguments.data.name} --compare "
        f"--levels {' '.join(arguments.levels)} --steps {arguments.steps} "
        f"--seeds {' '.join(map(str, arguments.seeds))}",
        "settings": settings_of("all", "all", -1, arguments.data, arguments.steps, learnt)
        | {"seeds": arguments.seeds, "batch": COMPARED_BATCH},
        "scored": len(unseen),
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="dsb2018_256.zip, or stardist; without it this says where it is from")
    parser.add_argument("--levels", nargs="+", choices=tuple(LEVELS), help="how the levels are fused (default: afa)")
    parser.add_argument("--fusion", choices=("ssr", "hma", "mean", "single"), default="ssr", help="of the scales")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="ascending, with 1.0")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}; with --compare {COMPARED_STEPS}")
    parser.add_argument("--seed", type=int, default=SEEDS[0])
    parser.add_argument("--backend", choices=("reference", "cpu", "triton"), help="default: afa_kernels' own choice")
    parser.add_argument("--output", type=Path, default=Path("demo/segmentation"), help="folder of checkpoints")
    parser.add_argument("--compare", action="store_true", help="each of --levels with each of --seeds, into --record")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help=f"of --compare (default: {SEEDS})")
    parser.add_argument("--record", type=Path, help="the JSON file to write")
    parser.add_argument("--model", type=Path, help=f"where to write the trained model (shipped: {MODEL.name})")
    arguments = parser.parse_args(argv)
    arguments.levels = arguments.levels or list(COMPARED if arguments.compare else ("afa",))
    arguments.steps = arguments.steps or (COMPARED_STEPS if arguments.compare else STEPS)
    if len(arguments.levels) > 1 and not arguments.compare:
        parser.error("several --levels need --compare")
    if arguments.data is None:
        raise SystemExit(f"error: --data PATH is needed, and no data was read. {nuclei.WHERE}")
    try:
        with afa_kernels.use_backend(arguments.backend) if arguments.backend else nullcontext():
            record = _run(arguments)
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error
    if arguments.record:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    learnt, unseen = read(arguments.data)
    if arguments.compare:
        return compare(arguments, learnt, unseen)
    (levels,), seed, steps, scales = arguments.levels, arguments.seed, arguments.steps, tuple(arguments.scales)
    settings = settings_of(levels, levels, seed, arguments.data, steps, learnt)
    rows, heads = [], {}
    torch.manual_seed(seed)
    print(f"untrained  {told(score(multi_scale(NucleiNet(levels), 'single', SCALES).eval(), unseen))}", flush=True)
    checkpoint = arguments.output / f"{arguments.data.stem}_{levels}_seed{seed}.pt"
    network, _, seconds = train_network(learnt, settings, checkpoint)
    for fusion in dict.fromkeys(("single", "mean", arguments.fusion)):
        of_head = {**settings, "name": fusion, "fusion": fusion, "scales": list(scales), "steps": HEAD_STEPS}
        checkpoint = arguments.output / f"{arguments.data.stem}_{levels}_{fusion}_seed{seed}.pt"
        model = train_head(network, learnt, of_head, checkpoint)
        heads[fusion] = model.head
        rows.append({"scales": fusion, **score(model, unseen)})
        print(f"{fusion:9}  {told(rows[-1])}", flush=True)
    record = {
        **circumstances(),
        "command": f"python -m examples.segmentation.train --data {arguments.data.name} --levels {levels} "
        f"--fusion {arguments.fusion} --steps {steps} --seed {seed}",
        "settings": settings | {"fusion": arguments.fusion, "scales": list(scales), "head_steps": HEAD_STEPS},
        "scored": len(unseen),
        "train_cpu_s": round(seconds, 1),
        "rows": rows,
    }
    if arguments.model:
        head = heads[arguments.fusion]
        state = {"network": network.state_dict(), "head": head.state_dict() if head is not None else {}}
        halved = {k: {n: t.half() if t.is_floating_point() else t for n, t in s.items()} for k, s in state.items()}
        save(arguments.model, {"settings": record["settings"], "rows": rows, "model": halved})
    return record


if __name__ == "__main__":
    main()
