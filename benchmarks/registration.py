"""Measure what each way of registering an op costs per call, on an input of 1x32x16x16 where little else costs.

    python -m benchmarks.registration

The kernel only allocates its outputs, so the times are those of the dispatcher and of autograd. The last style is
`afa_kernels.ops._registration` itself.
"""

from __future__ import annotations

import json
import statistics
import timeit
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from afa_kernels import backends
from afa_kernels.ops import _registration as registration
from benchmarks.run import ROOT, circumstances

SHAPE = (1, 32, 16, 16)
ARGUMENTS = "Tensor x, Tensor y, Tensor s, Tensor q"
FORWARD = f"({ARGUMENTS}) -> Tensor"
BACKWARD = f"(Tensor grad, {ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)"
ROUNDS, CALLS = 15, 1000

Op = Callable[..., Any]


def forward(x: Tensor, y: Tensor, s: Tensor, q: Tensor) -> Tensor:
    return torch.empty_like(x)


def backward(grad: Tensor, x: Tensor, y: Tensor, s: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(y), torch.empty_like(s), torch.empty_like(q)


def save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


libraries: list[torch.library.Library] = []  # an op ends with its library


def defined(namespace: str) -> tuple[Op, Op]:
    """The two ops, in a library of their own, without autograd."""
    library = torch.library.Library(namespace, "DEF")
    libraries.append(library)
    for name, signature, kernel in (("forward", FORWARD, forward), ("backward", BACKWARD, backward)):
        library.define(name + signature)
        library.impl(name, kernel, "CompositeExplicitAutograd")
    ops = getattr(torch.ops, namespace)
    return ops.forward.default, ops.backward.default


def plain() -> Op:
    return defined("registration_plain")[0]


def library_and_register_autograd() -> Op:
    op, backward_op = defined("registration_library")

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return backward_op(grad, *ctx.saved_tensors)

    torch.library.register_autograd("registration_library::forward", differentiate, setup_context=save_inputs)
    return op


def custom_op_and_register_autograd() -> Op:
    op = torch.library.custom_op("registration_custom::forward", forward, mutates_args=())
    backward_op = torch.library.custom_op("registration_custom::backward", backward, mutates_args=())

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return backward_op(grad, *ctx.saved_tensors)

    op.register_autograd(differentiate, setup_context=save_inputs)
    return op


def function_around_the_op() -> Op:
    op, backward_op = defined("registration_function")

    class Around(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            ctx.save_for_backward(*inputs)
            return op(*inputs)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
            return backward_op(grad, *ctx.saved_tensors)

    return Around.apply


def autograd_key() -> Op:
    schema = f"({ARGUMENTS}) -> Tensor out"
    op = registration.define("registration" + schema, forward, lambda *args: args)
    backward_op = registration.define(
        f"registration_backward(Tensor grad, {ARGUMENTS}, bool[] needed) -> Tensor[] grads",
        lambda grad, x, y, s, q, needed: registration.gradients(needed, (x, y), (s, q)),
        lambda *args: args,
    )
    registration.differentiate(op, backward_op, of=("x", "y", "s", "q"))
    return op


STYLES: dict[str, Callable[[], Op]] = {
    "Library, no gradient": plain,
    "Library + register_autograd": library_and_register_autograd,
    "custom_op + register_autograd": custom_op_and_register_autograd,
    "Library + autograd.Function around the op": function_around_the_op,
    "Library + autograd.Function under the Autograd key": autograd_key,
}


def calls(op: Op, differentiable: bool) -> dict[str, Callable[[], Any]]:
    """What a user does with an op: without gradients, with the graph recorded, and a whole step."""
    n, c, h, w = SHAPE
    shapes = (SHAPE, SHAPE, (n, 1, h, w), (n, c, 1, 1))
    constants = [torch.randn(shape) for shape in shapes]
    leaves = [t.clone().requires_grad_() for t in constants]
    grad = torch.randn(SHAPE)

    def no_grad() -> Any:
        with torch.no_grad():
            return op(*leaves)

    found: dict[str, Callable[[], Any]] = {"constants": lambda: op(*constants), "no_grad": no_grad}
    if differentiable:
        found["recorded"] = lambda: op(*leaves)
        found["forward_and_backward"] = lambda: torch.autograd.grad(op(*leaves), leaves, grad)
    return found


def measure() -> list[dict[str, Any]]:
    """A record per style: the median microseconds of each kind of call, the styles in alternation."""
    timers = {
        (style, kind): timeit.Timer(call)
        for style, make in STYLES.items()
        for kind, call in calls(make(), differentiable=make is not plain).items()
    }
    microseconds: dict[tuple[str, str], list[float]] = {key: [] for key in timers}
    with mock.patch.object(backends, "launcher", lambda *args: lambda *args: None):  # kernels that only allocate
        for _ in range(ROUNDS):
            for key, timer in timers.items():
                microseconds[key].append(1e6 * timer.timeit(CALLS) / CALLS)
    return [
        {
            "op": "registration",
            "style": style,
            "shape": "x".join(map(str, SHAPE)),
            **{f"{kind}_us": statistics.median(us) for (of, kind), us in microseconds.items() if of == style},
        }
        for style in STYLES
    ]


def main() -> None:
    torch.set_num_threads(1)
    shared = {**circumstances(), "command": "python -m benchmarks.registration"}
    records = [{**record, **shared} for record in measure()]
    kinds = ("constants", "no_grad", "recorded", "forward_and_backward")
    print("| microseconds per call | " + " | ".join(kinds) + " |\n|---|" + 4 * "---:|")
    for record in records:
        figures = (f"{record[f'{kind}_us']:.1f}" if f"{kind}_us" in record else "" for kind in kinds)
        print(f"| {record['style']} | " + " | ".join(figures) + " |")
    output = ROOT / "benchmarks" / "results" / "registration.jsonl"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    main()
