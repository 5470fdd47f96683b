"""patch: run the official code's modules, in a model that somebody else has built, by this package's operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from afa_kernels.nn import plain
from afa_kernels.nn.aggregation import AFAIDAUp, aggregated, fused_levels, listed
from afa_kernels.nn.attention import (
    ChannelAttention,
    OfficialForward,
    SpatialAttention,
    channel_logits,
    spatial_logits,
    why_not_by_logits,
    why_not_channel,
    why_not_spatial,
)
from afa_kernels.nn.norm import ABN

INPLACE_ABN = ("ABN", "InPlaceABN", "InPlaceABNSync")


@dataclass
class Patch:
    """What `patch` replaced, and what it left alone although it looks like the official code: (name, reason)."""

    replaced: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    _methods: list[tuple[nn.Module, str, Any]] = field(default_factory=list, repr=False)

    def _decide(self, name: str, candidate: _Candidate) -> None:
        module, method = candidate.module, candidate.method
        name = name if method == "forward" else f"{name}.{method}".removeprefix(".")
        reason = candidate.why_not or _why_not_same(candidate)
        if reason is not None:
            self.skipped.append((name, reason))
            return
        ours = candidate.ours(module)
        object.__setattr__(module, method, ours)
        self._methods.append((module, method, ours))
        self.replaced.append(name)

    def undo(self) -> None:
        """Put everything back. What was learned, hooked or set since stays."""
        for module, method, ours in reversed(self._methods):
            if module.__dict__.get(method) is ours:
                object.__delattr__(module, method)
        self.replaced.clear()
        self.skipped.clear()
        self._methods.clear()


def patch(model: nn.Module, *, check: Any = None) -> Patch:
    """Let the attention and up modules of the official AFA code inside `model` compute by this package's operations.

    Every module stays the object it is, with its class, parameters, buffers, children, hooks and attributes; what is
    replaced is its `forward` (which the replicas of nn.DataParallel, unlike DDP's, would share: undo it there). The
    official package is not imported. Found, whatever their class is called, are

    - spatial attention (`conv`, `conv_inner`, `final`) and channel attention (`conv1`, `conv2`), which return a pair;
    - the iterative up-path (`proj_i`, `up_i`, `sa_i`, `ca_i`);
    - the method `final_feature_fusion` of a module that has `level_sa` and `level_ca`;

    with BatchNorm2d and ReLU, or InPlaceABN with leaky ReLU, whose statistics over several processes stay theirs.

    One is replaced only if it has the children, parameters and buffers of the official module and no others, and if on
    a copy with other weights and random inputs the replacement returns the same, in evaluation mode and, where the
    original runs in it, in training. What looks like an official module and is none is left alone, and listed.

    Args:
        model: it and all its children are searched.
        check: an input, or a tuple of them, on which the whole model is compared before and after in evaluation mode.

    Returns:
        A `Patch`, with the names of what was `replaced`, what was `skipped` and why, and `undo()`.

    Raises:
        TypeError: `model` is no module.
        ValueError: the outputs on `check` differ, by how much; everything has been put back.

    >>> import afa_kernels, torch
    >>> afa_kernels.patch(torch.nn.Sequential(torch.nn.ReLU())).replaced
    []
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    arguments = check if isinstance(check, tuple) else (check,)
    before = None if check is None else _evaluated(model, arguments)
    done = Patch()
    for name, module in reversed(list(model.named_modules())):  # children first
        for candidate in _candidates(module):
            if not candidate.is_ours:
                done._decide(name, candidate)
    if before is not None:
        try:
            difference = _difference(_evaluated(model, arguments), before)
        except BaseException:
            done.undo()
            raise
        if difference is not None:
            replaced = ", ".join(done.replaced)
            done.undo()
            raise ValueError(f"the outputs on check differ after replacing {replaced}: {difference}; all was put back")
    return done


class _UpForward:
    """In the place of `forward` of the official up-path."""

    def __init__(self, module: nn.Module, count: int) -> None:
        self.module, self.count = module, count

    def why_not_fused(self) -> str | None:
        names = [f"{kind}_{i}" for i in range(1, self.count) for kind in ("sa", "ca")]
        return why_not_by_logits(**{name: getattr(self.module, name) for name in names})

    def __call__(self, layers: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return aggregated(self.module, listed(layers, self.count))


class _LevelFusion:
    """In the place of the official method `final_feature_fusion`."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, final_layers: Sequence[Tensor]) -> Tensor:
        return fused_levels(self.module, final_layers)


OURS = (OfficialForward, _UpForward, _LevelFusion)
Random = Callable[..., Tensor]


@dataclass
class _Candidate:
    """A method of a module that looks like one of the official code."""

    module: nn.Module
    method: str
    ours: Callable[[nn.Module], Callable[[Any], Any]]  # its replacement for a module
    inputs: Callable[[Random], Any]  # to compare it on
    why_not: str | None  # by structure

    @property
    def is_ours(self) -> bool:
        return isinstance(self.module.__dict__.get(self.method), OURS)


def _candidates(module: Any) -> Iterator[_Candidate]:
    if isinstance(module, (SpatialAttention, ChannelAttention, AFAIDAUp)):
        return
    children = set(module._modules.keys())  # of a scripted module they are a list
    if {"conv", "conv_inner", "final"} <= children and isinstance(module.conv, nn.Sequential):
        yield _attention(module, {"conv", "conv_inner", "final"}, spatial_logits, why_not_spatial)
    elif {"conv1", "conv2"} <= children and isinstance(module.conv1, nn.Sequential):
        yield _attention(module, {"conv1", "conv2"}, channel_logits, why_not_channel)
    elif {"proj_0", "up_0", "sa_1", "ca_1"} <= children:
        yield _up_path(module)
    if {"level_sa", "level_ca"} <= children and hasattr(module, "final_feature_fusion"):
        yield _level_fusion(module)


def _attention(
    module: Any,
    children: set[str],
    logits: Callable[..., Tensor],
    why_called: Callable[[nn.Module, tuple[type[nn.Module], ...]], str | None],
) -> _Candidate:
    abn = tuple({type(m): None for m in module.modules() if _may_be_inplace_abn(m)})
    first: Any = next(iter(module._modules[min(children)].children()), None)
    why_not = _why_more_than(module, children)
    if why_not is None and not isinstance(first, nn.Conv2d):
        why_not = f"{min(children)} does not begin with a Conv2d"

    def inputs(random: Random) -> Tensor:
        """Three images, faint to strong, so that a clamp or a temperature shows."""
        x = random(3, first.in_channels, 5, 6)
        return x * torch.tensor([0.1, 1.0, 30.0]).view(3, 1, 1, 1).to(x)

    why_not = why_not or why_called(module, abn)
    return _Candidate(module, "forward", lambda m: OfficialForward(m, logits, abn), inputs, why_not)


def _may_be_inplace_abn(module: nn.Module) -> bool:
    """By name and attributes; whether it computes that is for the comparison."""
    attributes = ("weight", "bias", "running_mean", "running_var", "activation", "activation_param", "momentum", "eps")
    kind = type(module)
    return kind is not ABN and kind.__name__ in INPLACE_ABN and all(hasattr(module, name) for name in attributes)


def _up_path(module: Any) -> _Candidate:
    count = sum(child.startswith("proj_") for child in module._modules)
    attentions = [f"{kind}_{i}" for kind in ("sa", "ca") for i in range(1, count)]
    children = {*attentions, *(f"{kind}_{i}" for kind in ("proj", "up") for i in range(count))}
    why_not = _why_more_than(module, children) or _why_not_official(module, attentions)

    def inputs(random: Random) -> list[Tensor]:
        factors = [getattr(module._modules[f"up_{i}"], "stride", (1,))[0] for i in range(count)]
        channels = _inputs_of(module, [f"proj_{i}" for i in range(count)], "sa_1")
        return [random(3, c, 4 * max(factors) // f, 6 * max(factors) // f) for c, f in zip(channels, factors)]

    return _Candidate(module, "forward", lambda m: _UpForward(m, count), inputs, why_not)


def _level_fusion(module: nn.Module) -> _Candidate:
    projections = [f"proj_{i + 1}" for i in range(sum(child.startswith("proj_") for child in module._modules))]
    why_not = _why_not_official(module, ["level_sa", "level_ca", *projections])

    def inputs(random: Random) -> list[Tensor]:
        channels = _inputs_of(module, [*projections, "level_sa"], "level_sa")
        return [random(3, c, 3 + i, 4 + i) for i, c in enumerate(channels)]

    return _Candidate(module, "final_feature_fusion", _LevelFusion, inputs, why_not)


def _inputs_of(module: Any, names: Sequence[str], attention: str) -> list[int]:
    """The channels that each of the children takes; one that has no convolution takes those of the attention."""

    def first(child: nn.Module) -> int | None:
        return next((m.in_channels for m in child.modules() if isinstance(m, nn.Conv2d)), None)

    return [first(module._modules[name]) or first(module._modules[attention]) or 1 for name in names]


def _why_more_than(module: nn.Module, children: set[str]) -> str | None:
    own = [name for tensors in (module._parameters, module._buffers) for name, t in tensors.items() if t is not None]
    if module._modules.keys() != children:
        return f"has the children {sorted(module._modules)}, not {sorted(children)}"
    if own:
        return f"has parameters or buffers of its own: {', '.join(own)}"
    if "forward" in module.__dict__:
        return "has a forward of its own"
    return None


def _why_not_official(module: nn.Module, names: Sequence[str]) -> str | None:
    """Of attention modules, that were replaced before, and projections."""
    for name in names:
        child = module._modules.get(name)
        if child is None or not (name.startswith("proj_") or isinstance(child.__dict__.get("forward"), OURS)):
            return f"{name} is not the official module"
    return None


def _why_not_same(candidate: _Candidate) -> str | None:
    """How the original differs from the replacement on a copy with other weights; None where it does not."""
    module, method = candidate.module, candidate.method
    if not all(plain.is_plain(t) and t.device.type != "meta" for t in _copied(module, method).values()):
        return "has tensors without values to compare by"
    try:
        for training in (False, True):
            theirs, ours = (_copy(module, method).train(training) for _ in range(2))
            state = [t for t in _copied(ours, method).values() if t.is_floating_point()]
            x = candidate.inputs(_random(state[0]))
            devices = {t.device for t in state if t.device.type == "cuda"}
            with torch.no_grad(), torch.random.fork_rng(devices=devices):
                try:
                    expected = getattr(theirs, method)(x)
                except Exception:
                    if training:
                        continue  # such as of a norm over processes that are not there
                    raise
                got = candidate.ours(ours)(x)
            reason = _difference(got, expected) or _difference(ours.state_dict(), theirs.state_dict())
            if reason is not None:
                return f"{method} is another than the official code's: {reason}"
    except Exception as error:  # what cannot be compared, for whatever reason, is left alone
        return f"{method} cannot be compared with the official code's: {type(error).__name__}: {error}"
    return None


def _random(like: Tensor) -> Random:
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(shape, generator=generator).to(like)


def _copied(module: nn.Module, method: str) -> dict[str, Tensor]:
    """The parameters and buffers that the official `method` may use."""
    of_levels = ("level_", "proj_") if method == "final_feature_fusion" else ("",)
    return {name: t for name, t in module.state_dict(keep_vars=True).items() if name.startswith(of_levels)}


def _copy(module: nn.Module, method: str) -> nn.Module:
    """A copy with the children that the official `method` uses, without hooks, in float32, with weights by a seed."""
    generator = torch.Generator().manual_seed(0)

    def value_like(name: str, t: Tensor | None) -> Tensor | None:
        if t is None or not t.is_floating_point():
            return None if t is None else t.detach().clone()
        values = torch.randn(t.shape, generator=generator) / max(1, t.numel() // len(t)) ** 0.5
        values = values.abs() + 0.5 if name == "running_var" else values
        values = values.to(t.device, torch.float64 if t.dtype == torch.float64 else torch.float32)
        return nn.Parameter(values) if isinstance(t, nn.Parameter) else values

    def copied(part: nn.Module, names: tuple[str, ...] = ("",)) -> nn.Module:
        made = part.__class__.__new__(part.__class__)
        for key, value in part.__dict__.items():
            if isinstance(value, OURS):
                continue
            made.__dict__[key] = type(value)() if "hooks" in key and isinstance(value, dict) else value
        made.__dict__["_parameters"] = {n: value_like(n, p) for n, p in part._parameters.items() if "" in names}
        made.__dict__["_buffers"] = {n: value_like(n, b) for n, b in part._buffers.items() if "" in names}
        made.__dict__["_modules"] = {
            n: child and copied(child) for n, child in part._modules.items() if n.startswith(names)
        }
        return made

    return copied(module, ("level_", "proj_") if method == "final_feature_fusion" else ("",))


def _evaluated(model: nn.Module, arguments: tuple[Any, ...]) -> Any:
    """What the model returns in evaluation mode, to which no part is left."""
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            return model.eval()(*arguments)
    finally:
        for module, mode in training.items():
            module.training = mode


def _difference(got: Any, expected: Any) -> str | None:
    """How two structures of tensors differ by more than rounding; None where they do not."""
    (ours, structure), (theirs, official) = tree_flatten(got), tree_flatten(expected)
    if structure != official:
        return f"it returns {_described(expected)}, not {_described(got)}"
    for a, b in zip(ours, theirs):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if a is not b and a != b:
                return f"it returns {b!r}, not {a!r}"
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"it returns {tuple(b.shape)} in {b.dtype}, not {tuple(a.shape)} in {a.dtype}"
        if not a.dtype.is_floating_point and not a.dtype.is_complex:
            if not torch.equal(a, b):
                off = int((a != b).sum())
                return f"{off} of {a.numel()} values of an output of shape {tuple(b.shape)} in {b.dtype} differ"
            continue
        images = [(a, b)] if a.dim() != 4 else list(zip(a, b))
        for i, (x, y) in enumerate(images):
            tolerance = 1e-4 if y.dtype in (torch.float32, torch.float64) else 3e-2
            try:
                torch.testing.assert_close(
                    x, y, rtol=tolerance, atol=tolerance * float(y.abs().max() if y.numel() else 0), equal_nan=True
                )
            except AssertionError:
                return f"an output of shape {tuple(b.shape)} is off by {float((x - y).abs().max()):.3g} (image {i})"
    return None


def _described(value: Any) -> str:
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list)) else type(value).__name__
