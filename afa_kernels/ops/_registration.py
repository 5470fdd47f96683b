"""How an operation becomes a dispatcher op `afa::<name>`.

`Library.define` and `Library.impl` with an autograd.Function under the Autograd key, so that the op itself is
differentiable, whoever calls it. `benchmarks/registration.py` measures the overhead per call of this and other styles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("afa", "DEF")


def define(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Define the op of `schema`. `kernel` computes on every device, `fake` gives the outputs' metadata."""
    name = schema.split("(")[0]
    _library.define(schema)
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"afa::{name}", fake, lib=_library)
    return getattr(torch.ops.afa, name).default


def differentiate(op: torch._ops.OpOverload, function: type[torch.autograd.Function]) -> None:
    """Run `function` where a gradient may be asked for. Its first argument computes `op` without recording it.

    autograd.Function sees no tensor inside a list, so the tensors of a list argument are given one by one.
    """
    lists = [i for i, argument in enumerate(op._schema.arguments) if str(argument.type) == "List[Tensor]"]

    def autograd(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        below = keyset & torch._C._after_autograd_keyset

        def forward(*inputs: Any) -> Any:
            rest = iter(inputs)
            return op.redispatch(below, *([next(rest) for _ in a] if i in lists else next(rest) for i, a in numbered))

        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            return op.redispatch(below, *args)
        numbered = list(enumerate(args))
        return function.apply(forward, *(x for i, a in numbered for x in (a if i in lists else [a])))

    _library.impl(op._schema.name.removeprefix("afa::"), autograd, "Autograd", with_keyset=True)


def differentiable_once(op: torch._ops.OpOverload, public_name: str) -> None:
    """Make a gradient of the backward op `op` an error instead of a silent zero."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, forward: Callable[..., Any], *args: Any) -> Any:
            result = forward(*args)
            return tuple(result) if isinstance(result, list) else result  # whose tensors autograd sees; a list's not

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            raise NotImplementedError(
                f"{public_name} is differentiable once; for higher derivatives compute it inside "
                "afa_kernels.use_backend('reference')"
            )

    differentiate(op, Once)
