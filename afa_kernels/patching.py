"""patch: put this package's modules in the place of the official code's, in a model that somebody else has built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from afa_kernels.nn.aggregation import AFAIDAUp
from afa_kernels.nn.attention import ABN, ChannelAttention, SpatialAttention, progressive


@dataclass
class Patch:
    """What `patch` replaced, by name within the model."""

    replaced: list[str] = field(default_factory=list)
    _before: list[tuple[nn.Module, str, Any]] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Put everything back. Parameters and buffers were shared, so what was learned since stays."""
        for parent, name, module in reversed(self._before):
            if module is None:
                delattr(parent, name)
            else:
                setattr(parent, name, module)
        self.replaced.clear()
        self._before.clear()


def patch(model: nn.Module) -> Patch:
    """Replace the attention and up modules of the official AFA code inside `model`, which keeps its parameters.

    Found by their structure and the names of their children, whatever their class is called; the official package is
    not imported. The replacements share every parameter and buffer, take and return what the originals do, and the
    model's state dict keeps its keys:

    - spatial attention (`conv`, `conv_inner`, `final`) and channel attention (`conv1`, `conv2`), which return a pair;
    - the iterative up-path (`proj_i`, `up_i`, `sa_i`, `ca_i`);
    - `final_feature_fusion` of a module that has `level_sa` and `level_ca`;
    - InPlaceABN with leaky ReLU of slope 0.01 inside them, by `afa_kernels.nn.ABN`, whose statistics are those of one
      process.

    Args:
        model: searched in all its children, not replaced itself.

    Returns:
        A `Patch`, with the names of what was `replaced`, and `undo()`.

    Raises:
        TypeError: `model` is no module.

    >>> import afa_kernels, torch
    >>> afa_kernels.patch(torch.nn.Sequential(torch.nn.ReLU())).replaced
    []
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    done = Patch()
    _walk(model, "", done)
    return done


def _walk(parent: nn.Module, path: str, done: Patch) -> None:
    for name, child in list(parent.named_children()):
        full = f"{path}{name}"
        if isinstance(child, (SpatialAttention, ChannelAttention, AFAIDAUp)):
            continue
        _walk(child, f"{full}.", done)
        ours = _replacement(child, done)
        if ours is not None:
            done._before.append((parent, name, child))
            done.replaced.append(full)
            setattr(parent, name, ours)
    fusion = getattr(parent, "final_feature_fusion", None)
    has_attention = {"level_sa", "level_ca"} <= dict(parent.named_children()).keys()
    if has_attention and fusion is not None and not isinstance(fusion, _LevelFusion):
        done._before.append((parent, "final_feature_fusion", None))
        done.replaced.append(f"{path}final_feature_fusion")
        object.__setattr__(parent, "final_feature_fusion", _LevelFusion(parent))


def _replacement(theirs: nn.Module, done: Patch) -> nn.Module | None:
    children = dict(theirs.named_children())
    if {"conv", "conv_inner", "final"} <= children.keys() and _is_convolution(children["conv"]):
        _replace_abn([children["conv"], children["conv_inner"]], done)
        return _sharing(_PairOfSpatialAttention, theirs, activation=getattr(theirs, "activation", "sigmoid"))
    if {"conv1", "conv2"} <= children.keys() and _is_convolution(children["conv1"]):
        _replace_abn([children["conv1"]], done)
        return _sharing(_PairOfChannelAttention, theirs, activation="sigmoid")
    if {"proj_0", "up_0", "sa_1", "ca_1"} <= children.keys():
        return _sharing(AFAIDAUp, theirs, layers=sum(name.startswith("proj_") for name in children))
    return None


def _is_convolution(layer: nn.Module) -> bool:
    """A convolution, then its norm and activation, as the attention modules have them."""
    return (
        isinstance(layer, nn.Sequential)
        and len(layer) == 2
        and isinstance(layer[0], nn.Conv2d)
        and isinstance(layer[1], nn.Sequential)
    )


def _replace_abn(convolutions: Sequence[nn.Module], done: Patch) -> None:
    for convolution in convolutions:
        layer = convolution.get_submodule("1")
        theirs: Any = layer.get_submodule("0")
        if type(theirs).__name__ in ("ABN", "InPlaceABN", "InPlaceABNSync") and not isinstance(theirs, ABN):
            if theirs.activation != "leaky_relu" or theirs.activation_param != ABN.slope:
                continue
            ours = ABN(theirs.num_features, theirs.eps, theirs.momentum)
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(ours, name, getattr(theirs, name, None))
            ours.train(theirs.training)
            done._before.append((layer, "0", theirs))
            setattr(layer, "0", ours)


def _sharing(kind: type[nn.Module], theirs: nn.Module, **attributes: Any) -> nn.Module:
    """A module of `kind` with the children of `theirs`."""
    ours = kind.__new__(kind)
    nn.Module.__init__(ours)
    for name, child in theirs.named_children():
        setattr(ours, name, child)
    for name, value in attributes.items():
        setattr(ours, name, value)
    ours.training = theirs.training
    return ours


class _PairOfSpatialAttention(SpatialAttention):
    """Returns (attention, logits) with sigmoid; with another activation None and that of the logits."""

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:  # type: ignore[override]
        logits = self.logits(x)
        if self.activation in ("relu", "abs"):
            return None, getattr(logits, self.activation)()
        return logits.sigmoid(), logits


class _PairOfChannelAttention(ChannelAttention):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        logits = self.logits(x)
        return logits.sigmoid(), logits


class _LevelFusion:
    """The official method `final_feature_fusion` of the module `trunk`."""

    def __init__(self, trunk: Any) -> None:
        self.trunk = trunk

    def __call__(self, final_layers: Sequence[Tensor]) -> Tensor:
        size = final_layers[-1].shape[2:]
        projected = (getattr(self.trunk, f"proj_{i + 1}")(x) for i, x in enumerate(final_layers[:-1]))
        features = [nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in projected]
        return progressive([*features, final_layers[-1]], self.trunk.level_sa, self.trunk.level_ca)
