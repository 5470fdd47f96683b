"""The networks with attentive feature aggregation: an encoder, its up-path, and heads, at one or several scales."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels.models.heads import Scores, classifier, frozen_upsampling
from afa_kernels.models.ocr import OCR
from afa_kernels.models.segmentation import Auxiliary, Segmentation
from afa_kernels.nn.aggregation import AFADLAUp, AFALevelFusion, fused_levels
from afa_kernels.nn.attention import why_not_by_logits
from afa_kernels.nn.multiscale import ScaleSpaceRendering, logits_by
from afa_kernels.nn.norm import Norm, initialise

INFERENCE_SCALES, TRAINING_SCALES = (0.5, 1.0, 1.5, 2.0), (0.5, 1.0)


class AFATrunk(nn.Module):
    """An encoder, `AFADLAUp` over its levels, and the fusion of the three finest results by shared attention.

    Args:
        encoder: returns a list of maps, fine to coarse, and has their `channels` and `reductions`, the strides.
        norm: as in `afa_kernels.nn.SpatialAttention`.

    Returns the results of the up-path, coarse to fine, and their fusion, at the resolution and with the channels of
    the finest level.

    >>> import torch
    >>> from afa_kernels.models import AFATrunk, DLA
    >>> results, features = AFATrunk(DLA("dla34", first_level=1)).eval()(torch.randn(1, 3, 64, 64))
    >>> [tuple(x.shape[1:]) for x in results], features.shape
    ([(256, 4, 4), (128, 8, 8), (64, 16, 16), (32, 32, 32)], torch.Size([1, 32, 32, 32]))
    """

    def __init__(self, encoder: nn.Module, norm: Norm = "bn") -> None:
        super().__init__()
        self.channels: tuple[int, ...]
        self.reductions: tuple[int, ...]
        self.channels, self.reductions = described(encoder)
        if len(self.channels) < 3:
            raise ValueError(f"encoder must have at least 3 levels, got {len(self.channels)}")
        self.base = encoder
        scales = [reduction // self.reductions[0] for reduction in self.reductions]
        self.afa_dla_up: AFADLAUp = AFADLAUp(self.channels, scales, norm=norm)
        fused = list(reversed(self.channels[:-1]))[-3:]
        for name, layer in AFALevelFusion(fused, norm).named_children():
            setattr(self, name, layer)

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        levels = list(self.base(image))
        results = self.afa_dla_up(levels, consume=True)
        return results, fused_levels(self, results[-3:])

    def why_not_fused(self) -> str | None:
        """Why the shared attention modules are called; None where their logits go into `progressive_fusion`."""
        return why_not_by_logits(level_sa=self.level_sa, level_ca=self.level_ca)


def described(encoder: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels and strides that an encoder tells of its levels, fine to coarse."""
    channels, reductions = (tuple(map(int, getattr(encoder, name, ()))) for name in ("channels", "reductions"))
    if not channels or len(channels) != len(reductions):
        raise TypeError(
            "encoder must have the attributes channels and reductions, one number for each level, as Encoder has: got "
            f"a {type(encoder).__name__} with {channels} and {reductions}"
        )
    for fine, coarse in itertools.pairwise(reductions):
        if coarse <= fine or coarse % fine or (coarse // fine) & (coarse // fine - 1):
            raise ValueError(f"encoder must have reductions that are doubled from level to level, got {reductions}")
    return channels, reductions


class AFASegmentation(Segmentation):
    """The official AFADLASeg, of DLA or another encoder: one scale, a main head and one auxiliary head a result.

    Args:
        encoder: as in `AFATrunk`.
        num_classes: K.
        norm: "bn", "abn" or a factory; the encoder's is its own.
        options: as in `Segmentation`.

    >>> import torch
    >>> from afa_kernels.models import AFASegmentation, DLA
    >>> model = AFASegmentation(DLA("dla34", first_level=1), num_classes=19)
    >>> model.eval()(torch.randn(1, 3, 100, 128)).shape
    torch.Size([1, 19, 100, 128])
    """

    def __init__(self, encoder: nn.Module, num_classes: int, norm: Norm = "bn", **options: Any) -> None:
        super().__init__(num_classes, **options)
        self.backbone: AFATrunk = AFATrunk(encoder, norm)
        self.width: int = self.backbone.channels[0]
        self._make_heads()

    def _make_heads(self) -> None:
        channels, reductions = self.backbone.channels, self.backbone.reductions
        self.fc: nn.Sequential = classifier(channels[0], self.num_classes)
        self.up: nn.Module = frozen_upsampling(self.num_classes, reductions[0])
        self._make_auxiliary_heads()

    def _make_auxiliary_heads(self) -> None:
        channels, reductions = self.backbone.channels, self.backbone.reductions
        self.auxiliary_heads: int = len(channels) - 1
        for j in range(self.auxiliary_heads):
            level = self.auxiliary_heads - 1 - j
            setattr(self, f"fc_{j + 1}", classifier(channels[level], self.num_classes))
            setattr(self, f"up_{j + 1}", frozen_upsampling(self.num_classes, reductions[level]))

    def describe(self, image: Tensor) -> tuple[Any, ...]:
        results, features = self.backbone(image)
        return Scores(self.fc(features), self.up), self.describe_weight(features, image), results

    def describe_weight(self, features: Tensor, image: Tensor) -> Tensor:
        """What `attend` takes, of the fused features."""
        return features

    def auxiliary(self, results: list[tuple[Any, ...]], weights: list[Tensor]) -> dict[str, Auxiliary]:
        return {
            f"dla_aux_loss_{j}": (self.auxiliary_weight, *self.auxiliary_scores(j, [r[2] for r in results], weights))
            for j in range(self.auxiliary_heads)
        }

    def auxiliary_scores(
        self, j: int, results: list[list[Tensor]], weights: list[Tensor]
    ) -> tuple[list[Scores], list[Tensor]]:
        """Of head j at every scale, and their weights."""
        fc, up = getattr(self, f"fc_{j + 1}"), getattr(self, f"up_{j + 1}")
        return [Scores(fc(result[j]), up) for result in results], weights

    def size_of_features(self, size: tuple[int, int]) -> tuple[int, int] | None:
        reduction = self.backbone.reductions[0]
        return size[0] // reduction, size[1] // reduction


class AFASegmentationSSR(AFASegmentation):
    """The official AFADLASegSSR: the same at several scales, fused by scale-space rendering.

    >>> import torch
    >>> from afa_kernels.models import AFASegmentationSSR, DLA
    >>> model = AFASegmentationSSR(DLA("dla34", first_level=1), num_classes=19, scales=(0.5, 1.0))
    >>> model.eval()(torch.randn(1, 3, 100, 128)).shape
    torch.Size([1, 19, 100, 128])
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_classes: int,
        norm: Norm = "bn",
        scales: Sequence[float] = INFERENCE_SCALES,
        training_scales: Sequence[float] = TRAINING_SCALES,
        **options: Any,
    ) -> None:
        options = {"fuse": "ssr", **options, "scales": scales, "training_scales": training_scales}
        super().__init__(encoder, num_classes, norm, **options)
        self.scale_space_attn: ScaleSpaceRendering = ScaleSpaceRendering(self.width, norm=norm)

    def attend(self, features: Tensor) -> Tensor:
        return logits_by(self.scale_space_attn, features)


class AFASegmentationHMA(AFASegmentation):
    """The official AFADLASegHMA: the same at several scales, fused by hierarchical multi-scale attention.

    Its auxiliary losses are of the smallest scale alone, as there.

    >>> import torch
    >>> from afa_kernels.models import AFASegmentationHMA, DLA
    >>> model = AFASegmentationHMA(DLA("dla34", first_level=1), num_classes=19, scales=(0.5, 1.0))
    >>> model.eval()(torch.randn(1, 3, 100, 128)).shape
    torch.Size([1, 19, 100, 128])
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_classes: int,
        norm: Norm = "bn",
        scales: Sequence[float] = INFERENCE_SCALES,
        training_scales: Sequence[float] = TRAINING_SCALES,
        **options: Any,
    ) -> None:
        options = {"fuse": "hma_at_one", **options, "scales": scales, "training_scales": training_scales}
        super().__init__(encoder, num_classes, norm, **options)
        self.scale_attn: nn.Sequential = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(self.width, 256, 3, padding=1, bias=False),
                bn0=nn.BatchNorm2d(256),
                re0=nn.ReLU(),
                conv1=nn.Conv2d(256, 256, 3, padding=1, bias=False),
                bn1=nn.BatchNorm2d(256),
                re1=nn.ReLU(),
                conv2=nn.Conv2d(256, 1, 1, bias=False),
                sig=nn.Sigmoid(),
            )
        )
        initialise(self.scale_attn)

    def describe_weight(self, features: Tensor, image: Tensor) -> Tensor:
        return F.interpolate(self.scale_attn(features), image.shape[2:], mode="bilinear", align_corners=False)

    def size_of_features(self, size: tuple[int, int]) -> tuple[int, int] | None:
        return size

    def auxiliary_scores(
        self, j: int, results: list[list[Tensor]], weights: list[Tensor]
    ) -> tuple[list[Scores], list[Tensor]]:
        return super().auxiliary_scores(j, results[:1], [])


class AFAOCRSegmentationSSR(AFASegmentationSSR):
    """The official AFADLAOCRSegSSR: object-contextual representations in place of the main head, whose features
    scale-space rendering takes too. The scores are weighted sums of logits.

    Args:
        mid_channels, key_channels: of the representations, and of their attention.
        ocr_auxiliary_weight: of the loss of the classes that the objects are gathered by.

    >>> import torch
    >>> from afa_kernels.models import AFAOCRSegmentationSSR, DLA
    >>> model = AFAOCRSegmentationSSR(DLA("dla34", first_level=1), num_classes=19, scales=(0.5, 1.0))
    >>> model.eval()(torch.randn(1, 3, 100, 128)).shape
    torch.Size([1, 19, 100, 128])
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_classes: int,
        norm: Norm = "bn",
        scales: Sequence[float] = INFERENCE_SCALES,
        training_scales: Sequence[float] = TRAINING_SCALES,
        mid_channels: int = 256,
        key_channels: int = 128,
        ocr_auxiliary_weight: float = 0.4,
        **options: Any,
    ) -> None:
        super().__init__(encoder, num_classes, norm, scales, training_scales, **options)
        self.scale_space_attn: ScaleSpaceRendering = ScaleSpaceRendering(mid_channels, norm=norm)
        self.ocr: OCR = OCR(self.width, num_classes, mid_channels, key_channels, norm)
        self.ocr_auxiliary_weight: float = float(ocr_auxiliary_weight)

    def _make_heads(self) -> None:
        self._make_auxiliary_heads()

    def describe(self, image: Tensor) -> tuple[Any, ...]:
        results, features = self.backbone(image)
        scores, of_objects, representations = self.ocr(features)
        return Scores(scores, None), representations, results, Scores(of_objects, None)

    def auxiliary(self, results: list[tuple[Any, ...]], weights: list[Tensor]) -> dict[str, Auxiliary]:
        of_objects = self.ocr_auxiliary_weight, [result[3] for result in results], weights
        return {**super().auxiliary(results, weights), "ocr_aux_loss": of_objects}
