"""Plans: what a call came to, so that the next one of its kind is that alone.

On small maps an operation is checked, dispatched and prepared in more time than its kernels take. All of that goes by
the sizes, strides, types, devices and alignments of the tensors, and by the numbers given, but not by what is in the
tensors. So the second call of a kind is watched: what it allocates, what it starts, what it has PyTorch's operators
make and what it returns are written down by the places of the tensors. From the third on a call does these and nothing
else.

A plan is of a public operation, of what autograd calls forward and backward, or of an op's kernel under the dispatcher.
That of an operation whose gradient is asked for starts the op as autograd records it.

There is none of a call that does anything else, such as a look at a value, but by a function that is noted as a whole.
Nor is one made or followed where others see the call: a mode, a trace, a transform of torch.func, `warmup`. A plan
holds no tensor.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from afa_kernels import backends

MOST = 4096  # kinds of calls; then all are forgotten
kernels: dict[Any, Callable[..., Any]] = {}  # of the dispatcher's ops, what computes each
recorded: dict[Any, Callable[..., Any]] = {}  # of those that have a gradient, what has autograd record the call

_TENSORS = (Tensor, torch.nn.Parameter)
_ROWS = (list, tuple, torch.Size)
_NUMBERS = (int, float, bool, str, type(None), torch.dtype)  # and what else is known by its value
_ALLOCATIONS = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
)
_NO_KEYWORDS: dict[str, Any] = {}

_Key = tuple[Any, ...]
_Row = list[Any]
_Keep = Callable[[_Row, Any], None] | None
_Step = tuple[Callable[..., Any], Callable[[_Row], Any], _Keep, list[int]]
_plans: dict[_Key, _Plan | None] = {}  # None: there can be none
_seen: set[_Key] = set()
_watching: ContextVar[_Watch | bool] = ContextVar("_watching", default=False)  # True: by nobody, nor by a plan


def forget() -> None:
    """Forget all plans."""
    _plans.clear()
    _seen.clear()


def unused() -> contextlib.AbstractContextManager[None]:
    """Inside, in this thread or task, calls neither follow plans nor make any."""
    return _watched_by(True)


def note(start: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Write down, if the call at hand is watched, that it did `start(*arguments)`."""
    watch = _watching.get()
    if isinstance(watch, _Watch):
        watch.add(start, arguments)


def whole(check: Callable[..., None], *arguments: Any) -> None:
    """`check(*arguments)`, which may look at values: a plan calls it as it is."""
    with unseen():
        check(*arguments)
    note(check, arguments)


def unseen() -> contextlib.AbstractContextManager[Any]:
    """Inside, what is done with tensors is no part of the call at hand: Triton's interpreter does much."""
    return _disable_current_modes() if isinstance(_watching.get(), _Watch) else contextlib.nullcontext()


@contextlib.contextmanager
def _watched_by(watch: _Watch | bool) -> Iterator[None]:
    token = _watching.set(watch)
    try:
        yield
    finally:
        _watching.reset(token)


def of_operation(
    operation: Callable[..., Any],
    ordinary: Callable[..., Any],
    args: Sequence[Any],
    keywords: dict[str, Any] = _NO_KEYWORDS,
) -> Any:
    """`ordinary(*args, **keywords)`, the call of an `operation`, by a plan if there is one: past the dispatcher."""
    forced = backends._forced
    if (
        forced == "reference"
        or _seen_by_others()
        or torch._C._is_torch_function_mode_enabled()
        or torch.autograd._profiler_enabled()  # whose events are the dispatcher's
        or forward_ad._current_level >= 0
    ):
        return ordinary(*args, **keywords)
    gradients = torch.is_grad_enabled()
    return _followed((operation, forced, gradients, *keywords), gradients, ordinary, args, keywords)


def of_kernel(kernel: Callable[..., Any], args: Sequence[Any]) -> Any:
    """`kernel(*args)`, which computes an op under the dispatcher, by a plan if there is one."""
    return kernel(*args) if _seen_by_others() else _followed((kernel,), False, kernel, args, _NO_KEYWORDS)


def _seen_by_others() -> bool:
    return (
        _watching.get() is not False
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
    )


def _followed(
    surroundings: Sequence[Any],
    gradients: bool,
    ordinary: Callable[..., Any],
    args: Sequence[Any],
    keywords: dict[str, Any],
) -> Any:
    """`ordinary(*args, **keywords)`, by the plan of the calls that are the same in this and in `surroundings`."""
    given: list[Tensor] = []
    parts = [*surroundings]
    if torch._C._is_any_autocast_enabled():
        parts += [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in backends.ORDER]
    try:
        described = _describe((*args, *keywords.values()) if keywords else args, given, parts)
    except RuntimeError:  # a sparse tensor has no strides
        described = False
    if not described or (given and given[0].is_cuda and given[0].get_device() != torch.cuda.current_device()):
        return ordinary(*args, **keywords)
    key = tuple(parts)
    plan = _plans.get(key)
    if plan is not None:
        return plan(given)
    if key in _plans:
        return ordinary(*args, **keywords)
    if key not in _seen:
        if len(_seen) >= MOST:
            forget()
        _seen.add(key)
        return ordinary(*args, **keywords)
    if len({id(x) for x in given}) < len(given):  # of a tensor given twice it cannot be told which time was meant
        return ordinary(*args, **keywords)
    forced, watch = backends._forced, _Watch(given, gradients and any(x.requires_grad for x in given))
    with _watched_by(watch), watch:
        result = ordinary(*args, **keywords)
    if backends._forced == forced:  # which another thread may change meanwhile
        _plans[key] = watch.plan(result)
    return result


def _describe(arguments: Sequence[Any], given: list[Tensor], parts: list[Any]) -> bool:
    """Add the tensors to `given`, and to `parts` all that a call goes by; whether that is known of every argument."""
    for x in arguments:
        kind = type(x)
        if kind in _TENSORS:
            address = x.data_ptr()
            if address == 0 or x.is_neg():  # its values are not in its memory
                return False
            given.append(x)
            parts += (x.shape, x.stride(), x.dtype, x.device, x.requires_grad, address % 16)
        elif kind in _NUMBERS:
            parts += (kind, x)
        elif kind in _ROWS:
            parts += (kind, len(x))
            if not _describe(x, given, parts):
                return False
        else:
            return False
    return True


class _Plan:
    """Steps on a row of values: constants, the tensors given, and what the steps before have made.

    A step is a function, what takes its arguments out of the row, how what it returns is added to the row, and where in
    the row is what no later step takes: it is let go, so that its memory is there for others.
    """

    __slots__ = ("_constants", "_result", "_steps")

    def __init__(self, constants: _Row, steps: list[_Step], result: Callable[[_Row], Any]) -> None:
        self._constants, self._steps, self._result = constants, steps, result

    def __call__(self, given: list[Tensor]) -> Any:
        row = self._constants + given
        for function, take, keep, done in self._steps:
            made = function(*take(row))
            if keep is not None:
                keep(row, made)
            for place in done:
                row[place] = None
        return self._result(row)


class _Refused(Exception):
    """A plan cannot do what the call does."""


class _Watch(TorchDispatchMode):
    """Writes down what is allocated and started inside, and whether anything else is done.

    A place is a number: of the values known, in the order they came, or below zero of the constants. No value is kept:
    what a launcher lets go is there for its next allocation in this call too.
    """

    def __init__(self, given: list[Tensor], gradient: bool) -> None:
        super().__init__()
        self.gradient = gradient  # whether autograd records what is done
        self.given = len(given)
        self.known: list[Callable[[], Any]] = [weakref.ref(x) for x in given]
        self.roots = [*range(len(given))]  # the places of tensors that are no views of one another's memory
        self.constants: _Row = []
        self.steps: list[tuple[Callable[..., Any], list[int], _Keep]] = []
        self.started = self.refused = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kernel = None if function._schema.is_mutable else kernels.get(function)
        if kernel is not None and not self.gradient:
            with self:
                return kernel(*args)
        if function.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:
                return function.decompose(*args, **(kwargs or {}))
        with _watched_by(False):  # an op has plans of its own
            result = function(*args, **(kwargs or {}))
        if function in _ALLOCATIONS:
            make = functools.partial(
                torch.empty_strided, tuple(result.shape), result.stride(), dtype=result.dtype, device=result.device
            )
            self.roots.append(self._make(make, [], result))
        elif kernel is not None:
            self.add(recorded.get(function, function), args, result)
        elif function.namespace in ("afa_native", "afa"):  # which write to what they are given
            self.add(function, args)
        elif not function.is_view and function is not torch.ops.aten.promote_types.default:
            self._make_by_operator(function, args, kwargs or {}, result)
        return result

    def _make_by_operator(self, function: Any, args: Sequence[Any], keywords: dict[str, Any], result: Any) -> None:
        """Write down an operator of PyTorch's that makes tensors, whose sizes go by those given, or writes to some."""
        results = result if isinstance(result, (list, tuple)) else (result,)
        if (
            function.namespace != "aten"
            or not all(isinstance(x, (Tensor, type(None))) for x in results)
            or torch.Tag.dynamic_output_shape in function.tags
            or _has_tensors([*keywords.values()])
        ):
            self.refused = True
            return
        start = functools.partial(function, **keywords) if keywords else function
        if self.gradient and not torch.is_grad_enabled():
            start = functools.partial(_without_gradient, start)
        self.add(start, args, result)
        if not function._schema.is_mutable:  # else it returns what it was given
            self.roots += range(len(self.known) - len(results), len(self.known))

    def add(self, start: Callable[..., Any], arguments: Sequence[Any], result: Any = None) -> None:
        try:
            places = [self._place(x) for x in arguments]
        except _Refused:
            self.refused = True
            return
        several = isinstance(result, (list, tuple))
        self.steps.append((start, places, None if result is None else list.extend if several else list.append))
        results = result if several else () if result is None else (result,)
        self.known += (type(None) if x is None else weakref.ref(x) for x in results)
        self.started = True

    def plan(self, result: Any) -> _Plan | None:
        """Of what was done inside, which returned `result`; None if it cannot do the same."""
        if self.refused or not self.started:
            return None
        try:
            place = self._place(result)
        except _Refused:
            return None
        constants, last = len(self.constants), {}
        for i, (_, places, _) in enumerate(self.steps):
            last.update(dict.fromkeys(places, i))

        def in_row(place: int) -> int:
            return constants + place if place >= 0 else -1 - place

        steps = []
        for i, (function, places, keep) in enumerate(self.steps):
            done = [in_row(p) for p in {*places} if last[p] == i and p >= self.given and p != place]
            steps.append((function, _taking([*map(in_row, places)]), keep, done))
        return _Plan(self.constants, steps, operator.itemgetter(in_row(place)))

    def _make(self, function: Callable[..., Any], places: list[int], value: Any) -> int:
        """Make `value` in a step of its own, and return its place."""
        self.steps.append((function, places, list.append))
        self.known.append(weakref.ref(value) if isinstance(value, Tensor) else type(None))
        return len(self.known) - 1

    def _place(self, x: Any) -> int:
        if isinstance(x, (list, tuple)) and _has_tensors(x):
            return self._make(_list if isinstance(x, list) else _tuple, [self._place(y) for y in x], x)
        if not isinstance(x, Tensor):
            self.constants.append(x)
            return -len(self.constants)
        for place, known in enumerate(self.known):
            if known() is x:
                return place
        return self._view(x)

    def _view(self, x: Tensor) -> int:
        """The place of the one tensor that is `x` by another name, or of a view of it that a step makes."""
        memory = x.untyped_storage().data_ptr()
        there = [(place, self.known[place]()) for place in self.roots]
        found = [(place, y) for place, y in there if y is not None and y.untyped_storage().data_ptr() == memory]
        if len(found) != 1 or self.gradient or found[0][1].dtype != x.dtype:
            raise _Refused
        (place, root), size, stride = found[0], tuple(x.shape), x.stride()
        offset = x.storage_offset() - root.storage_offset()
        if (size, stride, offset) == (tuple(root.shape), root.stride(), 0):
            return place
        return self._make(lambda y: y.as_strided(size, stride, y.storage_offset() + offset), [place], x)


def _taking(places: list[int]) -> Callable[[_Row], Any]:
    """What takes the values at `places` out of a row."""
    if len(places) > 1:
        return operator.itemgetter(*places)
    first = places[0] if places else 0
    return operator.itemgetter(slice(first, first + len(places)))


def _without_gradient(function: Callable[..., Any], *args: Any) -> Any:
    with torch.no_grad():
        return function(*args)


def _has_tensors(x: Any) -> bool:
    return any(map(_has_tensors, x)) if isinstance(x, (list, tuple)) else isinstance(x, Tensor)


def _list(*values: Any) -> list[Any]:
    return [*values]


def _tuple(*values: Any) -> tuple[Any, ...]:
    return values
