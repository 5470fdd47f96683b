"""A small encoder and decoder whose levels are fused by AFA, by a sum or by concatenation."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels.nn import AttentiveFusion, ChannelAttention

CHANNELS = (16, 24, 32, 48)  # at 1/2, 1/4, 1/8 and 1/16 of the image


def convolution(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Sum(nn.Module):
    """shallow + deep."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.node = convolution(channels, channels)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        return self.node(shallow + deep)


class Concatenation(nn.Module):
    """Both maps, one behind the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.node = convolution(2 * channels, channels)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        return self.node(torch.cat([shallow, deep], dim=1))


class SumWithConvolutions(nn.Module):
    """shallow + deep + f(shallow), f the convolutions of AFA's spatial attention: its compute without its gates."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.extra = nn.Sequential(convolution(channels, channels), convolution(channels, channels))
        self.node = convolution(channels, channels)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        return self.node(shallow + deep + self.extra(shallow))


class AFA(nn.Module):
    """Attentive feature aggregation, then the convolution that the other fusions have."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fuse = AttentiveFusion(channels)
        self.node = convolution(channels, channels)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        return self.node(self.fuse(shallow, deep))


class AFABare(AFA):
    """AFA as the official network has it: no convolution after the fusion."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.node = nn.Identity()  # type: ignore[assignment]


class AFAQuiet(AFA):
    """Four times AFA, its last projections beginning at zero: exactly the sum at the first step.

    At zero logits each of AFA's weights is a quarter.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        nn.init.zeros_(self.fuse.sa.get_parameter("final.0.weight"))
        nn.init.zeros_(self.fuse.ca.get_parameter("conv2.0.weight"))

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        return self.node(4 * self.fuse(shallow, deep))


class AFACalm(AFA):
    """AFA whose channel attention has no norm: in training that has the statistics of N values, one an image."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fuse.ca = ChannelAttention(channels, channels, norm=nn.Identity)


class AFACalmQuiet(AFAQuiet):
    """Both."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fuse.ca = ChannelAttention(channels, channels, norm=nn.Identity)
        nn.init.zeros_(self.fuse.ca.get_parameter("conv2.0.weight"))


LEVELS: dict[str, type[nn.Module]] = {
    "afa": AFA,
    "sum": Sum,
    "concat": Concatenation,
    "sum_convs": SumWithConvolutions,
    "afa_bare": AFABare,
    "afa_quiet": AFAQuiet,
    "afa_calm": AFACalm,
    "afa_calm_quiet": AFACalmQuiet,
}


class NucleiNet(nn.Module):
    """Images (N, 1, H, W) -> scores (N, classes, H / 2, W / 2) and the features (N, 16, H / 2, W / 2) they are of.

    >>> import torch
    >>> scores, features = NucleiNet()(torch.randn(2, 1, 64, 64))
    >>> scores.shape, features.shape
    (torch.Size([2, 3, 32, 32]), torch.Size([2, 16, 32, 32]))
    """

    def __init__(self, levels: str = "afa", classes: int = 3) -> None:
        super().__init__()
        if levels not in LEVELS:
            raise ValueError(f"levels must be one of {', '.join(map(repr, LEVELS))}, got {levels!r}")
        inputs = (1, *CHANNELS[:-1])
        self.encoder = nn.ModuleList(
            nn.Sequential(convolution(i, o, stride=2), convolution(o, o)) for i, o in zip(inputs, CHANNELS)
        )
        self.projections = nn.ModuleList(convolution(deep, c, 1) for c, deep in itertools.pairwise(CHANNELS))
        self.fusions = nn.ModuleList(LEVELS[levels](c) for c in CHANNELS[:-1])
        self.final = nn.Conv2d(CHANNELS[0], classes, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = []
        for stage in self.encoder:
            image = stage(image)
            features.append(image)
        x = features.pop()
        for shallow, project, fuse in reversed(list(zip(features, self.projections, self.fusions))):
            x = F.interpolate(project(x), size=shallow.shape[2:], mode="bilinear", align_corners=False)
            x = fuse(shallow, x)
        return self.final(x), x
