"""Other networks with AFA in the place of their fusions: U-Net, HRNet and FCN, over any encoder."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels.models.afa import described
from afa_kernels.models.heads import Scores, classifier, frozen_upsampling
from afa_kernels.models.segmentation import Segmentation
from afa_kernels.nn.aggregation import AFALevelFusion, projection
from afa_kernels.nn.attention import AttentiveFusion
from afa_kernels.nn.norm import Norm, initialise, norm_and_activation


def convolutions(norm: Norm, *channels: int) -> nn.Sequential:
    """Convolutions of 3x3, each with norm and activation."""
    found: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(channels):
        found += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), norm_and_activation(norm, outputs)]
    layers = nn.Sequential(*found)
    initialise(layers)
    return layers


class Concatenation(nn.Module):
    """A convolution of both maps."""

    def __init__(self, channels: int, norm: Norm = "bn") -> None:
        super().__init__()
        self.node: nn.Sequential = convolutions(norm, 2 * channels, channels)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        return self.node(torch.cat([shallow, deep], 1))


class Sum(nn.Module):
    """The sum of both maps, `convolved` with the convolutions of AFA's spatial attention, but without its gates."""

    def __init__(self, channels: int, norm: Norm = "bn", convolved: bool = False) -> None:
        super().__init__()
        self.node: nn.Sequential | nn.Identity = (
            convolutions(norm, channels, channels, channels) if convolved else nn.Identity()
        )

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        return self.node(shallow) + deep


def fusion_of(kind: str, channels: int, norm: Norm) -> nn.Module:
    """Of a shallow and a deep map, (N, channels, H, W) both."""
    if kind == "afa":
        return AttentiveFusion(channels, norm=norm)
    if kind == "concat":
        return Concatenation(channels, norm)
    if kind in ("sum", "sum_conv"):
        return Sum(channels, norm, convolved=kind == "sum_conv")
    raise ValueError(f"fusion must be 'afa', 'concat', 'sum' or 'sum_conv', got {kind!r}")


class TopDown(nn.Module):
    """Coarse to fine: what there is is projected, resized to the next level and fused with it.

    Args:
        channels: of the levels, the finest first.
        fusion: as in `fusion_of`.
        convolved: whether a convolution of 3x3 follows every fusion, as in U-Net.
    """

    def __init__(self, channels: tuple[int, ...], fusion: str, norm: Norm, convolved: bool) -> None:
        super().__init__()
        self.levels: int = len(channels)
        for i in range(self.levels - 1):
            setattr(self, f"proj_{i}", projection(channels[i + 1], channels[i], norm))
            setattr(self, f"fuse_{i}", fusion_of(fusion, channels[i], norm))
            setattr(self, f"conv_{i}", convolutions(norm, *2 * [channels[i]]) if convolved else nn.Identity())

    def forward(self, levels: list[Tensor]) -> Tensor:
        x = levels[-1]
        for i in reversed(range(self.levels - 1)):
            deep = getattr(self, f"proj_{i}")(x)
            deep = F.interpolate(deep, levels[i].shape[2:], mode="bilinear", align_corners=False)
            x = getattr(self, f"conv_{i}")(getattr(self, f"fuse_{i}")(levels[i], deep))
        return x


class _OneHead(Segmentation):
    """An encoder, a decoder of its levels, and a head at the resolution of one; "main_loss" is the only loss."""

    def __init__(self, encoder: nn.Module, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, **options)
        self.channels: tuple[int, ...]
        self.reductions: tuple[int, ...]
        self.channels, self.reductions = described(encoder)
        self.encoder: nn.Module = encoder

    def _head(self, channels: int, reduction: int) -> None:
        self.fc: nn.Sequential = classifier(channels, self.num_classes)
        self.up: nn.Module = frozen_upsampling(self.num_classes, reduction)

    def decode(self, levels: list[Tensor]) -> Tensor:
        raise NotImplementedError

    def describe(self, image: Tensor) -> tuple[Any, ...]:
        return (Scores(self.fc(self.decode(self.encoder(image))), self.up),)


class AFAUNet(_OneHead):
    """U-Net over any encoder: coarse to fine a level is fused with what is below it, and a convolution follows.

    Args:
        encoder: as in `AFATrunk`.
        num_classes: K.
        fusion: "afa" (`AttentiveFusion`), "concat" (U-Net's own), "sum", or "sum_conv", which has the convolutions of
            AFA's spatial attention without its gates: for comparisons at equal depth.
        norm, options: as in `AFASegmentation`.
    """

    def __init__(
        self, encoder: nn.Module, num_classes: int, fusion: str = "afa", norm: Norm = "bn", **options: Any
    ) -> None:
        super().__init__(encoder, num_classes, **options)
        self.decoder: TopDown = TopDown(self.channels, fusion, norm, convolved=True)
        self._head(self.channels[0], self.reductions[0])

    def decode(self, levels: list[Tensor]) -> Tensor:
        return self.decoder(levels)


class AFAHRNet(_OneHead):
    """HRNet's head over any encoder: all levels, resized to the finest, by shared attention (`AFALevelFusion`).

    Args: as in `AFAUNet`.
    """

    def __init__(self, encoder: nn.Module, num_classes: int, norm: Norm = "bn", **options: Any) -> None:
        super().__init__(encoder, num_classes, **options)
        self.fusion: AFALevelFusion = AFALevelFusion(self.channels[::-1], norm)
        self._head(self.channels[0], self.reductions[0])

    def decode(self, levels: list[Tensor]) -> Tensor:
        return self.fusion(levels[::-1])


class AFAFCN(_OneHead):
    """FCN-8s over any encoder: its three coarsest levels fused coarse to fine, and one head at the finest of these.

    Args: as in `AFAUNet`; "sum" is FCN's own fusion.
    """

    def __init__(
        self, encoder: nn.Module, num_classes: int, fusion: str = "afa", norm: Norm = "bn", **options: Any
    ) -> None:
        super().__init__(encoder, num_classes, **options)
        self.decoder: TopDown = TopDown(self.channels[-3:], fusion, norm, convolved=False)
        self._head(self.channels[-3:][0], self.reductions[-3:][0])

    def decode(self, levels: list[Tensor]) -> Tensor:
        return self.decoder(levels[-3:])
