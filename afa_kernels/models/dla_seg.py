"""DLASeg, the official baseline: DLA, an up-path that concatenates, and one head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from afa_kernels.models.afa import described
from afa_kernels.models.heads import Scores, classifier, frozen_upsampling
from afa_kernels.models.segmentation import Segmentation
from afa_kernels.nn.aggregation import projection, upsampling
from afa_kernels.nn.norm import Norm, norm_and_activation


class IDAUp(nn.Module):
    """`AFAIDAUp` with a convolution of both in the place of attention."""

    def __init__(self, out_dim: int, channels: Sequence[int], up_factors: Sequence[int], norm: Norm = "bn") -> None:
        super().__init__()
        for i, (inputs, factor) in enumerate(zip(channels, up_factors)):
            setattr(self, f"proj_{i}", nn.Identity() if inputs == out_dim else projection(inputs, out_dim, norm))
            setattr(self, f"up_{i}", nn.Identity() if factor == 1 else upsampling(out_dim, factor))
        for i in range(1, len(channels)):
            conv = nn.Conv2d(2 * out_dim, out_dim, 3, padding=1, bias=False)
            nn.init.normal_(conv.weight, 0, (2 / (9 * out_dim)) ** 0.5)
            setattr(self, f"node_{i}", nn.Sequential(conv, norm_and_activation(norm, out_dim)))

    def forward(self, layers: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x, fused = self._up(0, layers[0]), []
        for i, layer in enumerate(layers[1:], 1):
            x = getattr(self, f"node_{i}")(torch.cat([x, self._up(i, layer)], 1))
            fused.append(x)
        return x, fused

    def _up(self, i: int, layer: Tensor) -> Tensor:
        return getattr(self, f"up_{i}")(getattr(self, f"proj_{i}")(layer))


class DLAUp(nn.Module):
    """`AFADLAUp` of `IDAUp`; returns the finest result alone."""

    def __init__(self, channels: Sequence[int], scales: Sequence[int], norm: Norm = "bn") -> None:
        super().__init__()
        inputs, scales = list(channels), list(scales)
        self.levels: int = len(channels)
        for i in range(self.levels - 1):
            j = self.levels - i - 2
            factors = [scale // scales[j] for scale in scales[j:]]
            setattr(self, f"ida_{i}", IDAUp(channels[j], inputs[j:], factors, norm))
            coarser = self.levels - j - 1
            scales[j + 1 :], inputs[j + 1 :] = coarser * [scales[j]], coarser * [channels[j]]

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        layers = list(layers)
        for i in range(self.levels - 1):
            x, layers[-i - 1 :] = getattr(self, f"ida_{i}")(layers[-i - 2 :])
        return x


class DLASegmentation(Segmentation):
    """The official DLASeg, the baseline without attention; "main_loss" is its only loss.

    Args:
        encoder: DLA, or what has levels, `channels` and `reductions` as in `AFATrunk`.
        down_ratio: 2, 4, 8 or 16: the stride of the finest level that is used.
        num_classes, norm, options: as in `AFASegmentation`.

    >>> import torch
    >>> from afa_kernels.models import DLA, DLASegmentation
    >>> model = DLASegmentation(DLA("dla34", first_level=1), num_classes=19)
    >>> model.eval()(torch.randn(1, 3, 100, 128)).shape
    torch.Size([1, 19, 100, 128])
    """

    def __init__(
        self, encoder: nn.Module, num_classes: int, norm: Norm = "bn", down_ratio: int = 2, **options: Any
    ) -> None:
        super().__init__(num_classes, **options)
        channels, reductions = described(encoder)
        if down_ratio not in reductions[:-1]:
            raise ValueError(f"down_ratio must be one of {reductions[:-1]}, got {down_ratio!r}")
        self.first: int = reductions.index(down_ratio)
        self.base = encoder
        scales = [reduction // down_ratio for reduction in reductions[self.first :]]
        self.dla_up: DLAUp = DLAUp(channels[self.first :], scales, norm)
        self.fc: nn.Sequential = classifier(channels[self.first], num_classes)
        self.up: nn.Module = frozen_upsampling(num_classes, down_ratio)

    def describe(self, image: Tensor) -> tuple[Any, ...]:
        return (Scores(self.fc(self.dla_up(self.base(image)[self.first :])), self.up),)
