"""A convolution and the norm behind it as one convolution, and a norm with the convolution behind it as one operation.

Where nothing is recorded for backward, norm(conv(x)) in evaluation mode is a convolution with other weights, whose
result ReLU then changes in place: one map in memory instead of three. In training conv(relu(norm(x))) is
`bn_relu_conv2d`, which keeps x alone. Both only of layers that are exactly the plain ones; others are called.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels.nn import norm as norms
from afa_kernels.nn import plain
from afa_kernels.ops.bn_relu_conv2d import bn_relu_conv2d


def sequence(layers: nn.Module, x: Tensor) -> Tensor:
    """Of a convolution, a norm and perhaps an activation, which may be in a Sequential of their own."""
    flat = list(_flat(layers))
    if not _may_fold(x) or len(flat) not in (2, 3) or None in flat:
        return layers(x)
    conv, norm, *activation = flat
    plainly = all(type(layer) is nn.ReLU and plain.why_hooked(layer) is None for layer in activation)
    if not plainly or not _is_foldable(conv, norm):
        return layers(x)
    return _folded(x, conv, norm, rectify=bool(activation))


def sequences(every: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Of Sequentials of a convolution, a norm and ReLU each, one after the other."""
    plainly = all(plain.why_called(layers, nn.Sequential, 3) is None for layers in every)
    if not plainly or _may_fold(x):
        for layers in every:
            x = sequence(layers, x)
        return x
    parts = [tuple(layers._modules.values()) for layers in every]
    if any(plain.why_called(activation, nn.ReLU) is not None for _, _, activation in parts):  # type: ignore[arg-type]
        for layers in every:
            x = layers(x)
        return x
    return F.relu(several(x, *((conv, norm) for conv, norm, _ in parts)))


def convolved(x: Tensor, conv: Any, norm: Any, rectify: bool) -> Tensor:
    """norm(conv(x)), and ReLU of it if asked for; an ABN rectifies in any case."""
    if _may_fold(x) and _is_foldable(conv, norm):
        return _folded(x, conv, norm, rectify)
    out = norm(conv(x))
    return F.relu(out) if rectify else out


def convolved_after(hidden: Tensor, norm: Any, conv: Any) -> Tensor:
    """conv(relu(norm(hidden)))."""
    if (
        not plain.is_plain(hidden)
        or plain.why_observed() is not None
        or plain.why_called(norm, nn.BatchNorm2d) is not None
        or norms.why_not_computed(norm) is not None
        or why_not_convolution(conv) is not None
    ):
        return conv(F.relu(norm(hidden)))
    out = by_operation(hidden, norm, conv)
    norms.count_batches(norm)
    return out


def by_operation(hidden: Tensor, norm: Any, conv: Any) -> Tensor:
    """conv of the rectified norm by `bn_relu_conv2d`, where this computes what they do."""
    return bn_relu_conv2d(
        hidden,
        conv_weight=conv.weight,
        conv_bias=conv.bias,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        **norms.arguments(norm),
    )


def several(x: Tensor, *layers: tuple[Any, Any]) -> Tensor:
    """Of convolutions, each with its norm: all but the last are rectified."""
    if _may_fold(x):
        for conv, norm in layers[:-1]:
            x = convolved(x, conv, norm, rectify=True)
        return convolved(x, *layers[-1], rectify=False)
    hidden = layers[0][0](x)
    for (_, norm), (conv, _) in itertools.pairwise(layers):
        hidden = convolved_after(hidden, norm, conv)
    return layers[-1][1](hidden)


def why_not_convolution(conv: Any) -> str | None:
    reason = plain.why_called(conv, nn.Conv2d)
    if reason is None and (conv.padding_mode != "zeros" or isinstance(conv.padding, str)):
        reason = f"has padding={conv.padding!r}, padding_mode={conv.padding_mode!r}"
    return reason


def _may_fold(x: Tensor) -> bool:
    return not plain.is_recorded() and plain.is_plain(x) and plain.why_observed() is None


def _flat(layer: nn.Module | None) -> Iterable[nn.Module | None]:
    """The layers within Sequentials; None for a Sequential that must be called."""
    if not isinstance(layer, nn.Sequential):
        yield layer
    elif plain.why_called(layer, nn.Sequential) is not None:
        yield None
    else:
        for inner in layer._modules.values():
            yield from _flat(inner)


def is_folded(layers: Any) -> bool:
    """Whether they are a convolution that `fold` gave its norm and an activation, where `sequence` may be called."""
    conv, *others = _flat(layers)
    kinds = [type(layer) for layer in others]
    folded = kinds in ([nn.Identity, nn.ReLU], [nn.LeakyReLU]) and why_not_convolution(conv) is None
    return folded and not plain.is_recorded()


def _is_foldable(conv: Any, norm: Any) -> bool:
    if type(norm) is nn.Identity:
        return plain.why_hooked(norm) is None and why_not_convolution(conv) is None
    return (
        type(norm) in (nn.BatchNorm2d, norms.ABN)
        and not norm.training
        and norm._buffers.get("running_mean") is not None
        and plain.why_hooked(norm) is None
        and norms.why_not_computed(norm) is None
        and why_not_convolution(conv) is None
    )


def _folded(x: Tensor, conv: Any, norm: Any, rectify: bool) -> Tensor:
    if type(norm) is nn.Identity:
        return conv(x).relu_() if rectify else conv(x)
    given = norms.arguments(norm)
    dtype = torch.promote_types(conv.weight.dtype, torch.float32)
    gamma = given["weight"].to(dtype)
    if given.get("abs_weight"):
        gamma = gamma.abs() + given["eps"]
    gain = gamma * torch.rsqrt(given["running_var"].to(dtype) + given["eps"])
    mean = given["running_mean"].to(dtype)
    bias = given["bias"].to(dtype) - gain * (mean if conv.bias is None else mean - conv.bias.to(dtype))
    weight = (conv.weight.to(dtype) * gain[:, None, None, None]).to(conv.weight.dtype)
    out = F.conv2d(x, weight, bias.to(conv.weight.dtype), conv.stride, conv.padding, conv.dilation, conv.groups)
    slope = given.get("activation_slope")
    if slope is not None:
        return F.leaky_relu_(out, slope)
    return out.relu_() if rectify else out
