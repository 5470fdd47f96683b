"""Norm layers with their activation: ABN, and what of them the operations compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from afa_kernels.nn import plain
from afa_kernels.ops._registration import values_are_there

Norm = str | Callable[[int], nn.Module]


class ABN(nn.Module):
    """Batch norm and leaky ReLU of slope 0.01 as InPlaceABN has them: gamma = |weight| + eps. Parameter names as there.

    The statistics are those of this process; InPlaceABNSync takes them over all.

    >>> import torch, afa_kernels.nn
    >>> afa_kernels.nn.ABN(8)(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    activation: str = "leaky_relu"
    activation_param: float = 0.01
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor | None

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps: float = eps
        self.momentum: float = momentum
        norm = nn.BatchNorm2d(num_features)
        self.weight: nn.Parameter = norm.weight
        self.bias: nn.Parameter = norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):
            return plain.as_leaf(self, x)  # as torch.nn's norms are
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        gamma = self.weight.abs() + self.eps
        statistics = self.running_mean, self.running_var
        y = F.batch_norm(x, *statistics, gamma, self.bias, self.training, self.momentum, self.eps)
        return F.leaky_relu(y, self.activation_param)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

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


def why_called(name: str, layer: Any, abn: tuple[type[nn.Module], ...] = ()) -> str | None:
    """Why a layer `name` of norm and activation must be called, as a sentence.

    None for BatchNorm2d and ReLU, for `ABN`, and for the types `abn` known to compute what `ABN` does. A norm such as
    SyncBatchNorm takes its statistics from elsewhere.
    """
    reason = plain.why_called(layer, nn.Sequential)
    if reason is not None:
        return f"{name} {reason}"
    norm, *activation = layer._modules.values() or (layer,)
    kind = type(norm)
    if kind is nn.BatchNorm2d:
        if len(activation) != 1:
            return f"{name} has {1 + len(activation)} layers, not a norm and ReLU"
        reason = plain.why_called(activation[0], nn.ReLU)
        if reason is not None:
            return f"{name}.1 {reason}"
    elif kind is not ABN and kind not in abn:
        return f"{name}.0 is a {kind.__name__}, not exactly a BatchNorm2d or ABN"
    elif activation:
        return f"{name} has {1 + len(activation)} layers, not an ABN alone"
    reason = plain.why_hooked(norm) or why_not_computed(norm)
    return reason and f"{name}.0 {reason}"


def why_not_computed(norm: Any) -> str | None:
    """What of a norm's settings the operations lack."""
    if type(norm) is not nn.BatchNorm2d:
        if norm.activation != "leaky_relu":
            return f"has the activation {norm.activation}"
        if "Sync" in type(norm).__name__ and norm.training and _processes() > 1:
            return "takes its statistics over several processes"
    parameters, buffers = norm._parameters, norm._buffers  # an attribute of a module is slow to find
    if parameters.get("weight") is None or parameters.get("bias") is None:
        return "has no weight or no bias"
    if (buffers.get("running_mean") is None) != (buffers.get("running_var") is None):
        return "has one of the running statistics alone"
    if norm.training and norm.momentum is None:
        return "averages over all batches"
    return None


def _processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def arguments(norm: Any) -> dict[str, Any]:
    """The arguments by which the operations compute what a norm and its activation do, where `why_called` is None."""
    tracked = not norm.training or _tracks(norm)
    given = {
        "weight": norm.weight,
        "bias": norm.bias,
        "running_mean": norm.running_mean if tracked else None,
        "running_var": norm.running_var if tracked else None,
        "training": norm.training,
        "momentum": 0.0 if norm.momentum is None else norm.momentum,
        "eps": norm.eps,
    }
    if type(norm) is nn.BatchNorm2d:
        return given
    return {**given, "activation_slope": norm.activation_param, "abs_weight": True}


def count_batches(*norms: Any, batches: int = 1) -> None:
    """What norms do in training besides their arithmetic.

    In one launch; not under torch.func, which has no rule for that, nor of a norm that stands twice, which would count
    once.
    """
    training = [norm for norm in norms if norm.training and _tracks(norm)]
    counted = [norm._buffers.get("num_batches_tracked") for norm in training]
    found = [tensor for tensor in counted if tensor is not None]
    if found and values_are_there(found[0]) and len(set(map(id, found))) == len(found):
        torch._foreach_add_(found, batches)
    else:
        for tensor in found:
            tensor.add_(batches)


def _tracks(norm: Any) -> bool:
    return type(norm) is not nn.BatchNorm2d or norm.track_running_stats


def initialise(module: nn.Module) -> None:
    """As the official code: convolutions for ReLU, gamma uniform, beta zero."""
    for m in module.modules():
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        elif isinstance(m, (nn.BatchNorm2d, ABN)) and m.weight is not None:
            nn.init.uniform_(m.weight)
            nn.init.zeros_(m.bias)
