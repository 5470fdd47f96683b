"""Find the nuclei of a real picture at three scales, and fuse what is found by scale-space rendering.

The picture and the masks that people drew are those in the wheel of the PyPI package stardist. The network, whose
levels are fused by AFA, and the attention over its scales were trained on other pictures (`train.py`, MODEL_CARD.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import afa_kernels
from afa_kernels.nn import AttentiveFusion
from examples.figures import draw_panels
from examples.segmentation import nuclei
from examples.segmentation.train import MODEL, load_model, multi_scale, score, told

CELLS = 160  # how many pixels of the picture's side the closer look shows


def spatial_attention(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """The spatial attention (N, 1, h, w) of every AFA of `network` on `image`, by its size, coarse to fine."""
    found: dict[str, Tensor] = {}

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, AttentiveFusion)
        found["x".join(map(str, given[0].shape[2:]))] = module.sa(given[0])

    handles = [m.register_forward_pre_hook(keep) for m in network.modules() if isinstance(m, AttentiveFusion)]
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    return found


def coloured(labels: np.ndarray) -> np.ndarray:
    """Black, white and red for background, nucleus and boundary: (H, W, 3)."""
    return np.array([[0, 0, 0], [1, 1, 1], [0.85, 0.1, 0.1]])[labels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="what train.py --model wrote (default: as shipped)")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="directory for the pictures (default: demo)")
    arguments = parser.parse_args()
    try:
        model = load_model(arguments.model)
        picture = nuclei.stardist_picture()
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error

    count = len(np.unique(picture.nuclei)) - 1
    print(f"Nuclei of a picture of {picture.image.shape[1]} x {picture.image.shape[0]} pixels, scored on {count} masks")
    assert model.network is not None
    models = {fusion: multi_scale(model.network, fusion, model.scales).eval() for fusion in ("single", "mean")}
    models["ssr"] = model
    print("  IoU of each class, their mean, and F of nuclei found with IoU > 0.5, in per cent")
    for name, contender in models.items():
        print(f"  {name:6}  {told(score(contender, [picture]))}")

    image = torch.from_numpy(picture.image)[None, None]
    size = picture.image.shape[0], picture.image.shape[1]
    with torch.no_grad():
        labels = model.labels(image)
        assert isinstance(labels, Tensor)
        _, logits = model.scales_of(image)
        weights, transmittance = afa_kernels.scale_space_weights(torch.cat(logits, dim=1))
        attention = spatial_attention(model.network, image)

    def shown(x: Tensor) -> np.ndarray:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()

    grey = np.clip(np.repeat(picture.image[..., None], 3, axis=2), 0, 1) ** 0.6
    found = {"Picture": grey, "Truth": coloured(picture.target), "Prediction": coloured(labels[0].numpy())}
    closer = {f"{name}, closer": x[:CELLS, :CELLS] for name, x in found.items()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    paths = [arguments.output / name for name in ("nuclei.png", "nuclei_attention.png")]
    title = "Nuclei (white) and the boundaries between them (red)"
    draw_panels(paths[0], title, found | closer, (3, 3), None, None)
    panels = {f"Spatial attention at {name}": shown(x) for name, x in attention.items()}
    panels |= {
        f"Weight of scale {scale:g}: mean {w.mean():.2f}": shown(w[:, None])
        for scale, w in zip(model.scales, weights.unbind(1), strict=True)
    }
    print(f"  left over behind the last scale: {transmittance.mean():.2f} of a pixel, on the mean")
    title = "What each fusion of levels takes of its shallow map, and what the rendering takes of each scale"
    draw_panels(paths[1], title, panels, (len(attention), len(model.scales)), "viridis", "attention, or weight")
    print(f"  Pictures: {', '.join(map(str, paths))}")


if __name__ == "__main__":
    main()
