"""The heads of the official networks: classes by a 1x1 convolution, upsampled by a frozen layer, and log_softmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels.nn import plain
from afa_kernels.nn.aggregation import upsampling
from afa_kernels.ops._registration import values_are_there


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
        self.low: Tensor = low
        self.up: nn.Module | None = up
        self._full: Tensor | None = None

    def bilinear_factor(self, size: tuple[int, int]) -> int | None:
        """The factor, where the upsampling is bilinear to exactly that size; else None."""
        factor = None if self.up is None else _factor(self.up)
        if factor is None or tuple(factor * side for side in self.low.shape[2:]) != size or not is_bilinear(self.up):
            return None
        return factor

    def full(self) -> Tensor:
        """At the resolution of the upsampling; computed once."""
        if self._full is None:
            self._full = self.low if self.up is None else log_probabilities(self.up, self.low)
        return self._full


def log_probabilities(up: nn.Module, low: Tensor) -> Tensor:
    """log_softmax(up(low)): where nothing is recorded, in strips, with one map of that size in memory and not two."""
    if plain.is_recorded() or _factor(up) is None or torch.compiler.is_compiling():
        return F.log_softmax(up(low), 1)
    low, factor = low.contiguous(), _factor(up)
    assert factor is not None
    batch, classes, height, width = low.shape
    out: Tensor | None = None
    for first in range(0, height, STRIP):
        last = min(first + STRIP, height)
        above, below = min(first, 1), min(height - last, 1)  # the rows around a strip that reach into it
        strip = up(low[:, :, first - above : last + below])
        strip = F.log_softmax(strip[:, :, above * factor : (above + last - first) * factor], 1)
        if out is None:
            out = strip.new_empty((batch, classes, factor * height, factor * width))
        out[:, :, first * factor : last * factor] = strip
    assert out is not None
    return out


def is_bilinear(up: Any) -> bool:
    """Whether the weights are what `frozen_upsampling` begins with. Asked for once, until somebody changes them."""
    weight = up.weight
    if torch.compiler.is_compiling() or not values_are_there(weight):
        return False
    known = up.__dict__.get("_bilinear")
    if known is None or known[:2] != (weight.data_ptr(), weight._version):
        same = torch.equal(weight, upsampling(up.in_channels, up.stride[0]).weight.to(weight))
        known = up.__dict__["_bilinear"] = (weight.data_ptr(), weight._version, same)
    return known[2]


STRIP = 16  # rows of scores before they are upsampled


def _factor(up: nn.Module) -> int | None:
    """By how much an upsampling as `frozen_upsampling` makes it enlarges; None for any other layer, or a hooked one."""
    if type(up) is not nn.ConvTranspose2d or plain.why_hooked(up) is not None or plain.why_observed() is not None:
        return None
    factor = up.stride[0]
    expected = (2 * factor,) * 2, (factor,) * 2, (factor // 2,) * 2, (1, 1), (0, 0)
    found = up.kernel_size, up.stride, up.padding, up.dilation, up.output_padding
    return factor if found == expected and factor % 2 == 0 and up.bias is None else None
