"""`fold`: a network for evaluation whose convolutions carry the norms behind them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._pytree import tree_leaves

from afa_kernels.nn import folding, plain
from afa_kernels.nn import norm as norms
from afa_kernels.nn.attention import ChannelAttention, OfficialForward, SpatialAttention

# How far, as a share of the largest value, rounding may take the folded network from the other.
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}


def fold(model: nn.Module, *example: Any) -> nn.Module:
    """A copy of `model` in evaluation mode in which norm(conv(x)) is one convolution, computed once.

        weight' = weight gamma / sqrt(running_var + eps),    bias' = beta + (bias - running_mean) gamma / sqrt(...)

    A norm is folded where in a run of `example` its input is the result of a convolution: of any network, BatchNorm2d
    and `ABN` behind Conv2d, all exactly the plain layers, without hooks. Identity takes the place of BatchNorm2d,
    LeakyReLU that of ABN. The norms of channel attention, and the one that spatial attention has before its last
    convolution, stay where the operations compute them in the same pass.

    The modules of this package fold at every call of evaluation without gradients; a folded copy saves these small
    operations, a few for every convolution, of which a GPU launches each. Its state dict is another: load first.

    Args:
        model: not changed.
        example: arguments that it can be called with, on its device.

    Raises:
        TypeError: no example.
        RuntimeError: on `example` the copy gives something else: `model` uses a convolution's result twice, or is not
            the same at every call.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018, section 3.2.

    >>> import torch, afa_kernels
    >>> from torch import nn
    >>> layers = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    >>> afa_kernels.fold(layers, torch.randn(1, 3, 16, 16))
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    if not example:
        raise TypeError("fold needs an example: fold(model, image), whose run shows which norm follows a convolution")
    folded = copy.deepcopy(model).eval()
    with torch.no_grad():
        expected = _tensors(folded(*example))
        names = {module: name for name, module in folded.named_modules()}
        for norm, conv in _behind(folded, example).items():
            _replace(folded, names[conv], fuse_conv_bn_eval(conv, _as_batch_norm(norm)))
            _replace(folded, names[norm], _activation_of(norm))
        got = _tensors(folded(*example))
    for mine, theirs in zip(got, expected, strict=True):
        limit = TOLERANCES.get(theirs.dtype, 0.05) * float(theirs.abs().max())
        error = float((mine - theirs).abs().max())
        if not error <= limit:
            raise RuntimeError(
                f"the folded {type(model).__name__} differs from it by {error:.1e}, more than {limit:.1e}: it uses "
                "what a convolution returns twice, or is not the same at every call"
            )
    return folded


def _behind(model: nn.Module, example: tuple[Any, ...]) -> dict[Any, Any]:
    """The norms that get what one convolution returns and nothing else, at each of its calls, with it."""
    kept = set(_kept(model))
    convolutions = [m for m in model.modules() if folding.why_not_convolution(m) is None and m not in kept]
    normalising = [m for m in model.modules() if _is_norm(m) and m not in kept]
    calls: Counter[Any] = Counter()  # of each module, and of a norm with the convolution whose result it got
    latest: list[Any] = [None, None]

    def after(conv: nn.Module, _: Any, out: Tensor) -> None:
        calls[conv] += 1
        latest[:] = conv, out

    def before(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[norm] += 1
        conv, out = latest
        calls[norm, conv] += out is (*args, *kwargs.values())[0]

    handles = [m.register_forward_hook(after) for m in convolutions]
    handles += [m.register_forward_pre_hook(before, with_kwargs=True) for m in normalising]
    model(*example)
    for handle in handles:
        handle.remove()
    pairs = [key for key in calls if isinstance(key, tuple)]
    return {norm: conv for norm, conv in pairs if 0 < calls[norm, conv] == calls[norm] == calls[conv]}


def _kept(model: nn.Module) -> Iterator[nn.Module]:
    """What the operations compute in one pass with more than the norm."""
    for module in model.modules():
        if isinstance(module, ChannelAttention) or type(module.__dict__.get("forward")) is OfficialForward:
            yield from module.modules()
        elif isinstance(module, SpatialAttention):
            yield from module.conv_inner.modules()


def _is_norm(module: Any) -> bool:
    return (
        type(module) in (nn.BatchNorm2d, norms.ABN)
        and module.running_mean is not None
        and plain.why_hooked(module) is None
        and norms.why_not_computed(module) is None
    )


def _as_batch_norm(norm: Any) -> nn.BatchNorm2d:
    if type(norm) is nn.BatchNorm2d:
        return norm
    same = nn.BatchNorm2d(norm.weight.numel(), norm.eps).to(norm.weight).eval()
    same.weight = nn.Parameter(norm.weight.abs() + norm.eps)
    same.bias, same.running_mean, same.running_var = norm.bias, norm.running_mean, norm.running_var
    return same


def _activation_of(norm: Any) -> nn.Module:
    return nn.Identity() if type(norm) is nn.BatchNorm2d else nn.LeakyReLU(norm.activation_param, inplace=True)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _tensors(result: Any) -> list[Tensor]:
    return [x for x in tree_leaves(result) if isinstance(x, Tensor) and x.is_floating_point() and x.numel() > 0]
