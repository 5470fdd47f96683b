"""Networks by name, and over an encoder of one's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from torch import nn

from afa_kernels.models.afa import (
    AFAOCRSegmentationSSR,
    AFASegmentation,
    AFASegmentationHMA,
    AFASegmentationSSR,
)
from afa_kernels.models.decoders import AFAFCN, AFAHRNet, AFAUNet
from afa_kernels.models.dla import DLA, VARIANTS
from afa_kernels.models.dla_seg import DLASegmentation
from afa_kernels.models.encoder import as_encoder

NETWORKS: dict[str, Callable[..., Any]] = {
    "{}_seg": DLASegmentation,
    "afa_{}": AFASegmentation,
    "afa_{}_ssr": AFASegmentationSSR,
    "afa_{}_hma": AFASegmentationHMA,
    "afa_{}_ocr_ssr": AFAOCRSegmentationSSR,
}
NAMES: dict[str, tuple[Callable[..., Any], str]] = {
    pattern.format(name): (network, name) for pattern, network in NETWORKS.items() for name in VARIANTS
}


def create(name: str, num_classes: int | None = None, **options: Any) -> Any:
    """The network of a name in `models.list()`.

    Args:
        name: "dla34" and the other variants are backbones; "dla34_seg" is the baseline, "afa_dla34" the network with
            AFA, "afa_dla34_ssr", "afa_dla34_hma" and "afa_dla34_ocr_ssr" are those at several scales.
        num_classes: of all but a backbone.
        options: as the class has them: `DLA`, `DLASegmentation`, `AFASegmentation`, `AFASegmentationSSR`,
            `AFASegmentationHMA`, `AFAOCRSegmentationSSR`.

    >>> from afa_kernels import models
    >>> type(models.create("afa_dla34", num_classes=19)).__name__
    'AFASegmentation'
    """
    if name in VARIANTS:
        if num_classes is not None:
            raise ValueError(f"num_classes must not be given for {name!r}, a backbone, got {num_classes!r}")
        return DLA(name, **options)
    if name not in NAMES:
        close = difflib.get_close_matches(str(name), list_names(), 3)
        raise ValueError(
            f"name must be one of models.list(), got {name!r}" + (f"; close to it: {', '.join(close)}" if close else "")
        )
    if num_classes is None:
        raise ValueError(f"num_classes must be given for {name!r}, got None")
    network, variant = NAMES[name]
    return network(DLA(variant, first_level=1), num_classes, **options)


def list_names() -> list[str]:
    """The names that `create` knows; `models.list` is this function, which its own module cannot call list."""
    return [*VARIANTS, *NAMES]


def afa_up(encoder: nn.Module, num_classes: int, fuse: str | None = None, ocr: bool = False, **options: Any) -> Any:
    """The network with AFA over any encoder: `AFASegmentation`, or at several scales.

        afa_up(timm.create_model("resnet18", features_only=True), num_classes=19, fuse="ssr")

    Args:
        encoder: a model of timm's made with features_only=True, an `Encoder`, or a module with channels and reductions.
        num_classes: K.
        fuse: None for one scale, "ssr" or "hma".
        ocr: whether object-contextual representations are the main head; with "ssr".
        options: as in the class.
    """
    classes = {
        (None, False): AFASegmentation,
        ("ssr", False): AFASegmentationSSR,
        ("hma", False): AFASegmentationHMA,
        ("ssr", True): AFAOCRSegmentationSSR,
    }
    if (fuse, bool(ocr)) not in classes:
        raise ValueError(f"fuse must be None, 'ssr' or 'hma', and 'ssr' with ocr=True, got {fuse!r} and {ocr!r}")
    return classes[fuse, bool(ocr)](as_encoder(encoder), num_classes, **options)


def afa_unet(encoder: nn.Module, num_classes: int, fusion: str = "afa", **options: Any) -> AFAUNet:
    """`AFAUNet` over an encoder as in `afa_up`."""
    return AFAUNet(as_encoder(encoder), num_classes, fusion, **options)


def afa_hrnet(encoder: nn.Module, num_classes: int, **options: Any) -> AFAHRNet:
    """`AFAHRNet` over an encoder as in `afa_up`, such as timm's hrnet_w18."""
    return AFAHRNet(as_encoder(encoder), num_classes, **options)


def afa_fcn(encoder: nn.Module, num_classes: int, fusion: str = "afa", **options: Any) -> AFAFCN:
    """`AFAFCN` over an encoder as in `afa_up`."""
    return AFAFCN(as_encoder(encoder), num_classes, fusion, **options)
