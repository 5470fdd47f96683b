"""When a module may compute from its children's parameters in place of calling them: where each of these children is
exactly the plain layer, and nobody has hooked, overridden or wrapped anything of it."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as hooks

_TYPES = frozenset((Tensor, nn.Parameter))


class Module(nn.Module):
    """A module of this package."""

    def __prepare_scriptable__(self) -> NoReturn:
        """What torch.jit.script asks of a module first, and of each within another."""
        raise TypeError(
            f"torch.jit.script cannot compile {type(self).__name__}, which asks of its children what they are; use "
            "torch.export, torch.compile, or torch.jit.trace of the whole model"
        )


def is_plain(x: object) -> bool:
    """Whether `x` is a tensor of no subclass (a DTensor, a quantised one), but for those that a compiler traces with.

    torch.fx's Proxy is none.
    """
    kind = type(x)
    return kind in _TYPES or (isinstance(x, Tensor) and kind.__module__.startswith("torch._subclasses."))


def why_called(module: nn.Module, kind: type[nn.Module], layers: int | None = None) -> str | None:
    """Why `module` must be called, as the end of a sentence; None where it is exactly a `kind` (of so many layers)."""
    if type(module) is not kind:
        return f"is a {type(module).__name__}, not exactly a {kind.__name__}"
    if layers is not None and len(module._modules) != layers:
        return f"has {len(module._modules)} layers, not {layers}"
    return why_hooked(module)


def why_hooked(module: nn.Module) -> str | None:
    """Why calling `module` may do more, or other, than its class says. Asked for every layer in every pass."""
    own = module.__dict__
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return "has hooks"
    if "forward" in own or "_conv_forward" in own or "_call_impl" in own:
        return "has a forward of its own"
    if "_compiled_call_impl" in own:
        return "is compiled by itself"
    for tensors in (own["_parameters"], own["_buffers"]):
        for name, tensor in tensors.items():
            if type(tensor) not in _TYPES and tensor is not None and not is_plain(tensor):
                return f"has a {name} of type {type(tensor).__name__}"
    return None


def has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def why_observed() -> str | None:
    """Why every module must be called."""
    if (
        hooks._global_forward_hooks
        or hooks._global_forward_pre_hooks
        or hooks._global_backward_hooks
        or hooks._global_backward_pre_hooks
    ):
        return "hooks are registered for all modules"
    return None


def is_recorded() -> bool:
    """Whether gradients are recorded, or a trace is, which is held against one of the other kind."""
    return torch.is_grad_enabled() or torch.jit.is_tracing()


def as_leaf(module: nn.Module, x: fx.Proxy) -> Any:
    """A call of `module` itself in a graph that torch.fx traces, of what no graph of operators says."""
    name = x.tracer.path_of_module(module)  # type: ignore[attr-defined]
    if not name:
        kind = type(module).__name__
        raise TypeError(f"{kind} is a leaf of torch.fx's graphs, and cannot be their root: trace a module around it")
    return x.tracer.create_proxy("call_module", name, (x,), {})
