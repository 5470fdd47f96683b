"""The aggregation networks of the official code on this package's modules: DLA's iterative and hierarchical up-paths
with attentive feature aggregation, and the fusion of their levels. State dicts as there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from afa_kernels import checks
from afa_kernels.nn import folding, plain
from afa_kernels.nn.attention import ChannelAttention, SpatialAttention, attentive, progressive, why_not_by_logits
from afa_kernels.nn.norm import Norm, norm_and_activation
from afa_kernels.nn.upsampling import in_type_of_autocast, upsampled_shape, weight_where_used


class AFAIDAUp(plain.Module):
    """Iterative aggregation: layers are projected, upsampled and fused one after the other into the finest.

    Args:
        out_dim: channels of the result.
        channels: channels of each layer, the finest (shallowest) first.
        up_factors: how much each is upsampled, by a transposed convolution that begins as bilinear interpolation.
        norm: as in `afa_kernels.nn.SpatialAttention`.

    Takes a list of layers, (N, channels[i], H / up_factors[i], W / up_factors[i]); returns the last fusion and the list
    of all, (N, out_dim, H, W) each.

    >>> import torch, afa_kernels.nn
    >>> up = afa_kernels.nn.AFAIDAUp(16, [16, 32], [1, 2])
    >>> x, every = up([torch.randn(2, 16, 8, 8), torch.randn(2, 32, 4, 4)])
    >>> x.shape, len(every)
    (torch.Size([2, 16, 8, 8]), 1)
    """

    def __init__(self, out_dim: int, channels: Sequence[int], up_factors: Sequence[int], norm: Norm = "bn") -> None:
        super().__init__()
        if len(up_factors) != len(channels):
            raise ValueError(f"up_factors must have one entry per layer, {len(channels)}, got {len(up_factors)}")
        self.layers: int = len(channels)
        for i, (inputs, factor) in enumerate(zip(channels, map(int, up_factors))):
            setattr(self, f"proj_{i}", nn.Identity() if inputs == out_dim else projection(inputs, out_dim, norm))
            setattr(self, f"up_{i}", nn.Identity() if factor == 1 else upsampling(out_dim, factor))
        for i in range(1, self.layers):
            setattr(self, f"sa_{i}", SpatialAttention(out_dim, norm=norm))
            setattr(self, f"ca_{i}", ChannelAttention(out_dim, out_dim, norm=norm))

    def forward(
        self, layers: Sequence[Tensor], every: bool = True, consume: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Without `every` the list has the last fusion alone, and the others need not be kept.

        `consume` empties the list that is given, so that layers need not be kept until the last is fused.
        """
        return aggregated(self, listed(layers, self.layers, consume), every)

    if TYPE_CHECKING:

        def __call__(
            self, layers: Sequence[Tensor], every: bool = True, consume: bool = False
        ) -> tuple[Tensor, list[Tensor]]: ...

    def why_not_fused(self) -> str | None:
        """Why the attention modules are called; None where their logits go into `attentive_fusion`."""
        attentions = {
            f"{kind}_{i}": self._modules[f"{kind}_{i}"] for i in range(1, self.layers) for kind in ("sa", "ca")
        }
        return why_not_by_logits(**attentions)


class AFADLAUp(plain.Module):
    """Hierarchical aggregation: `AFAIDAUp` over the two coarsest levels, over the three coarsest, and so on.

    Args:
        channels: channels of each level, the finest first.
        scales: how much coarser than the finest each level is: 1, 2, 4, ...
        in_channels: channels of the levels given, if other than `channels`.
        norm: as in `afa_kernels.nn.SpatialAttention`.

    Takes the list of levels and returns the last fusion of every stage, coarse to fine.

    >>> import torch, afa_kernels.nn
    >>> up = afa_kernels.nn.AFADLAUp([16, 32, 64], [1, 2, 4])
    >>> [tuple(x.shape) for x in up([torch.randn(2, 16 << i, 8 >> i, 8 >> i) for i in range(3)])]
    [(2, 32, 4, 4), (2, 16, 8, 8)]
    """

    def __init__(
        self,
        channels: Sequence[int],
        scales: Sequence[int],
        in_channels: Sequence[int] | None = None,
        norm: Norm = "bn",
    ) -> None:
        super().__init__()
        if not len(channels) == len(scales) == len(in_channels or channels) > 1:
            raise ValueError(
                "channels, scales and in_channels must have one entry per level, of at least two, "
                f"got {list(channels)}, {list(scales)} and {None if in_channels is None else list(in_channels)}"
            )
        inputs, scales = list(in_channels or channels), list(scales)
        self.levels: int = len(channels)
        for i in range(self.levels - 1):
            j = self.levels - i - 2
            factors = [scale // scales[j] for scale in scales[j:]]
            setattr(self, f"afa_ida_{i}", AFAIDAUp(channels[j], inputs[j:], factors, norm))
            coarser = self.levels - j - 1  # levels that now have the size and the channels of level j
            scales[j + 1 :], inputs[j + 1 :] = coarser * [scales[j]], coarser * [channels[j]]

    def forward(self, layers: Sequence[Tensor], consume: bool = False) -> list[Tensor]:
        """`consume` as in `AFAIDAUp`."""
        layers, results = listed(layers, self.levels, consume), []
        for i in range(self.levels - 1):
            last = i == self.levels - 2
            fusing = layers[-i - 2 :]
            del layers[-i - 2 + (not last) :]
            x, fused = getattr(self, f"afa_ida_{i}")(fusing, every=not last, consume=True)
            layers += fused
            results.append(x)
        return results

    if TYPE_CHECKING:

        def __call__(self, layers: Sequence[Tensor], consume: bool = False) -> list[Tensor]: ...


class AFALevelFusion(plain.Module):
    """The fusion of the levels of an up-path: projected, resized to the finest, and `progressive_fusion` by shared
    attention.

    Args:
        channels: channels of each level, coarse to fine; the result has the last.
        norm: as in `afa_kernels.nn.SpatialAttention`.

    >>> import torch, afa_kernels.nn
    >>> fuse = afa_kernels.nn.AFALevelFusion([32, 16])
    >>> fuse([torch.randn(2, 32, 4, 4), torch.randn(2, 16, 8, 8)]).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(self, channels: Sequence[int], norm: Norm = "bn") -> None:
        super().__init__()
        self.levels: int = len(channels)
        width = channels[-1]
        self.level_sa: SpatialAttention = SpatialAttention(width, norm=norm)
        self.level_ca: ChannelAttention = ChannelAttention(width, width, norm=norm)
        for i, inputs in enumerate(channels[:-1]):
            setattr(self, f"proj_{i + 1}", projection(inputs, width, norm))

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        return fused_levels(self, listed(layers, self.levels))

    if TYPE_CHECKING:

        def __call__(self, layers: Sequence[Tensor]) -> Tensor: ...

    def why_not_fused(self) -> str | None:
        """Why the attention modules are called; None where their logits go into `progressive_fusion`."""
        return why_not_by_logits(level_sa=self.level_sa, level_ca=self.level_ca)


def listed(layers: Any, count: int, consume: bool = False) -> list[Tensor]:
    """A list of one's own; `consume` empties the one that is given."""
    if isinstance(layers, fx.Proxy):
        return [layers[i] for i in range(count)]  # type: ignore[index]
    if len(layers) != count:
        raise ValueError(f"layers must be {count} feature maps, got {len(layers)}")
    found = list(layers)
    if consume:
        layers.clear()
    return found


def aggregated(module: Any, layers: list[Tensor], every: bool = True) -> tuple[Tensor, list[Tensor]]:
    """What `AFAIDAUp` returns, by a module with its children; `layers`, a list, is empty then."""
    layers.reverse()
    x = module.up_0(folding.sequence(module.proj_0, layers.pop()))
    fused: list[Tensor] = []
    for i in range(1, 1 + len(layers)):

        def deep(by_logits: bool, i: int = i, shape: Any = x.shape) -> tuple[Tensor, Tensor | None]:
            layer = layers.pop()
            x, up = folding.sequence(getattr(module, f"proj_{i}"), layer), getattr(module, f"up_{i}")
            weight = weight_where_used(up, x) if by_logits else None
            x = up(x) if weight is None else in_type_of_autocast(x)
            if isinstance(x, Tensor):
                fine = x.shape if weight is None else upsampled_shape(x, weight)
                with checks.without_tracer_warnings():
                    differs = fine != shape
                if differs:
                    raise ValueError(
                        f"layers[{i}] of shape {tuple(layer.shape)}, projected and upsampled to {tuple(fine)}, "
                        f"must have the shape of layers[0], {tuple(shape)}"
                    )
            return x, weight

        x = attentive(x, deep, getattr(module, f"sa_{i}"), getattr(module, f"ca_{i}"))
        fused = [*fused, x] if every else [x]
    return x, fused


def fused_levels(module: Any, layers: Sequence[Tensor]) -> Tensor:
    """What `AFALevelFusion` returns, by a module with its children."""
    narrow = [folding.sequence(getattr(module, f"proj_{i + 1}"), layer) for i, layer in enumerate(layers[:-1])]
    return progressive([*narrow, layers[-1]], module.level_sa, module.level_ca, layers[-1].shape[2:])


def projection(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.normal_(conv.weight, 0, (2 / outputs) ** 0.5)
    return nn.Sequential(conv, norm_and_activation(norm, outputs))


def upsampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Each channel for itself, beginning as bilinear interpolation."""
    up = nn.ConvTranspose2d(
        channels, channels, 2 * factor, stride=factor, padding=factor // 2, groups=channels, bias=False
    )
    ramp = 1 - (torch.arange(2 * factor) / factor - (2 * factor - 1) / (2 * factor)).abs()
    with torch.no_grad():
        up.weight.copy_(ramp[:, None] * ramp)
    return up
