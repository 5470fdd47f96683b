"""Encoders: any network that returns feature maps, with their channels and strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Encoder(nn.Module):
    """Any model that returns a list of feature maps, fine to coarse, as an encoder of the networks here.

        Encoder(timm.create_model("convnext_tiny", features_only=True))

    Args:
        model: one of timm's, made with features_only=True, or any module that returns a list or tuple of maps.
        channels: of the maps; of timm's models known.
        reductions: their strides, doubled from map to map; of timm's models known.
        layout: "NCHW" or "NHWC", in which maps are then permuted; of timm's models known.

    >>> import torch
    >>> from afa_kernels.models import Encoder
    >>> class Pyramid(torch.nn.Module):
    ...     def forward(self, image):
    ...         return [torch.nn.functional.avg_pool2d(image, s) for s in (2, 4, 8)]
    >>> encoder = Encoder(Pyramid(), channels=(3, 3, 3), reductions=(2, 4, 8))
    >>> [tuple(x.shape) for x in encoder(torch.randn(1, 3, 32, 64))]
    [(1, 3, 16, 32), (1, 3, 8, 16), (1, 3, 4, 8)]
    """

    def __init__(
        self,
        model: nn.Module,
        channels: Sequence[int] | None = None,
        reductions: Sequence[int] | None = None,
        layout: str | None = None,
    ) -> None:
        super().__init__()
        info = getattr(model, "feature_info", None)
        if channels is None or reductions is None:
            if not hasattr(info, "channels") or not hasattr(info, "reduction"):
                raise TypeError(
                    "channels and reductions must be given for a model without timm's feature_info: make timm's models "
                    f"with features_only=True; got a {type(model).__name__}"
                )
            channels = info.channels() if channels is None else channels  # type: ignore[union-attr]
            reductions = info.reduction() if reductions is None else reductions  # type: ignore[union-attr]
        if len(channels) != len(reductions):
            raise ValueError(
                f"channels and reductions must have one number a map, got {list(channels)} and {list(reductions)}"
            )
        layout = _layout_of(model) if layout is None else layout
        if layout not in ("NCHW", "NHWC"):
            raise ValueError(f"layout must be 'NCHW' or 'NHWC', got {layout!r}")
        self.model: nn.Module = model
        self.layout: str = layout
        self.channels: tuple[int, ...] = tuple(map(int, channels))
        self.reductions: tuple[int, ...] = tuple(map(int, reductions))

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.model(image)
        if isinstance(maps, dict):
            maps = list(maps.values())
        if not isinstance(maps, (list, tuple)) or len(maps) != len(self.channels):
            got = f"{len(maps)} maps" if isinstance(maps, (list, tuple)) else f"a {type(maps).__name__}"
            raise ValueError(f"model must return a list of {len(self.channels)} maps, got {got}")
        maps = [x.permute(0, 3, 1, 2) if self.layout == "NHWC" else x for x in maps]
        for i, (x, channels) in enumerate(zip(maps, self.channels)):
            if x.dim() != 4 or x.shape[1] != channels:
                raise ValueError(
                    f"model must return maps of {self.channels} channels, got map {i} of shape {tuple(x.shape)}"
                    + (' (layout="NHWC"?)' if x.dim() == 4 and x.shape[3] == channels else "")
                )
        return maps


def _layout_of(model: Any) -> str:
    """What timm says of its models that work on NHWC."""
    given = getattr(model, "output_fmt", "NCHW")
    return str(getattr(given, "value", given))


def as_encoder(encoder: nn.Module) -> nn.Module:
    """One with channels and reductions as it is; another as an `Encoder`."""
    return encoder if hasattr(encoder, "channels") and hasattr(encoder, "reductions") else Encoder(encoder)
