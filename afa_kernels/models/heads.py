"""The heads of the official networks: classes by a 1x1 convolution, upsampled by a frozen layer, and log_softmax."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels.nn.aggregation import upsampling


def classifier(channels: int, num_classes: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, 0, (2 / num_classes) ** 0.5)
    return nn.Sequential(conv)


def frozen_upsampling(num_classes: int, factor: int) -> nn.Module:
    """Bilinear, but that beyond the border there are zeros; in the state dict, and never trained."""
    if factor == 1:
        return nn.Identity()
    up = upsampling(num_classes, factor)
    up.weight.requires_grad_(False)
    return up


class Scores:
    """Scores of classes at the resolution of a feature map, and the layer that upsamples them.

    With `up` the scores of the network are log_softmax(up(low)); without, `low` as they are.
    """

    def __init__(self, low: Tensor, up: nn.Module | None) -> None:
        self.low, self.up = low, up
        self._full: Tensor | None = None

    def full(self) -> Tensor:
        """At the resolution of the upsampling; computed once."""
        if self._full is None:
            self._full = self.low if self.up is None else F.log_softmax(self.up(self.low), 1)
        return self._full
