"""The modules of attentive feature aggregation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels.ops.attentive_fusion import attentive_fusion
from afa_kernels.ops.bn_relu_conv2d import bn_relu_conv2d
from afa_kernels.ops.bn_relu_project import bn_relu_project
from afa_kernels.ops.channel_attention import channel_attention
from afa_kernels.ops.global_avg_max_pool import global_avg_max_pool
from afa_kernels.ops.progressive_fusion import progressive_fusion

Norm = str | Callable[[int], nn.Module]
ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    "sigmoid": Tensor.sigmoid,
    "abs": Tensor.abs,
    "relu": Tensor.relu,
    None: lambda logits: logits,
}


class ABN(nn.Module):
    """Batch norm and leaky ReLU of slope 0.01 as InPlaceABN has them: gamma = |weight| + eps. Parameter names as there.

    The statistics are those of this process; InPlaceABNSync takes them over all.

    >>> import torch, afa_kernels.nn
    >>> afa_kernels.nn.ABN(8)(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    slope = 0.01
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor | None

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        norm = nn.BatchNorm2d(num_features)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        gamma = self.weight.abs() + self.eps
        statistics = self.running_mean, self.running_var
        y = F.batch_norm(x, *statistics, gamma, self.bias, self.training, self.momentum, self.eps)
        return F.leaky_relu(y, self.slope)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """InPlaceABN counts no batches."""
        if self.num_batches_tracked is not None:
            state_dict.setdefault(prefix + "num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def norm_and_activation(norm: Norm, channels: int) -> nn.Sequential:
    """The layer after a convolution, by its name or from a factory of norm layers, whose output ReLU then rectifies."""
    if norm == "abn":
        return nn.Sequential(ABN(channels))
    if norm == "bn":
        norm = nn.BatchNorm2d
    if not callable(norm):
        raise ValueError(f"norm must be 'bn', 'abn' or a function of the number of channels, got {norm!r}")
    return nn.Sequential(norm(channels), nn.ReLU())


def fusible(layer: Any) -> dict[str, Any] | None:
    """The arguments by which the operations compute what `layer` does; None if only `layer` itself can.

    That is so for a norm other than BatchNorm2d and ABN, such as SyncBatchNorm, whose statistics come from elsewhere.
    """
    norm = layer[0]
    if type(norm) is ABN:
        activation = {"activation_slope": norm.slope, "abs_weight": True}
    elif type(norm) is nn.BatchNorm2d and norm.affine and norm.momentum is not None and type(layer[1]) is nn.ReLU:
        activation = {}
    else:
        return None
    return {
        "weight": norm.weight,
        "bias": norm.bias,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
        "training": norm.training,
        "momentum": norm.momentum,
        "eps": norm.eps,
        **activation,
    }


def count_batches(layer: Any, batches: int = 1) -> None:
    """What a norm layer does in training besides its arithmetic."""
    norm = layer[0]
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(batches)


def initialise(module: nn.Module) -> None:
    """As the official code: convolutions for ReLU, gamma uniform, beta zero."""
    for m in module.modules():
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        elif isinstance(m, (nn.BatchNorm2d, ABN)) and m.weight is not None:
            nn.init.uniform_(m.weight)
            nn.init.zeros_(m.bias)


def activation_of(name: str | None) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {name!r}")
    return ACTIVATIONS[name]


class SpatialAttention(nn.Module):
    """Where to look: two convolutions with norm and ReLU, and a projection.

        act(final(relu(norm(conv(relu(norm(conv(x))))))))

    Of the maps between the convolutions, backward keeps the convolutions' outputs alone: `bn_relu_conv2d` and
    `bn_relu_project`. A norm that these cannot compute runs as the module it is.

    Args:
        in_channels, out_channels: of the whole.
        bottleneck_channels: between the convolutions; default, `in_channels`.
        activation: "sigmoid", "abs", "relu", or None for the logits.
        kernel_size: of the two convolutions, odd.
        norm: "bn", "abn" (`ABN`), or a function of the number of channels that gives a norm layer, such as
            nn.SyncBatchNorm.

    Returns (N, out_channels, H, W) for x of (N, in_channels, H, W). State dict: that of the official
    SpatialAttentionModule.

    >>> import torch, afa_kernels.nn
    >>> afa_kernels.nn.SpatialAttention(8)(torch.randn(2, 8, 6, 7)).shape
    torch.Size([2, 1, 6, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        bottleneck_channels: int | None = None,
        activation: str | None = "sigmoid",
        kernel_size: int = 3,
        norm: Norm = "bn",
    ) -> None:
        super().__init__()
        width = in_channels if bottleneck_channels is None else bottleneck_channels
        activation_of(activation)
        self.activation = activation

        def convolution(inputs: int) -> nn.Sequential:
            conv = nn.Conv2d(inputs, width, kernel_size, padding=kernel_size // 2, bias=False)
            return nn.Sequential(conv, norm_and_activation(norm, width))

        self.conv, self.conv_inner = convolution(in_channels), convolution(width)
        self.final = nn.Sequential(nn.Conv2d(width, out_channels, 1, bias=False))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return activation_of(self.activation)(self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        hidden = self._convolved(self.conv[0](x), self.conv[1], self.conv_inner[0])
        return self._convolved(hidden, self.conv_inner[1], self.final[0])

    def _convolved(self, hidden: Tensor, layer: Any, conv: Any) -> Tensor:
        arguments = fusible(layer)
        if arguments is None:
            return conv(layer(hidden))
        if conv.kernel_size == (1, 1) and conv.out_channels == 1:
            out = bn_relu_project(hidden, project_weight=conv.weight, **arguments)
        else:
            out = bn_relu_conv2d(hidden, conv_weight=conv.weight, padding=conv.padding, **arguments)
        count_batches(layer)
        return out


class ChannelAttention(nn.Module):
    """Which channels to trust: the mean and the maximum of each through one network of two layers, summed.

        act(W2 relu(norm(W1 max)) + W2 relu(norm(W1 avg)))

    In training the norm sees N values a channel, first those of the maximum, then those of the mean, and counts two
    batches. It needs N > 1 there, unless it is SyncBatchNorm over several processes.

    Args:
        in_channels, out_channels: of the whole.
        reduction: out_channels // reduction is the number of hidden units, at least 1.
        norm: as in `SpatialAttention`.
        activation: as in `SpatialAttention`.

    Returns (N, out_channels, 1, 1) for x of (N, in_channels, H, W). State dict: that of the official
    ChannelAttentionModule.

    >>> import torch, afa_kernels.nn
    >>> afa_kernels.nn.ChannelAttention(32, 16)(torch.randn(2, 32, 6, 7)).shape
    torch.Size([2, 16, 1, 1])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        reduction: int = 16,
        norm: Norm = "bn",
        activation: str | None = "sigmoid",
    ) -> None:
        super().__init__()
        hidden = max(1, out_channels // reduction)
        activation_of(activation)
        self.activation = activation
        self.conv1 = nn.Sequential(nn.Conv2d(in_channels, hidden, 1, bias=False), norm_and_activation(norm, hidden))
        self.conv2 = nn.Sequential(nn.Conv2d(hidden, out_channels, 1, bias=False))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return activation_of(self.activation)(self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        conv1: Any = self.conv1[0]
        conv2: Any = self.conv2[0]
        arguments = fusible(self.conv1[1])
        if arguments is None:
            avg, max = global_avg_max_pool(x)
            of_max = self.conv1(max)
            return self.conv2(of_max) + self.conv2(self.conv1(avg))
        logits = channel_attention(x, conv1_weight=conv1.weight, conv2_weight=conv2.weight, **arguments)
        count_batches(self.conv1[1], 2)
        return logits


class AttentiveFusion(nn.Module):
    """AFA of two feature maps: spatial attention of the shallow one, channel attention of the deep one, and
    `attentive_fusion` by both.

    >>> import torch, afa_kernels.nn
    >>> shallow, deep = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    >>> afa_kernels.nn.AttentiveFusion(16)(shallow, deep).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(self, channels: int, norm: Norm = "bn") -> None:
        super().__init__()
        self.sa = SpatialAttention(channels, norm=norm)
        self.ca = ChannelAttention(channels, channels, norm=norm)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        return attentive_fusion(shallow, deep, self.sa.logits(shallow), self.ca.logits(deep))


class ProgressiveFusion(nn.Module):
    """AFA of any number of feature maps, coarse to fine, by attention modules that they share: `progressive_fusion`.

    >>> import torch, afa_kernels.nn
    >>> afa_kernels.nn.ProgressiveFusion(16)([torch.randn(2, 16, 8, 8) for _ in range(3)]).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(self, channels: int, norm: Norm = "bn") -> None:
        super().__init__()
        self.sa = SpatialAttention(channels, norm=norm)
        self.ca = ChannelAttention(channels, channels, norm=norm)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return progressive(features, self.sa, self.ca)


def progressive(features: Sequence[Tensor], sa: SpatialAttention, ca: ChannelAttention) -> Tensor:
    """`progressive_fusion` by the logits of shared attention modules."""
    logits = [(sa.logits(x), ca.logits(x)) for x in features]
    return progressive_fusion(features, *zip(*logits))
