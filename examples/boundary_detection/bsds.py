"""Images of BSDS500 with the boundaries that several people drew, and the scores of boundary maps against them.

Two matchings of predicted with drawn pixels, both within 0.0075 of the image's diagonal:

- "fast": a pixel is matched where the other map has any pixel that near. It takes a tenth of a second an image for all
  thresholds together, and is kinder than the benchmark: many pixels may share one partner.
- "exact": the benchmark's one-to-one assignment (pyedgeeval, optional), about a second an image and threshold.

Both thin the maps first by non-maximum suppression, as the benchmark does.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.morphology import thin

WHERE = (
    "The zip holds images/ID.jpg and boundaries/ID_0.png, ID_1.png, ... (white where person 0, 1, ... drew one), "
    "made from the images and groundTruth folders of BSDS500, https://www2.eecs.berkeley.edu/Research/Projects/CS/"
    "vision/grouping/resources.html (Arbelaez et al., PAMI 2011; for research and education, not shipped here)."
)
TOLERANCE = 0.0075  # of the image's diagonal
THRESHOLDS = np.arange(1, 100) / 100


@dataclass(frozen=True)
class Photograph:
    name: str
    image: np.ndarray  # (H, W, 3) uint8
    boundaries: np.ndarray  # (people, H, W) bool


def read_bsds(path: Path) -> list[Photograph]:
    """Every photograph of the zip, by name. Raises ValueError with the file and the reason where one cannot be had."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a zip ({error}). {WHERE}") from error
    with archive:
        people: dict[str, list[str]] = {}
        for member in sorted(archive.namelist()):
            if member.startswith("boundaries/") and member.endswith(".png"):
                people.setdefault(Path(member).stem.rpartition("_")[0], []).append(member)
        names = sorted(Path(m).stem for m in archive.namelist() if m.startswith("images/") and m.endswith(".jpg"))
        if not names:
            raise ValueError(f"{path} has no images/*.jpg. {WHERE}")
        return [_photograph(archive, path, name, people.get(name, [])) for name in names]


def _photograph(archive: zipfile.ZipFile, path: Path, name: str, people: Sequence[str]) -> Photograph:
    if not people:
        raise ValueError(f"{path} has images/{name}.jpg but no boundaries/{name}_0.png. {WHERE}")
    image = _pixels(archive, path, f"images/{name}.jpg", "RGB")
    maps = [_pixels(archive, path, member, "L") > 0 for member in people]
    for member, drawn in zip(people, maps, strict=True):
        if drawn.shape != image.shape[:2]:
            raise ValueError(f"{member} in {path} is {drawn.shape}, its image {image.shape[:2]} (height, width)")
    return Photograph(name, image, np.stack(maps))


def _pixels(archive: zipfile.ZipFile, path: Path, member: str, mode: str) -> np.ndarray:
    try:
        return np.array(Image.open(io.BytesIO(archive.read(member))).convert(mode))
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{member} in {path} cannot be read: {error}") from error


def suppressed(probability: np.ndarray, border: int = 5) -> np.ndarray:
    """Non-maximum suppression of a boundary map (H, W): 0 but on ridges, a pixel wide, across their direction.

    The direction is that of the strongest second derivative of the smoothed map; near the image's border the map fades
    out. As in Dollar and Zitnick's structured edges, which the benchmark's users apply.
    """
    smooth = ndimage.gaussian_filter(probability, 1.5)
    dy, dx = np.gradient(smooth)
    (dyy, dyx), (_, dxx) = np.gradient(dy), np.gradient(dx)
    angle = np.arctan2(np.where(dyx > 0, -dyy, dyy), dxx + 1e-5) % np.pi
    step_y, step_x = np.sin(angle), np.cos(angle)
    y, x = np.mgrid[: probability.shape[0], : probability.shape[1]]
    ridge = np.ones(probability.shape, bool)
    for sign in (-1, 1):
        beside = ndimage.map_coordinates(probability, (y + sign * step_y, x + sign * step_x), order=1, mode="nearest")
        ridge &= 1.01 * probability >= beside
    inside = np.minimum(np.minimum(y, y[::-1]), np.minimum(x, x[:, ::-1]))
    return np.where(ridge, probability * np.minimum(inside / border, 1), 0)


@dataclass(frozen=True)
class Counts:
    """For each threshold, pixels of one image: drawn and found of them, predicted and right of them."""

    drawn: np.ndarray
    found: np.ndarray
    predicted: np.ndarray
    right: np.ndarray


def count_fast(ridges: np.ndarray, boundaries: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> Counts:
    """Of non-maximum suppressed `ridges` (H, W) against `boundaries` (people, H, W), by the fast matching."""
    reach = TOLERANCE * float(np.hypot(*ridges.shape))
    radius = int(reach)
    offsets = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (offsets**2).sum(0) <= reach**2
    strongest = ndimage.maximum_filter(ridges, footprint=disc, mode="constant")
    is_near = ndimage.distance_transform_edt(~boundaries.any(0)) <= reach

    def at_least(values: np.ndarray) -> np.ndarray:
        return len(values) - np.searchsorted(np.sort(values), thresholds)

    drawn = np.full(len(thresholds), int(boundaries.sum()))
    found = sum((at_least(strongest[person]) for person in boundaries), np.zeros(len(thresholds), int))
    return Counts(drawn, found, at_least(ridges[ridges > 0]), at_least(ridges[(ridges > 0) & is_near]))


def count_exact(ridges: np.ndarray, boundaries: np.ndarray, thresholds: np.ndarray) -> Counts:
    """As `count_fast`, by the one-to-one assignment of pyedgeeval."""
    try:
        from pyEdgeEval._lib import correspond_pixels
    except ImportError as error:
        raise ImportError(
            "the exact matching needs pyedgeeval: pip install Cython numpy && pip install --no-deps pyedgeeval==0.2.8"
        ) from error
    counts = np.zeros((4, len(thresholds)), int)
    for k, threshold in enumerate(thresholds):
        predicted = thin(ridges >= threshold)
        right = np.zeros(predicted.shape, bool)
        for person in boundaries:
            of_predicted, of_drawn, _, _ = correspond_pixels(predicted, person, max_dist=TOLERANCE)
            right |= of_predicted > 0
            counts[1, k] += (of_drawn > 0).sum()
        counts[:, k] += [boundaries.sum(), 0, predicted.sum(), right.sum()]
    return Counts(*counts)


def scores(counts: Iterable[Counts], thresholds: np.ndarray = THRESHOLDS) -> dict[str, float]:
    """ODS, the best F of all images at one threshold, and OIS, at the best threshold of each image, in per cent.

    With the threshold of ODS, its precision and recall.
    """
    counts = list(counts)
    total = Counts(*(sum(getattr(c, f) for c in counts) for f in ("drawn", "found", "predicted", "right")))
    best = [(int(np.argmax(_f(c))), c) for c in counts]
    ois = Counts(*(sum(getattr(c, f)[k] for k, c in best) for f in ("drawn", "found", "predicted", "right")))
    k = int(np.argmax(_f(total)))
    return {
        "ods": 100 * float(_f(total)[k]),
        "ois": 100 * float(_f(ois)),
        "threshold": float(thresholds[k]),
        "precision": 100 * float(total.right[k] / max(1, total.predicted[k])),
        "recall": 100 * float(total.found[k] / max(1, total.drawn[k])),
    }


def image_f(counts: Counts) -> float:
    """The best F of one image over the thresholds."""
    return float(_f(counts).max())


def _f(counts: Counts) -> np.ndarray:
    precision = counts.right / np.maximum(counts.predicted, 1)
    recall = counts.found / np.maximum(counts.drawn, 1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def count(
    maps: Iterable[np.ndarray],
    photographs: Sequence[Photograph],
    counting: Callable[[np.ndarray, np.ndarray, np.ndarray], Counts] = count_fast,
    thresholds: np.ndarray = THRESHOLDS,
) -> list[Counts]:
    """The counts of a boundary map (H, W) for each photograph."""
    return [
        counting(suppressed(probability), photograph.boundaries, thresholds)
        for probability, photograph in zip(maps, photographs, strict=True)
    ]
