"""Pictures of cell nuclei with a mask for each, their three classes, and scores."""

from __future__ import annotations

import functools
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from examples.wheel import read_from_wheel

WHERE = (
    "The zip holds NNN.png, a picture of 256 x 256 pixels, and NNN_mask.png, where the nuclei are 1, 2, ...: tiles of "
    "the 2018 Data Science Bowl with corrected masks, BBBC038, https://bbbc.broadinstitute.org/BBBC038 (CC0, not "
    "shipped here). --data stardist takes the one picture in the wheel of the PyPI package stardist instead."
)
CLASSES = ("background", "nucleus", "boundary")

STARDIST = "stardist==0.9.2"
STARDIST_FILES = {
    "stardist/data/images/img2d.tif": "f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750",
    "stardist/data/images/mask2d.tif": "59ad5e820b7982ca9d13e946fa6e7f64e2714899e00a2ae6c69aa79aad53d46f",
}


@dataclass(frozen=True)
class Picture:
    name: str
    image: np.ndarray  # (H, W) float32, about 0 to 1
    nuclei: np.ndarray  # (H, W) integers: 0, or the number of the nucleus

    @functools.cached_property
    def target(self) -> np.ndarray:
        return classes_of(self.nuclei)


def classes_of(nuclei: np.ndarray) -> np.ndarray:
    """0 background, 1 nucleus, 2 boundary: where two nuclei are within two pixels of one another, (H, W) uint8."""
    largest = ndimage.maximum_filter(nuclei, 5)
    smallest = ndimage.minimum_filter(np.where(nuclei > 0, nuclei, np.iinfo(nuclei.dtype).max), 5)
    is_between = (largest > 0) & (smallest < largest)
    return np.where(is_between, 2, nuclei > 0).astype(np.uint8)


def normalised(image: np.ndarray) -> np.ndarray:
    """0 at the first percentile, 1 at the last but 0.2, at most 1.5."""
    low, high = np.percentile(image, (1, 99.8))
    return np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), -0.5, 1.5).astype(np.float32)


def read_tiles(path: Path) -> list[Picture]:
    """Every tile of the zip, by name. Raises ValueError with the file and the reason where one cannot be had."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a zip ({error}). {WHERE}") from error
    with archive:
        members = set(archive.namelist())
        names = sorted(m.removesuffix("_mask.png") for m in members if m.endswith("_mask.png"))
        if not names:
            raise ValueError(f"{path} has no *_mask.png. {WHERE}")
        return [_tile(archive, path, name) for name in names]


def _tile(archive: zipfile.ZipFile, path: Path, name: str) -> Picture:
    image, nuclei = (_pixels(archive, path, f"{name}{end}.png") for end in ("", "_mask"))
    if image.shape != nuclei.shape:
        raise ValueError(f"{name}.png in {path} is {image.shape}, {name}_mask.png {nuclei.shape} (height, width)")
    return Picture(name, normalised(image), nuclei)


def _pixels(archive: zipfile.ZipFile, path: Path, member: str) -> np.ndarray:
    try:
        return np.array(Image.open(io.BytesIO(archive.read(member))).convert("L"))
    except (OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{member} in {path} cannot be read: {error}") from error


def stardist_picture() -> Picture:
    """The 512 x 512 picture of the stardist wheel with the masks that people drew (BSD-3; the picture CC0)."""
    import tifffile

    image, nuclei = (
        tifffile.imread(io.BytesIO(read_from_wheel(STARDIST, member, digest)))
        for member, digest in STARDIST_FILES.items()
    )
    return Picture("stardist", normalised(image), nuclei.astype(np.int32))


def confusion(labels: np.ndarray, target: np.ndarray, count: int = len(CLASSES)) -> np.ndarray:
    """How many pixels of each of `count` classes (rows) got each label (columns)."""
    return np.bincount(count * target.ravel().astype(int) + labels.ravel(), minlength=count**2).reshape(count, count)


def ious(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, in per cent."""
    both = np.diag(confusion)
    return 100 * both / np.maximum(confusion.sum(0) + confusion.sum(1) - both, 1)


def nuclei_of(labels: np.ndarray, smallest: int = 20) -> np.ndarray:
    """The nuclei of labelled pixels: connected pixels of class 1, grown by up to two pixels into class 2."""
    found, _ = ndimage.label(labels == 1)
    sizes = np.bincount(found.ravel())
    found[(sizes < smallest)[found]] = 0
    distance, (y, x) = ndimage.distance_transform_edt(found == 0, return_indices=True)
    return np.where((distance <= 2) & (labels == 2), found[y, x], found)


def f_of_nuclei(found: np.ndarray, nuclei: np.ndarray, least: float = 0.5) -> float:
    """2 hits / (found + drawn) in per cent; a hit is a pair whose intersection is more than `least` of its union."""
    _, found = np.unique(found, return_inverse=True)
    _, nuclei = np.unique(nuclei, return_inverse=True)
    found, nuclei = (x.reshape(-1) for x in (found, nuclei))
    shape = found.max() + 1, nuclei.max() + 1
    both = np.bincount(found * shape[1] + nuclei, minlength=shape[0] * shape[1]).reshape(shape)
    union = both.sum(1, keepdims=True) + both.sum(0) - both
    hits = int((both / np.maximum(union, 1) > least)[1:, 1:].sum())
    return 100 * 2 * hits / max(1, sum(shape) - 2)
