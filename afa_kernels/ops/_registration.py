"""How an operation becomes a dispatcher op `afa::<name>`, written once for all of them.

`Library.define` and `Library.impl` with an autograd.Function under the Autograd key, so that the op itself is
differentiable, whoever calls it. `benchmarks/registration.py` measures the overhead per call of this and other styles.

Every op has a last argument `str? backend=None`, which the schemas here leave out: the backend asked for when the op
was called, which its backward op gets too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.overrides import handle_torch_function, has_torch_function

from afa_kernels import backends, checks, layout, plans

_library = torch.library.Library("afa", "DEF")
_backward_ops: set[Any] = set()

Op = torch._ops.OpOverload
decompositions: dict[Op, Callable[..., Any]] = {}  # of each op, by operators of the native library and of PyTorch
_Function = TypeVar("_Function", bound=Callable[..., Any])


def public(function: _Function) -> _Function:
    """Let `__torch_function__` of an argument have the call: that of torch.fx's proxies, of modes, of subclasses.

    Else it goes by its plan, if there is one.
    """

    def ordinary(*args: Any, **kwargs: Any) -> Any:
        given = _flat((*args, *kwargs.values()))
        if has_torch_function(given):
            return handle_torch_function(call, given, *args, **kwargs)
        if torch.jit.is_tracing():
            with checks.without_tracer_warnings():
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return ordinary(*args, **kwargs)
        return plans.of_operation(function, ordinary, args, kwargs)

    return call  # type: ignore[return-value]


def define(
    schema: str, allocate: Callable[..., Any], prepare: Callable[..., Sequence[Any]], of_first: bool = True
) -> Op:
    """Define the op of `schema`, which a launcher of the backend computes.

    `allocate` of the arguments gives the outputs, unfilled, or None in place: it is also the op's fake kernel.
    `prepare` of the arguments gives what the launcher takes before the outputs: those of the arguments that it needs,
    in their order. Where the first tensor is empty nothing is launched, and the outputs are zeros; but if `of_first` is
    False they are made of other tensors too, and only a batch of none is nothing to compute.
    """
    arguments, returns = _arguments(schema), schema.rsplit("->", 1)[1]
    name, given = schema.split("(")[0], len(arguments)
    first = _first_tensor(arguments)
    stem = name if name.endswith("_backward") else f"{name}_forward"
    several = "," in returns  # outputs of a list are launched as a list

    def computed(*args: Any) -> Any:
        args, backend = args[:given], args[given] if len(args) > given else None
        result = allocate(*args)
        outputs = () if result is None else result if several else (result,)
        x = args[first] if isinstance(args[first], Tensor) else args[first][0]
        if x.shape[0] == 0 or (of_first and x.numel() == 0):
            for t in _flat(outputs):
                t.zero_()
        elif result is None or any(t.numel() > 0 for t in _flat(outputs)):
            backends.launcher(stem, x.device.type, backend)(*prepare(*args), *outputs)
        return result

    def decomposed(*args: Any) -> Any:
        """The outputs as functions of the arguments: the native op fills copies of what it is given."""
        from torch._higher_order_ops.auto_functionalize import auto_functionalized  # which imports the compiler

        result = allocate(*args[:given])
        native = getattr(torch.ops.afa_native, stem).default
        named = zip(native._schema.arguments, (*prepare(*args[:given]), *(result if several else (result,))))
        filled = auto_functionalized(native, **{argument.name: value for argument, value in named})[1:]
        return tuple(filled) if several else filled[0]

    def kernel(*args: Any) -> Any:
        return plans.of_kernel(computed, args)

    op = _defined(schema, kernel, lambda *args: allocate(*args[:given]))
    plans.kernels[op] = computed
    if "!" not in schema:
        decompositions[op] = decomposed
    return op


def define_by_aten(
    schema: str,
    allocate: Callable[..., Any],
    function: str,
    functional: Callable[..., Any] | None = None,
    parts: str | None = None,
) -> Op:
    """Define the op of `schema`, which a `function` of `aten_kernels`, "module.name", computes, outputs and all.

    Where that writes into what it has made, `functional` computes the same for programs, which may not. A `function`
    that leaves `parts` to a backend's launchers of the operation of that name takes these after the arguments of
    `schema`: where the backend has none, and in programs, it takes none.
    """
    arguments = _arguments(schema)
    given, first = len(arguments), _first_tensor(arguments)

    def in_programs(*args: Any) -> Any:
        return (functional or backends.of_aten(function))(*args[:given])

    def computed(*args: Any) -> Any:
        if parts is None:
            return backends.of_aten(function)(*args[:given])
        backend = args[given] if len(args) > given else None
        return backends.of_aten(function)(*args[:given], backends.parts(parts, args[first].device.type, backend))

    def kernel(*args: Any) -> Any:
        return plans.of_kernel(computed, args)

    op = _defined(schema, kernel, lambda *args: allocate(*args[:given]))
    plans.kernels[op] = computed
    decompositions[op] = in_programs
    return op


def _arguments(schema: str) -> list[str]:
    return schema[schema.index("(") + 1 : schema.rindex(") ->")].split(", ")


def _first_tensor(arguments: Sequence[str]) -> int:
    return next(i for i, a in enumerate(arguments) if a.startswith("Tensor") and "?" not in a)


def _flat(args: Sequence[Any]) -> list[Any]:
    """The arguments, and in the place of a list what is in it."""
    return [x for a in args for x in (a if isinstance(a, (list, tuple)) else (a,))]


def _defined(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Op:
    name = schema.split("(")[0]
    head, returns = schema.rsplit(") ->", 1)
    _library.define(f"{head}, str? backend=None) ->{returns}")
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"afa::{name}", fake, lib=_library)
    op = getattr(torch.ops.afa, name).default
    _library.impl(name, functools.partial(_refuse_batch, name), "Batched")
    if op._schema.returns:
        torch.library.register_vmap(f"afa::{name}", functools.partial(_one_by_one, op), lib=_library)
    return op


def _refuse_batch(name: str, *args: Any) -> Any:
    """Raise in the vmap that torch.autograd has for itself, where PyTorch would without saying what to do."""
    raise NotImplementedError(
        f"{name} has no rule for vectorize=True or is_grads_batched=True of torch.autograd; use torch.func, "
        "or compute it inside afa_kernels.use_backend('reference')"
    )


def _one_by_one(op: Op, info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
    """torch.func.vmap of `op`: one call for each element, and the results stacked."""

    def element(i: int, x: Any, dim: Any) -> Any:
        if isinstance(x, (list, tuple)) and isinstance(dim, (list, tuple)):
            return [element(i, y, d) for y, d in zip(x, dim)]
        return x if dim is None else x.select(dim, i)

    if info.batch_size == 0:
        raise NotImplementedError(f"torch.func.vmap of {op._schema.name} needs at least one element")
    results = [op(*(element(i, x, d) for x, d in zip(args, in_dims))) for i in range(info.batch_size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    kind = type(results[0])
    return kind(torch.stack(every) for every in zip(*results)), kind(0 for _ in results[0])


def differentiate(
    op: Op, backward_op: Op, of: Sequence[str], keep: Callable[..., dict[str, Any]] = lambda *args: {}
) -> None:
    """Make `backward_op` the gradient of `op` in its arguments `of`, in this order.

    Each argument of `backward_op` is by its name: an argument or an output of `op`, which is saved; "grad" or "grad_x",
    the gradient of the first output or of the output x; "needed", for each tensor `of` whether its gradient is asked
    for; or what `keep`, of the arguments of `op`, gives of that name. It returns the gradients that are needed.
    """
    inputs = [a.name for a in op._schema.arguments]
    outputs = [r.name for r in op._schema.returns]
    taken = [a.name for a in backward_op._schema.arguments]
    of_outputs = ["grad" if "grad" in taken and i == 0 else f"grad_{name}" for i, name in enumerate(outputs)]
    constant = [i for i, name in enumerate(of_outputs) if name not in taken]
    named = inputs + outputs
    # What the backward op takes: of the gradients, of the arguments and outputs in one row, of `keep`.
    from_grads = [(at, of_outputs.index(name)) for at, name in enumerate(taken) if name in of_outputs]
    from_named = [(at, named.index(name)) for at, name in enumerate(taken) if name in named]
    from_keep = [(at, name) for at, name in enumerate(taken) if name not in (*of_outputs, *named, "needed")]
    at_needed = taken.index("needed") if "needed" in taken else None

    def forward(ctx: Any, below: Any, lengths: list[int | None] | None, *flat: Any) -> Any:
        args = _grouped(lengths, flat)
        result = plans.of_operation(op, functools.partial(_redispatched, op, below), args)
        results = (result,) if isinstance(result, Tensor) else result
        known = (*args, *results)
        call: list[Any] = [None] * len(taken)
        for at, i in from_named:
            call[at] = known[i]
        if from_keep:
            kept = keep(*args[:-1])
            for at, name in from_keep:
                call[at] = kept[name]
        tensors: list[Tensor] = []
        for at, value in enumerate(call):
            if isinstance(value, Tensor):
                call[at] = slice(len(tensors), None)
                tensors.append(value)
            elif isinstance(value, list) and value and isinstance(value[0], Tensor):
                call[at] = slice(len(tensors), len(tensors) + len(value))
                tensors += value
        ctx.save_for_backward(*tensors)
        ctx.call, ctx.places = call, always if lengths is None else _places(inputs, lengths, of)
        if constant:
            ctx.mark_non_differentiable(*(results[i] for i in constant))
        ctx.set_materialize_grads(False)  # for what has no gradient no zeros are made
        return tuple(result) if isinstance(result, list) else result

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        asked = ctx.needs_input_grad
        found: list[Tensor | None] = [None] * len(asked)
        if all(g is None for g in grads):
            return tuple(found)
        needed = [asked[place] for place in ctx.places]
        saved = ctx.saved_tensors
        call = [
            value if not isinstance(value, slice) else saved[value.start] if value.stop is None else list(saved[value])
            for value in ctx.call
        ]
        for at, i in from_grads:
            call[at] = grads[i]
        if at_needed is not None:
            call[at_needed] = needed
        result = plans.of_operation(backward_op, backward_op, call)
        made = iter((result,) if isinstance(result, Tensor) else result)
        for place, wanted in zip(ctx.places, needed):
            if wanted:
                found[place] = next(made)
        return tuple(found)

    always = _places(inputs, [None] * len(inputs), of)
    name = op._schema.name.removeprefix("afa::")
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    _differentiate(op, type(name.title().replace("_", ""), (_SingleLevelFunction,), methods))
    if backward_op not in _backward_ops:
        _backward_ops.add(backward_op)
        _differentiable_once(backward_op, name)


def _redispatched(op: Op, below: Any, *args: Any) -> Any:
    """The op, by the keys `below` autograd if they are given. An autograd.Function records nothing, but other levels of
    torch.func have to.
    """
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return op.redispatch(below, *args)
    return op(*args) if below is None else op.redispatch(below, *args)


def _grouped(lengths: list[int | None] | None, flat: Sequence[Any]) -> Sequence[Any]:
    """The arguments of an op, the tensors of its lists together again."""
    if lengths is None:
        return flat
    rest = iter(flat)
    return [next(rest) if n is None else [next(rest) for _ in range(n)] for n in lengths]


def _places(inputs: list[str], lengths: list[int | None], of: Sequence[str]) -> list[int]:
    """Where the tensors of the arguments `of` are among what the derivative's forward takes after ctx."""
    places, at = {}, 2
    for name, n in zip(inputs, lengths):
        places[name] = range(at, at + (1 if n is None else n))
        at = places[name].stop
    return [place for name in of for place in places[name]]


def _differentiate(op: Op, function: type[_SingleLevelFunction]) -> None:
    """Run `function` where a gradient may be asked for.

    It takes the keyset below autograd, then for each argument None or, of a list of tensors, its length (None in all
    where no argument is a list), and then the arguments, the tensors of lists one by one: autograd.Function sees no
    tensor inside a list.
    """
    lists = [str(argument.type) == "List[Tensor]" for argument in op._schema.arguments]
    any_list, all_but_backend = any(lists), len(lists) - 1
    # At the Autograd key torch.func is down to one level of its transforms, whose tensors autograd takes as they are:
    # hence no torch.autograd.Function, whose `apply` would look for the levels again.
    apply = function.apply  # type: ignore[attr-defined]

    def autograd(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        below = keyset & torch._C._after_autograd_keyset
        if forward_ad._current_level >= 0:  # looked at here too, for the time of a call
            refuse_tangents(op._schema.name.removeprefix("afa::"), _flat(args))
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            return op.redispatch(below, *args)
        if torch._C._are_functorch_transforms_active():
            with enable_single_level_autograd_function():
                return recorded(below, *args)
        return recorded(below, *args)

    def recorded(below: Any, *args: Any) -> Any:
        if len(args) == all_but_backend:  # the dispatcher leaves out what is the default
            args = (*args, None)
        if not any_list:
            return apply(below, None, *args)
        lengths = [len(a) if is_list else None for a, is_list in zip(args, lists)]
        return apply(below, lengths, *(x for a, is_list in zip(args, lists) for x in (a if is_list else (a,))))

    plans.recorded[op] = functools.partial(recorded, None)
    _library.impl(op._schema.name.removeprefix("afa::"), autograd, "Autograd", with_keyset=True)


def refuse_tangents(name: str, args: Sequence[Any], instead: str | None = None) -> None:
    """Raise where forward-mode differentiation would silently lose a tangent."""
    if forward_ad._current_level < 0:
        return
    if any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in args):
        way = f"call {instead}" if instead else "compute it"
        raise NotImplementedError(
            f"{name} has no forward-mode derivative; {way} inside afa_kernels.use_backend('reference')"
        )


def _differentiable_once(op: Op, public_name: str) -> None:
    """Make a gradient of the backward op `op` an error instead of a silent zero."""

    class Once(_SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, below: Any, lengths: list[int | None] | None, *flat: Any) -> Any:
            result = _redispatched(op, below, *_grouped(lengths, flat))
            return tuple(result) if isinstance(result, list) else result  # whose tensors autograd sees; a list's not

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            raise NotImplementedError(
                f"{public_name} is differentiable once; for higher derivatives compute it inside "
                "afa_kernels.use_backend('reference')"
            )

    _differentiate(op, Once)


def values_are_there(x: Tensor) -> bool:
    """Whether Python may read values of `x`: not of a fake one, nor inside torch.compile, export or func."""
    plain = type(x) in (Tensor, torch.nn.Parameter)
    return plain and not torch.compiler.is_compiling() and not torch._C._functorch.maybe_current_level()


def gradients(needed: Sequence[bool], maps: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Unfilled gradients, where needed, of `maps`, in the memory format of the first, and of `others`, contiguous."""
    shapes = [*((x, maps[0]) for x in maps), *((x, None) for x in others)]
    return [
        x.new_empty(x.shape) if like is None else layout.empty(x.shape, like)
        for (x, like), wanted in zip(shapes, needed)
        if wanted
    ]
