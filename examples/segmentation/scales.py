"""Fuse the scales of a frozen ESPNet on CamVid: train HMA's and SSR's heads, and score them, the mean and one scale.

    python -m examples.segmentation.scales --data camvid.zip --weights espnet_p_2_q_8_camvid.pth

Both heads are trained in the same run, of the same images; a run that was killed goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import afa_kernels
from afa_kernels.nn import MultiScale, ScaleSpaceRendering, SpatialAttention
from benchmarks.run import circumstances
from examples.segmentation import camvid, espnet, nuclei
from examples.segmentation.camvid import CLASSES, VOID, Scene
from examples.training import optimise

# ---- configuration ----
SCALES = (0.8, 1.0, 1.6)  # of four triples the best for the mean, on every fifth validation image
MULTIPLE = 40  # image sizes are multiples of it, so that scaled ones are multiples of 8
STEPS = 300  # of one image each
RATE = 2e-3  # of Adam; falls to 0 by half a cosine
WEIGHT_DECAY = 1e-4
CHECKPOINT_EVERY = 25  # steps
WIDTH = 16  # channels inside a head
# -----------------------


class Fusions(nn.Module):
    """Ways to fuse the scales of one network, which runs once for all of them.

    `fusions(image)` -> for each way probabilities (N, K, H, W) of an image (N, 3, H, W).
    """

    def __init__(self, network: nn.Module, scales: Sequence[float]) -> None:
        super().__init__()
        heads = {"hma": SpatialAttention(espnet.FEATURES, bottleneck_channels=WIDTH)}
        heads["ssr"] = ScaleSpaceRendering(espnet.FEATURES, WIDTH)
        ways = {way: MultiScale(network, scales, way, heads.get(way), multiple=MULTIPLE) for way in ("mean", *heads)}
        ways = {"single": MultiScale(network, (1.0,), "mean", multiple=MULTIPLE), **ways}
        self.ways: Any = nn.ModuleDict(ways)
        self.one = list(scales).index(1.0)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        single, mean, hma, ssr = self.ways.values()
        results, logits = ssr.run_scales(image)
        each, size = [result[0] for result in results], (image.shape[2], image.shape[3])
        return {
            "single": single.fuse_scales([each[self.one]], [], size),
            "mean": mean.fuse_scales(each, [], size),
            "hma": hma.fuse_scales(each, [hma.attend(features) for _, features in results], size),
            "ssr": ssr.fuse_scales(each, logits, size),
        }


def batch_of(scene: Scene, is_mirrored: bool) -> tuple[Tensor, Tensor]:
    """Image (1, 3, H, W) in [0, 1] and target (1, H, W)."""
    pixels, target = (x[:, ::-1].copy() if is_mirrored else x for x in (scene.image, scene.target))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, torch.from_numpy(target)[None].long()


def train(fusions: Fusions, scenes: Sequence[Scene], settings: dict[str, Any], checkpoint: Path) -> float:
    """Train the heads, the network frozen; the seconds of CPU they took."""

    def loss_at(step: int) -> Tensor:
        random = np.random.default_rng((settings["seed"], step))
        image, target = batch_of(scenes[int(random.integers(len(scenes)))], bool(random.integers(2)))
        fused = fusions(image)
        hma, ssr = (F.nll_loss(fused[way].clamp(min=1e-6).log(), target, ignore_index=VOID) for way in ("hma", "ssr"))
        return hma + ssr

    for way in ("hma", "ssr"):
        fusions.get_submodule(f"ways.{way}.head").train()
    return optimise(fusions, loss_at, settings, checkpoint)[1]


@torch.no_grad()
def score(fusions: Fusions, scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """For each way the IoU of each class over all scenes, and their mean, in per cent; void does not count."""
    fusions.eval()
    counted = dict.fromkeys(fusions.ways, np.zeros((len(CLASSES),) * 2, int))
    for scene in tqdm(scenes, "scoring", unit="image", disable=None, leave=False):
        counts = scene.target != VOID
        for way, fused in fusions(batch_of(scene, False)[0]).items():
            labels = fused.argmax(1)[0].numpy()
            counted[way] = counted[way] + nuclei.confusion(labels[counts], scene.target[counts], len(CLASSES))
    rows = []
    for way, confusion in counted.items():
        iou = nuclei.ious(confusion)
        rows.append({"scales": way, "miou": float(iou.mean()), **dict(zip(CLASSES, map(float, iou)))})
    return rows


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    learnt, unseen = (camvid.read_split(arguments.data, split) for split in ("train", "test"))
    colours = np.concatenate([scene.image[::4, ::4].reshape(-1, 3) for scene in learnt]) / 255
    network = espnet.load_espnet(arguments.weights, colours.mean(0).tolist(), colours.std(0).tolist())
    torch.manual_seed(arguments.seed)
    fusions = Fusions(network, arguments.scales).eval()
    settings = {
        "task": "scales of ESPNet",
        "name": "heads",
        "scales": list(arguments.scales),
        "seed": arguments.seed,
        "scenes": len(learnt),
        "steps": arguments.steps,
        "rate": RATE,
        "weight_decay": WEIGHT_DECAY,
        "checkpoint_every": CHECKPOINT_EVERY,
    }
    seconds = train(fusions, learnt, settings, arguments.output / f"espnet_seed{arguments.seed}.pt")
    rows = score(fusions, unseen)
    for row in rows:
        print("  ".join([f"{row['scales']:6}", *(f"{key} {row[key]:.1f}" for key in ("miou", *CLASSES))]), flush=True)
    return {
        **circumstances(),
        "command": f"python -m examples.segmentation.scales --data {arguments.data.name} --weights "
        f"{arguments.weights.name} --scales {' '.join(map(str, arguments.scales))} --steps {arguments.steps} "
        f"--seed {arguments.seed}",
        "settings": settings,
        "scored": len(unseen),
        "train_cpu_s": round(seconds, 1),
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder or zip of CamVid; without it this says where it comes from")
    parser.add_argument("--weights", type=Path, help="espnet_p_2_q_8_camvid.pth; without it the same")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="ascending, with 1.0")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=("reference", "cpu", "triton"), help="default: afa_kernels' own choice")
    parser.add_argument("--output", type=Path, default=Path("demo/segmentation"), help="folder of checkpoints")
    parser.add_argument("--record", type=Path, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    if (
        list(arguments.scales) != sorted(set(arguments.scales))
        or 1.0 not in arguments.scales
        or arguments.scales[0] <= 0
    ):
        parser.error(f"--scales must be positive, ascend and contain 1.0, got {' '.join(map(str, arguments.scales))}")
    for name, where in (("data", camvid.WHERE), ("weights", espnet.WHERE)):
        if getattr(arguments, name) is None:
            raise SystemExit(f"error: --{name} PATH is needed, and nothing was read. {where}")
    try:
        with afa_kernels.use_backend(arguments.backend) if arguments.backend else nullcontext():
            record = run(arguments)
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error
    if arguments.record:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
