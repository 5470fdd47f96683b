"""What HED says of an image at several scales: made once, kept in a temporary folder, and read at every step."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from examples.boundary_detection.hed import HED, WEIGHTS_SHA256
from examples.training import save

FEATURES = 5  # channels: the logits of HED's five stages
FEATURE_STRIDE = 2


@dataclass(frozen=True)
class Scales:
    """Of one image of H x W pixels, coarse to fine."""

    predictions: list[Tensor]  # (1, 1, h_k, w_k): boundary probabilities, each at its own resolution
    features: list[Tensor]  # (1, FEATURES, H / 2, W / 2): what the attention head sees, all at that of scale 1
    size: tuple[int, int]  # H, W

    def to(self, dtype: torch.dtype) -> Scales:
        return Scales([p.to(dtype) for p in self.predictions], [f.to(dtype) for f in self.features], self.size)

    def flipped(self) -> Scales:
        return Scales([p.flip(-1) for p in self.predictions], [f.flip(-1) for f in self.features], self.size)


class HEDAtAScale(nn.Module):
    """Images (N, 3, H, W) in [0, 1] -> boundary probabilities (N, 1, H, W) and features (N, 5, H / 2, W / 2).

    The features are the logits of HED's five stages. The image is padded to a multiple of 16 pixels, the stride of the
    deepest stage, and what comes out is cropped: without that HED shifts the boundaries by up to a pixel, and by
    another amount at every scale.
    """

    def __init__(self, hed: HED) -> None:
        super().__init__()
        self.hed = hed

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % 16, 0, -height % 16), mode="replicate")
        sides, size = self.hed.sides_of(padded), (padded.shape[2], padded.shape[3])
        logits = self.hed.fused(sides, size)[..., :height, :width]
        half = size[0] // FEATURE_STRIDE, size[1] // FEATURE_STRIDE
        features = torch.cat([_resized(side, half) for side in sides], dim=1)
        return logits.sigmoid(), features[..., : -(-height // FEATURE_STRIDE), : -(-width // FEATURE_STRIDE)]


@torch.no_grad()
def scales_of(network: HEDAtAScale, image: Tensor, scales: Sequence[float], progress: bool = False) -> Scales:
    """`network` on an image (1, 3, H, W) resized to each of `scales`, which contain 1.0."""
    height, width = image.shape[2], image.shape[3]
    predictions, features = [], []
    for scale in tqdm(scales, "HED", unit="scale", disable=None if progress else True):
        size = max(1, int(scale * height + 0.5)), max(1, int(scale * width + 0.5))
        prediction, feature = network(_resized(image, size))
        predictions.append(prediction)
        features.append(feature)
    at = features[list(scales).index(1.0)].shape[2:]
    return Scales(predictions, [_resized(f, (at[0], at[1])) for f in features], (height, width))


def cached_scales(
    network: HEDAtAScale, images: dict[str, np.ndarray], scales: Sequence[float], folder: Path | None = None
) -> dict[str, Scales]:
    """`scales_of` each image (H, W, 3) in uint8 by name, in float16, from files in a temporary folder where it is."""
    key = hashlib.sha256(f"{WEIGHTS_SHA256} {tuple(scales)}".encode()).hexdigest()[:12]
    folder = folder or Path(tempfile.gettempdir()) / f"afa_kernels_hed_{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _one(network, image, scales, folder) for name, image in _bar(images)}


def _one(network: HEDAtAScale, image: np.ndarray, scales: Sequence[float], folder: Path) -> Scales:
    digest = hashlib.sha256(image.tobytes()).hexdigest()[:16]
    path = folder / f"{digest}.pt"
    if not path.exists():
        device = next(network.parameters()).device
        x = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255
        made = scales_of(network, x, scales).to(torch.float16)
        save(path, {"predictions": made.predictions, "features": made.features, "size": made.size})
    found = torch.load(path, weights_only=True)
    return Scales(found["predictions"], found["features"], tuple(found["size"]))


def _bar(images: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    yield from tqdm(images.items(), "HED, once", unit="image", disable=None)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if (x.shape[2], x.shape[3]) == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
