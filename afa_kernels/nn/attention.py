"""The modules of attentive feature aggregation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from afa_kernels import backends, checks
from afa_kernels.nn import folding, plain
from afa_kernels.nn import norm as norms
from afa_kernels.nn.norm import Norm, initialise, norm_and_activation
from afa_kernels.nn.resizing import resized_to, size_of
from afa_kernels.ops.attentive_fusion import attentive_fusion
from afa_kernels.ops.bn_relu_project import bn_relu_project
from afa_kernels.ops.channel_attention import channel_attention
from afa_kernels.ops.global_avg_max_pool import global_avg_max_pool
from afa_kernels.ops.progressive_fusion import progressive_fusion
from afa_kernels.ops.resized_fusion import resized_fusion
from afa_kernels.ops.upsampled_fusion import upsampled_fusion
from afa_kernels.ops.upsampled_pool import upsampled_pool

ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "abs": torch.abs,
    "relu": torch.relu,
    None: lambda logits: logits,
}
ABNs: TypeAlias = tuple[type[nn.Module], ...]


def activation_of(name: str | None) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {name!r}")
    return ACTIVATIONS[name]


class SpatialAttention(plain.Module):
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
        kernel_size = checks.integer("kernel_size", kernel_size)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, which keeps the size of a map, got {kernel_size}")
        self.activation: str | None = activation

        def convolution(inputs: int) -> nn.Sequential:
            conv = nn.Conv2d(inputs, width, kernel_size, padding=kernel_size // 2, bias=False)
            return nn.Sequential(conv, norm_and_activation(norm, width))

        self.conv: nn.Sequential = convolution(in_channels)
        self.conv_inner: nn.Sequential = convolution(width)
        self.final: nn.Sequential = nn.Sequential(nn.Conv2d(width, out_channels, 1, bias=False))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return activation_of(self.activation)(self.logits(x))

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def logits(self, x: Tensor) -> Tensor:
        return spatial_logits(self, x)

    def why_not_fused(self) -> str | None:
        """Why the children are called; None where the operations compute what they do."""
        return why_not_spatial(self)


class ChannelAttention(plain.Module):
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
        self.activation: str | None = activation
        self.conv1: nn.Sequential = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False), norm_and_activation(norm, hidden)
        )
        self.conv2: nn.Sequential = nn.Sequential(nn.Conv2d(hidden, out_channels, 1, bias=False))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return activation_of(self.activation)(self.logits(x))

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def logits(self, x: Tensor, upsampling: Tensor | None = None) -> Tensor:
        """`upsampling` as in `channel_attention`."""
        return channel_logits(self, x, upsampling=upsampling)

    def why_not_fused(self) -> str | None:
        """Why the children are called; None where the operation computes what they do."""
        return why_not_channel(self)


def spatial_logits(module: Any, x: Tensor, abn: ABNs = ()) -> Tensor:
    """Of a module with the children of `SpatialAttention`; `abn` as in `norm.why_called`."""
    if not plain.is_plain(x) or why_not_spatial(module, abn) is not None:
        return module.final(module.conv_inner(module.conv(x)))
    conv, first = module.conv._modules.values()
    inner, second = module.conv_inner._modules.values()
    (final,) = module.final._modules.values()
    norm, norm_inner = _norm_of(first), _norm_of(second)
    if not plain.is_recorded() and not module.training:
        logits = _convolved(inner(folding.sequence(module.conv, x)), norm_inner, final)
        norms.count_batches(norm_inner)
    else:
        logits = _convolved(_convolved(conv(x), norm, inner), norm_inner, final)
        norms.count_batches(norm, norm_inner)
    return logits


def _norm_of(layer: Any) -> Any:
    """The norm of a layer of norm and activation."""
    return next(iter(layer._modules.values()))


def _convolved(hidden: Tensor, norm: Any, conv: Any) -> Tensor:
    """The norm and its activation, then `conv`."""
    if conv.kernel_size == (1, 1) and conv.out_channels == 1 and conv.bias is None and _keeps_size(conv):
        return bn_relu_project(hidden, project_weight=conv.weight, **norms.arguments(norm))
    return folding.by_operation(hidden, norm, conv)


def why_not_spatial(module: Any, abn: ABNs = ()) -> str | None:
    reason = plain.why_observed()
    if reason is not None:
        return reason
    layers = module._modules
    for name, length in (("conv", 2), ("conv_inner", 2), ("final", 1)):
        reason = plain.why_called(layers[name], nn.Sequential, length)
        if reason is not None:
            return f"{name} {reason}"
    conv, conv_inner, final = layers["conv"], layers["conv_inner"], layers["final"]
    _, first = conv._modules.values()
    inner, second = conv_inner._modules.values()
    (project,) = final._modules.values()
    reason = None if folding.is_folded(conv) else norms.why_called("conv.1", first, abn)
    reason = reason or norms.why_called("conv_inner.1", second, abn)
    if reason is not None:
        return reason
    for name, layer in (("conv_inner.0", inner), ("final.0", project)):
        reason = folding.why_not_convolution(layer)
        if reason is not None:
            return f"{name} {reason}"
    return None


def channel_logits(module: Any, x: Tensor, abn: ABNs = (), upsampling: Tensor | None = None) -> Tensor:
    """Of a module with the children of `ChannelAttention`; `abn` as in `norm.why_called`, and `upsampling` as in
    `channel_attention`."""
    if not plain.is_plain(x) or why_not_channel(module, abn) is not None:
        if upsampling is not None:
            avg, max = upsampled_pool(x, upsampling)
        elif plain.is_plain(x):
            avg, max = global_avg_max_pool(x)
        else:
            avg, max = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        of_max = module.conv2(module.conv1(max))
        return of_max + module.conv2(module.conv1(avg))
    conv1, layer = module.conv1._modules.values()
    (conv2,) = module.conv2._modules.values()
    norm = _norm_of(layer)
    logits = channel_attention(
        x, conv1_weight=conv1.weight, conv2_weight=conv2.weight, upsampling=upsampling, **norms.arguments(norm)
    )
    norms.count_batches(norm, batches=2)
    return logits


def why_not_channel(module: Any, abn: ABNs = ()) -> str | None:
    reason = plain.why_observed()
    if reason is not None:
        return reason
    conv1, conv2 = module._modules["conv1"], module._modules["conv2"]
    for name, layer, length in (("conv1", conv1, 2), ("conv2", conv2, 1)):
        reason = plain.why_called(layer, nn.Sequential, length)
        if reason is not None:
            return f"{name} {reason}"
    first, layer = conv1._modules.values()
    (second,) = conv2._modules.values()
    for name, conv in (("conv1", first), ("conv2", second)):
        reason = folding.why_not_convolution(conv)
        if reason is None and not (conv.kernel_size == (1, 1) and conv.bias is None and _keeps_size(conv)):
            reason = "is more than a matrix: it has a bias, a kernel beyond 1x1, a stride, a padding or groups"
        if reason is not None:
            return f"{name}.0 {reason}"
    return norms.why_called("conv1.1", layer, abn)


def _keeps_size(conv: Any) -> bool:
    return conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


class AttentiveFusion(plain.Module):
    """AFA of two feature maps: spatial attention of the shallow one, channel attention of the deep one, and
    `attentive_fusion` by both.

    Args:
        shallow_channels: of the shallow map, and of the result.
        deep_channels: of the deep map, which is then projected to `shallow_channels` by a 1x1 convolution with norm and
            ReLU; default, it has them already.
        norm: as in `SpatialAttention`.

    Returns (N, shallow_channels, H, W) for a shallow map of that shape and a deep one of any height and width, which
    is resized bilinearly.

    >>> import torch, afa_kernels.nn
    >>> shallow, deep = torch.randn(2, 16, 8, 8), torch.randn(2, 32, 4, 4)
    >>> afa_kernels.nn.AttentiveFusion(16, 32)(shallow, deep).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(self, shallow_channels: int, deep_channels: int | None = None, norm: Norm = "bn") -> None:
        super().__init__()
        self.project: nn.Sequential | None = None
        if deep_channels is not None:
            inputs = checks.integer("deep_channels", deep_channels)
            conv = nn.Conv2d(inputs, shallow_channels, 1, bias=False)
            self.project = nn.Sequential(conv, norm_and_activation(norm, shallow_channels))
            initialise(self.project)
        self.sa: SpatialAttention = SpatialAttention(shallow_channels, norm=norm)
        self.ca: ChannelAttention = ChannelAttention(shallow_channels, shallow_channels, norm=norm)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        if self.project is not None:
            deep = self.project(deep)
        return attentive(shallow, resized_to(deep, size_of(shallow)), self.sa, self.ca)

    if TYPE_CHECKING:

        def __call__(self, shallow: Tensor, deep: Tensor) -> Tensor: ...

    def why_not_fused(self) -> str | None:
        """Why the attention modules are called; None where their logits go into `attentive_fusion`."""
        return why_not_by_logits(sa=self.sa, ca=self.ca)


class ProgressiveFusion(plain.Module):
    """AFA of any number of feature maps, coarse to fine, by attention modules that they share: `progressive_fusion`.

    >>> import torch, afa_kernels.nn
    >>> afa_kernels.nn.ProgressiveFusion(16)([torch.randn(2, 16, 8, 8) for _ in range(3)]).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(self, channels: int, norm: Norm = "bn") -> None:
        super().__init__()
        self.sa: SpatialAttention = SpatialAttention(channels, norm=norm)
        self.ca: ChannelAttention = ChannelAttention(channels, channels, norm=norm)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return progressive(features, self.sa, self.ca)

    if TYPE_CHECKING:

        def __call__(self, features: Sequence[Tensor]) -> Tensor: ...

    def why_not_fused(self) -> str | None:
        """Why the attention modules are called; None where their logits go into `progressive_fusion`."""
        return why_not_by_logits(sa=self.sa, ca=self.ca)


class OfficialForward:
    """In the place of `forward` of an attention module of the official code: logits from the operations.

    Returns (attention, logits) with sigmoid, the default; with another activation (None, that of the logits).
    """

    def __init__(self, module: nn.Module, logits: Callable[..., Tensor], abn: ABNs) -> None:
        self.module: nn.Module = module
        self.abn: ABNs = abn
        self._logits = logits

    def logits(self, x: Tensor, **options: Any) -> Tensor:
        return self._logits(self.module, x, self.abn, **options)

    def why_not_fused(self) -> str | None:
        return (why_not_spatial if self._logits is spatial_logits else why_not_channel)(self.module, self.abn)

    def __call__(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        logits, activation = self.logits(x), getattr(self.module, "activation", "sigmoid")
        if activation in ("relu", "abs"):
            return None, getattr(logits, activation)()
        return logits.sigmoid(), logits


def attentive(
    shallow: Tensor, deep: Tensor | Callable[[bool], tuple[Tensor, Tensor | None]], sa: nn.Module, ca: nn.Module
) -> Tensor:
    """`attentive_fusion` by the logits of attention modules, or, where these must be called, by their attention.

    `deep` may be a function that makes the map: after the spatial attention, whose memory is then free again. Where its
    argument is True it may leave the last step, an upsampling, to `upsampled_fusion`, and give the weight for it.
    """
    by_logits = plain.is_plain(shallow) and why_not_by_logits(sa=sa, ca=ca) is None
    a = _logits_of(sa)(shallow) if by_logits else _attention(sa, shallow)
    weight = None
    if callable(deep) and not isinstance(deep, (Tensor, fx.Proxy)):
        deep, weight = deep(by_logits)
    if weight is not None:
        return upsampled_fusion(shallow, deep, weight, a, _logits_of(ca)(deep, upsampling=weight))
    if by_logits:
        return attentive_fusion(shallow, deep, a, _logits_of(ca)(deep))
    b = _attention(ca, deep)
    return _in_type_of((shallow, deep), a * (1 - b) * shallow + (1 - a) * b * deep)


def progressive(features: Sequence[Tensor], sa: nn.Module, ca: nn.Module, size: Any = None) -> Tensor:
    """`progressive_fusion` by the logits of shared attention modules, or, where these must be called, by attention.

    With a `size`, of the features resized to it: by `resized_fusion` if a kernel runs it, else they are stored.
    """
    by_logits = all(map(plain.is_plain, features)) and why_not_by_logits(sa=sa, ca=ca) is None
    if by_logits and size is not None and backends.has_kernel("resized_fusion", features[0].device.type):
        logits = [(_logits_of(sa)(x), _logits_of(ca)(x)) for x in (resized_to(x, size) for x in features)]
        return resized_fusion(features, [s for s, _ in logits], [q for _, q in logits])
    if size is not None:
        features = [resized_to(x, size) for x in features]
    if by_logits:
        of_sa, of_ca = _logits_of(sa), _logits_of(ca)
        return progressive_fusion(features, [of_sa(x) for x in features], [of_ca(x) for x in features])
    out: Any = None
    for x in features:
        a, b = _attention(sa, x), _attention(ca, x)
        out = a * b * x if out is None else a * b * x + (1 - a) * (1 - b) * out
    return _in_type_of(features, out)


def why_not_by_logits(**attentions: Any) -> str | None:
    """Why one of the attention modules must be called; None where all have logits that say the same."""
    reason = plain.why_observed()
    if reason is not None:
        return reason
    for name, module in attentions.items():
        if type(module.__dict__.get("forward")) is OfficialForward:
            if plain.has_hooks(module):
                return f"{name} has hooks"
        elif type(module) not in (SpatialAttention, ChannelAttention):
            return f"{name} is a {type(module).__name__}"
        elif module.activation not in ("sigmoid", None):
            return f"{name} has the activation {module.activation!r}"
        else:
            reason = plain.why_hooked(module)
            if reason is not None:
                return f"{name} {reason}"
    return None


def _logits_of(module: Any) -> Callable[..., Tensor]:
    official = module.__dict__.get("forward")
    return module.logits if official is None else official.logits


def _attention(module: Any, x: Tensor) -> Tensor:
    """What an attention module gives when it is called, in the arithmetic's type."""
    a = module(x)
    if isinstance(a, (tuple, list)):  # (attention, logits), as in the official code
        a = a[0]
    elif isinstance(module, (SpatialAttention, ChannelAttention)) and module.activation is None:
        a = a.sigmoid()
    return a.float() if isinstance(a, Tensor) and a.dtype in (torch.float16, torch.bfloat16) else a


def _in_type_of(features: Sequence[Tensor], out: Tensor) -> Tensor:
    if not isinstance(out, Tensor):
        return out
    dtype = features[0].dtype
    for x in features[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return out.to(dtype)
