"""The table of cases, the error budget, and meters of memory and time, for the tests, the benchmarks and the examples.

A case is one call of an operation: shapes, layouts, element types, planted values, and the corner it covers. The oracle
is the reference in float64 on the very numbers the kernel was given. The error budget is measured: a result may be as
far from the oracle as plain eager PyTorch in the same types is, plus a few units of rounding of the result's scale.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import afa_kernels

DEVICE = os.environ.get("AFA_KERNELS_TEST_DEVICE", "cpu")  # where cases put their tensors: "cpu" or "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
UNITS = 8  # of rounding of the result's scale, which a result may be off besides eager PyTorch's own error
UNITS_OF_ARITHMETIC = 32  # the same of the arithmetic's rounding: exp of a sum of 16 depths is off by the sum's error
UNITS_OF_EAGER = 128  # of the arithmetic's rounding, which that error may be: resizing rounds coordinates, sums add up

Shape = tuple[int, ...]
Dtypes = torch.dtype | tuple[torch.dtype, ...]


@dataclass(frozen=True)
class Case:
    """One call of the operation `op`. `shapes` has an entry per argument: a shape, or a list of them for a list.

    The arguments are the operation's first ones, or those of `names`, as keywords; `options` are the others.
    `layouts` names an entry of LAYOUTS per tensor and is repeated over the tensors; so is an entry of `dtypes` that is
    a tuple. `planted` gives, by the position of the tensor, values that replace its first elements. A `thorough` case
    also goes through what takes seconds a case: opcheck and torch.compile.
    """

    op: str
    covers: str
    shapes: tuple[Shape | list[Shape], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    layouts: tuple[str, ...] = ("contiguous",)
    dtypes: tuple[Dtypes, ...] = DTYPES
    planted: Mapping[int, Sequence[float]] = field(default_factory=dict)
    thorough: bool = False
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.op}: {self.covers}"

    def inputs(self, dtypes: Dtypes, device: str = DEVICE, seed: int = 0) -> tuple[Any, ...]:
        """The arguments of the call: standard normal numbers, the same for every element type, in its layouts."""
        generator = torch.Generator().manual_seed(seed)

        def make(i: int, shape: Shape, dtype: torch.dtype) -> Tensor:
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            planted = torch.tensor(self.planted.get(i, ()), dtype=torch.float64)
            values.view(-1)[: len(planted)] = planted
            return values.to(device, dtype)

        return self._arguments(dtypes, make)

    def unfilled(self, dtypes: Dtypes, device: str = "cpu") -> tuple[Any, ...]:
        """The same arguments with no particular values, for who looks at launches only."""
        return self._arguments(dtypes, lambda i, shape, dtype: torch.empty(shape, dtype=dtype, device=device))

    def _arguments(self, dtypes: Dtypes, make: Callable[[int, Shape, torch.dtype], Tensor]) -> tuple[Any, ...]:
        position = itertools.count()

        def laid_out(shape: Shape) -> Tensor:
            i = next(position)
            dtype = dtypes if isinstance(dtypes, torch.dtype) else dtypes[i % len(dtypes)]
            return LAYOUTS[self.layouts[i % len(self.layouts)]](make(i, shape, dtype))

        return tuple(
            [laid_out(s) for s in shape] if isinstance(shape, list) else laid_out(shape) for shape in self.shapes
        )

    def __call__(self, arguments: Sequence[Any], backend: str) -> list[Tensor]:
        """The outputs of the operation on `backend`."""
        with afa_kernels.use_backend(backend):
            return listed(self.call(operation(self.op), *arguments))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function` of the arguments, in the places or by the names they have in the operation, and the options."""
        device = tensors(arguments)[0].device
        options = {key: o.to(device) if isinstance(o, Tensor) else o for key, o in self.options.items()}
        if self.names:
            return function(**dict(zip(self.names, arguments, strict=True)), **options)
        return function(*arguments, **options)


def operation(name: str) -> Callable[..., Any]:
    """The operation of that name, whether it is public or not."""
    return getattr(importlib.import_module(f"afa_kernels.ops.{name}"), name)


def listed(outputs: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """The tensors among the arguments and in their lists, in order."""
    return [t for argument in arguments for t in listed(argument)]


def with_tensors(arguments: Sequence[Any], replacements: Iterable[Tensor]) -> tuple[Any, ...]:
    """The arguments with their tensors, in order, replaced."""
    new = iter(replacements)
    return tuple(next(new) if isinstance(a, Tensor) else [next(new) for _ in a] for a in arguments)


def cotangents(outputs: Iterable[Tensor], seed: int = 1) -> list[Tensor]:
    """A gradient for each output: standard normal numbers, the same for every element type."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o) for o in outputs]


def both_passes(
    function: Callable[[Sequence[Any]], list[Tensor]],
    arguments: Sequence[Any],
    outputs_grad: Callable[[list[Tensor]], list[Tensor]] | Sequence[Tensor] = cotangents,
    wanted: Sequence[bool] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs, and the gradient of each tensor of `arguments`, or of those `wanted`.

    `outputs_grad` are the gradients of the outputs, or a function that makes them.
    """
    given = tensors(arguments)
    asked = [True] * len(given) if wanted is None else wanted
    leaves = [t.detach().requires_grad_(a) for t, a in zip(given, asked, strict=True)]
    outputs = function(with_tensors(arguments, leaves))
    grads = outputs_grad(outputs) if callable(outputs_grad) else outputs_grad
    found = torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf.requires_grad], grads)
    return [output.detach() for output in outputs], list(found)


def gradients(*arguments: Any, **keywords: Any) -> list[Tensor]:
    """The second of what `both_passes` returns."""
    return both_passes(*arguments, **keywords)[1]


def doubled(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """The same numbers in float64, in contiguous memory."""
    return with_tensors(arguments, [t.detach().double().contiguous() for t in tensors(arguments)])


def disagreement(
    actual: Tensor, oracle: Tensor, eager: Tensor | None = None, arithmetic: torch.dtype = torch.float64
) -> str | None:
    """Why `actual`, computed in `arithmetic`, is outside the error budget, or None.

    Without what `eager` PyTorch computes, `actual` is that itself, and UNITS_OF_EAGER take the place of its error.
    """
    if actual.shape != oracle.shape:
        return f"shape {tuple(actual.shape)}, expected {tuple(oracle.shape)}"
    got = actual.double()
    finite = oracle.isfinite()
    if not torch.equal(got[~finite].nan_to_num(7.0), oracle[~finite].nan_to_num(7.0)):
        return "NaN or infinity differs from the oracle's"
    if oracle[finite].numel() == 0:
        return None
    kind = torch.finfo(actual.dtype)
    rounding = max(kind.eps, torch.finfo(arithmetic).eps)
    scale = oracle[finite].abs().max().item()
    budget = UNITS * rounding * scale + kind.smallest_normal * kind.eps
    if eager is None:
        budget += UNITS_OF_EAGER * torch.finfo(arithmetic).eps * scale
    else:
        budget += UNITS_OF_ARITHMETIC * torch.finfo(arithmetic).eps * scale
        budget += (eager.double() - oracle)[finite].abs().max().item()
    error = (got - oracle)[finite].abs()
    if bool((error <= budget).all()):
        return None
    return f"off by {error.max().item():.3g} at worst (nan: NaN, or never written), the budget is {budget:.3g}"


def check(case: Case, arguments: Sequence[Any], backend: str) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of the case on `backend`, and the gradients; an AssertionError where one is outside the budget."""
    with afa_kernels.use_backend(backend):  # a backward pass runs on the backend of its own moment
        outputs, grads = both_passes(lambda a: case(a, backend), arguments)
    upstream = cotangents(outputs)
    oracles, eagers = (
        list(itertools.chain(*both_passes(lambda a: case(a, "reference"), a, given)))
        for a, given in ((doubled(arguments), [g.double() for g in upstream]), (arguments, upstream))
    )
    arithmetic = torch.promote_types(outputs[0].dtype, torch.float32)
    names = [f"output {i}" for i in range(len(outputs))] + [f"gradient {i}" for i in range(len(grads))]
    for name, actual, oracle, eager in zip(names, outputs + grads, oracles, eagers, strict=True):
        assert actual.dtype == eager.dtype, f"{name} of {case} has dtype {actual.dtype}, expected {eager.dtype}"
        reason = disagreement(actual, oracle, None if backend == "reference" else eager, arithmetic)
        assert reason is None, f"{name} of {case} on {backend}: {reason}"
    return outputs, grads


def saved_storages(function: Callable[[], Any]) -> dict[int, int]:
    """The memory that one call of `function` saves for backward: the bytes of each storage, by its address."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function()  # keeps what was saved alive, so that no address is used twice
    del kept
    return saved


def saved_bytes(function: Callable[[], Any]) -> int:
    """The bytes one call of `function` saves for backward, its arguments included; a shared storage counts once."""
    return sum(saved_storages(function).values())


def peak_bytes(function: Callable[[], Any], device: str = "cpu") -> int:
    """The most bytes that one call of `function` holds at a time in tensors it allocates, its result included.

    Exact: the sum of the allocator's own events on the CPU, its statistics on CUDA. Memory that native code takes from
    the C++ heap for itself is not the allocator's and does not count.
    """
    if device != "cpu":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # below this level the profiler tells of its progress on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(held, default=0)


def alternate(
    functions: Mapping[str, Callable[[], Any]], seconds: float = 0.0, repeats: int = 7
) -> dict[str, list[float]]:
    """The seconds of each call of each function: at least `repeats` calls, and about `seconds` spent per function.

    After two calls of each that are not counted, the functions take turns in random order, so that other load, clock
    speed and the memory the one before left behind meet all of them alike. A result is freed before the next call: the
    page faults of fresh tensors are part of what is measured.
    """
    for function in functions.values():
        for _ in range(2):
            function()
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times: dict[str, list[float]] = {name: [] for name in functions}
    shuffler = random.Random(0)
    rounds, spent = 0, 0.0
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while rounds < repeats or spent < seconds * len(functions):
            rounds += 1
            for name in shuffler.sample(list(functions), len(functions)):
                synchronize()
                start = time.perf_counter()
                result = functions[name]()
                synchronize()
                times[name].append(time.perf_counter() - start)
                del result
                spent += times[name][-1]
    finally:
        if collecting:
            gc.enable()
    return times


# Every layout keeps the values but "expanded", which repeats the first image. Memory around a slice is NaN.
def _inside(x: Tensor, margins: Sequence[int], memory_format: torch.memory_format) -> Tensor:
    """`x` as a slice of a larger tensor of NaN, `margins` wider at both ends of each axis."""
    shape = [size + 2 * margin for size, margin in zip(x.shape, margins, strict=True)]
    large = torch.full(shape, torch.nan, dtype=x.dtype, device=x.device).contiguous(memory_format=memory_format)
    view = large[tuple(slice(margin, margin + size) for size, margin in zip(x.shape, margins, strict=True))]
    return view.copy_(x)


def _every_second(x: Tensor) -> Tensor:
    large = torch.full((*x.shape[:3], 2 * x.shape[3]), torch.nan, dtype=x.dtype, device=x.device)
    return large[..., 1::2].copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),  # dense, in neither memory format
    "batch_inside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),  # dense, the batch inside the channels
    "sliced": lambda x: _inside(x, (1, 1, 1, 1), torch.contiguous_format),
    "sliced_channels": lambda x: _inside(x, (0, 1, 0, 0), torch.contiguous_format),
    "sliced_channels_last": lambda x: _inside(x, (1, 1, 0, 0), torch.channels_last),
    "every_second": _every_second,
    "expanded": lambda x: x[:1].expand(x.shape),
}


def _fusion(covers: str, shape: Shape, **details: Any) -> Case:
    batch, channels, height, width = shape
    shapes = (shape, shape, (batch, 1, height, width), (batch, channels, 1, 1))
    return Case("attentive_fusion", covers, shapes, **details)


def _progressive(covers: str, inputs: int, shape: Shape, **details: Any) -> Case:
    batch, channels, height, width = shape
    shapes = [[size] * inputs for size in (shape, (batch, 1, height, width), (batch, channels, 1, 1))]
    return Case("progressive_fusion", covers, tuple(shapes), **details)


def _pool(covers: str, shape: Shape, **details: Any) -> Case:
    return Case("global_avg_max_pool", covers, (shape,), **details)


def _channel(
    covers: str,
    shape: Shape,
    outputs: int = 16,
    hidden: int = 3,
    layout: str = "contiguous",
    running: bool = True,
    slope: float = 0.0,
    abs_weight: bool = False,
    **details: Any,
) -> Case:
    """In evaluation mode; or in training without running statistics to move."""
    options = {
        "running_mean": torch.linspace(-1, 1, hidden) if running else None,
        "running_var": torch.linspace(0.5, 2, hidden) if running else None,
        "training": not running,
        "activation_slope": slope,
        "abs_weight": abs_weight,
    }
    shapes = (shape, (hidden, shape[1], 1, 1), (hidden,), (hidden,), (outputs, hidden, 1, 1))
    names = ("x", "conv1_weight", "weight", "bias", "conv2_weight")
    layouts = (layout, *4 * ("contiguous",))
    return Case("channel_attention", covers, shapes, options, layouts, names=names, **details)


def _weights(covers: str, logits: Shape | list[Shape], phi: str = "abs", background: str = "none", **rest: Any) -> Case:
    return Case("scale_space_weights", covers, (logits,), {"phi": phi, "background": background}, **rest)


def _render(
    covers: str,
    sizes: Sequence[tuple[int, int]],
    attention: tuple[int, int] | list[Shape] = (2, 6),
    batch: int = 2,
    channels: int = 3,
    layouts: tuple[str, ...] = ("contiguous",),
    dtypes: tuple[Dtypes, ...] = (torch.float32,),
    planted: Mapping[int, Sequence[float]] | None = None,
    thorough: bool = False,
    **options: Any,
) -> Case:
    predictions: list[Shape] = [(batch, channels, *size) for size in sizes]
    logits: Shape | list[Shape] = attention if isinstance(attention, list) else (batch, len(sizes), *attention)
    return Case("scale_space_render", covers, (predictions, logits), options, layouts, dtypes, planted or {}, thorough)


def _cross_entropy(
    covers: str,
    sizes: Sequence[tuple[int, int]],
    size: tuple[int, int],
    attention: tuple[int, int] = (2, 6),
    batch: int = 2,
    channels: int = 3,
    ignored: int = -100,
    dtype: torch.dtype = torch.int64,
    weighted: bool = False,
    layouts: tuple[str, ...] = ("contiguous",),
    dtypes: tuple[Dtypes, ...] = (torch.float32,),
    planted: Mapping[int, Sequence[float]] | None = None,
    thorough: bool = False,
    **options: Any,
) -> Case:
    """A target of every class and, where there are pixels enough, some to ignore."""
    classes = torch.arange(batch * size[0] * size[1]).mul(7).remainder(channels + 1).view(batch, *size)
    options["target"] = torch.where(classes == channels, ignored, classes).to(dtype)
    options["ignore_index"] = ignored
    if weighted:
        options["weight"] = torch.linspace(0.5, 2, channels)
    predictions: list[Shape] = [(batch, channels, *s) for s in sizes]
    shapes = predictions, (batch, len(sizes), *attention)
    return Case("scale_space_cross_entropy", covers, shapes, options, layouts, dtypes, planted or {}, thorough)


def _hierarchical(
    covers: str,
    scales: Sequence[float],
    variant: str = "afa",
    full: tuple[int, int] = (4, 6),
    batch: int = 2,
    channels: int = 3,
    attention: tuple[int, int] | None = None,
    **rest: Any,
) -> Case:
    """Predictions at their scale of the `full` size, as are the attentions, of the finest scale none."""
    size = rest.pop("size", None)
    sizes = [(int(s * full[0]), int(s * full[1])) for s in scales]
    predictions: list[Shape] = [(batch, channels, *s) for s in sizes]
    attentions: list[Shape] = [(batch, 1, *(attention or s)) for s in sizes[:-1]]
    options = {"scales": tuple(scales), "variant": variant, "size": size}
    return Case("hierarchical_fusion", covers, (predictions, attentions), options, **rest)


def _project(
    covers: str,
    shape: Shape,
    layout: str = "contiguous",
    running: bool = False,
    slope: float = 0.0,
    abs_weight: bool = False,
    **details: Any,
) -> Case:
    """In training, without running statistics to move; or in evaluation mode by `running` ones."""
    channels = shape[1]
    options = {
        "running_mean": torch.linspace(-1, 1, channels) if running else None,
        "running_var": torch.linspace(0.5, 2, channels) if running else None,
        "training": not running,
        "activation_slope": slope,
        "abs_weight": abs_weight,
    }
    layouts = (layout, *3 * ("contiguous",))
    names = ("hidden", "weight", "bias", "project_weight")
    shapes = (shape, (channels,), (channels,), (1, channels, 1, 1))
    return Case("bn_relu_project", covers, shapes, options, layouts, names=names, **details)


ODD = (2, 13, 17, 19)
SIXTEEN = tuple((1 + k % 3, 3 + k % 7) for k in range(16))
SCALES = ((2, 5), (3, 9), (4, 13))
FLOAT32 = (torch.float32,)
MIXED = (torch.bfloat16, torch.float16, torch.float64, torch.float32)
HALVES = (torch.bfloat16, torch.float16)
SATURATED = (1e4, -1e4, 0.0, 20.0, -20.0)
NON_FINITE = (float("nan"), float("inf"), -float("inf"), 0.0)
NAN = (float("nan"),)

CASES: tuple[Case, ...] = (
    _fusion("NCHW, prime sizes, two blocks along every axis", ODD, thorough=True),
    _fusion("channels_last, prime sizes", ODD, layouts=("channels_last",), thorough=True),
    _fusion("dense, height and width exchanged", ODD, layouts=("permuted",), thorough=True),
    _fusion("few values in NCHW", (2, 3, 2, 3)),
    _fusion("few values in channels_last", (2, 3, 2, 3), layouts=("channels_last",)),
    _fusion("sizes a multiple of every block", (1, 16, 16, 64), dtypes=FLOAT32),
    _fusion("many pixel blocks, summed in several steps", (1, 3, 89, 97), dtypes=FLOAT32),
    _fusion("many channels in channels_last", (1, 131, 5, 7), layouts=("channels_last",), dtypes=FLOAT32),
    _fusion("many channels in NCHW", (1, 131, 5, 7), dtypes=FLOAT32),
    _fusion("one element", (1, 1, 1, 1)),
    _fusion("one channel, where both memory formats coincide", (2, 1, 5, 7), layouts=("channels_last",)),
    _fusion("one pixel", (3, 5, 1, 1), dtypes=FLOAT32),
    _fusion("one row", (2, 3, 1, 11), dtypes=FLOAT32),
    _fusion("one column", (2, 3, 11, 1), layouts=("channels_last",), dtypes=FLOAT32),
    _fusion("empty batch", (0, 3, 4, 5)),
    _fusion("no channels", (2, 0, 4, 5), dtypes=FLOAT32),
    _fusion("no pixels", (2, 3, 0, 5), dtypes=FLOAT32),
    _fusion("mixed element types", ODD, dtypes=(MIXED, MIXED[::-1], (torch.bfloat16, torch.bfloat16, torch.float32))),
    _fusion("dense, the batch inside the channels", ODD, layouts=("batch_inside",), dtypes=FLOAT32),
    _fusion("slices along every axis", ODD, layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    _fusion("slices along the channels", ODD, layouts=("sliced_channels",), dtypes=FLOAT32),
    _fusion("slices of channels_last", ODD, layouts=("sliced_channels_last",), dtypes=(torch.float32, torch.float16)),
    _fusion("every second pixel", ODD, layouts=("every_second",), dtypes=FLOAT32),
    _fusion("one image expanded over the batch", ODD, layouts=("expanded",), dtypes=FLOAT32),
    _fusion("NCHW beside channels_last", ODD, layouts=("contiguous", "channels_last"), dtypes=FLOAT32),
    _fusion("channels_last beside NCHW", ODD, layouts=("channels_last", "contiguous"), dtypes=FLOAT32),
    _fusion("a layout of its own for each", ODD, layouts=("sliced", "permuted", "every_second", "sliced_channels")),
    _fusion("saturated logits", ODD, planted={2: SATURATED, 3: SATURATED}),
    _fusion("NaN and infinity in the features", ODD, planted={0: NON_FINITE, 1: NON_FINITE[::-1]}),
    _fusion("NaN and infinity in the logits", ODD, planted={2: NON_FINITE, 3: NON_FINITE}),
    _progressive("two inputs in NCHW", 2, (2, 3, 5, 7), thorough=True),
    _progressive("two inputs in channels_last", 2, (2, 3, 5, 7), layouts=("channels_last",), thorough=True),
    _progressive("dense, height and width exchanged", 2, (2, 3, 5, 7), layouts=("permuted",), thorough=True),
    _progressive("three inputs, prime sizes, two blocks along every axis", 3, ODD),
    _progressive("three inputs in channels_last", 3, ODD, layouts=("channels_last",)),
    _progressive("few values in NCHW", 3, (2, 3, 2, 3)),
    _progressive("few values in channels_last", 2, (2, 3, 2, 3), layouts=("channels_last",)),
    _progressive("one input", 1, (2, 3, 5, 7)),
    _progressive("sixteen inputs", 16, (1, 2, 3, 5)),
    _progressive("many pixel blocks, summed in several steps", 2, (1, 3, 89, 97), dtypes=FLOAT32),
    _progressive("many channels in channels_last", 2, (1, 131, 5, 7), layouts=("channels_last",), dtypes=FLOAT32),
    _progressive("more channels than a tile of logits", 2, (1, 2053, 1, 2), layouts=("channels_last",), dtypes=FLOAT32),
    _progressive("one element", 2, (1, 1, 1, 1)),
    _progressive("one channel, where both memory formats coincide", 2, (2, 1, 5, 7), layouts=("channels_last",)),
    _progressive("one pixel", 3, (3, 5, 1, 1), dtypes=FLOAT32),
    _progressive("one column", 2, (2, 3, 11, 1), layouts=("channels_last",), dtypes=FLOAT32),
    _progressive("empty batch", 2, (0, 3, 4, 5)),
    _progressive("no channels", 2, (2, 0, 4, 5), dtypes=FLOAT32),
    _progressive("no pixels", 2, (2, 3, 0, 5), dtypes=FLOAT32),
    _progressive("mixed element types", 2, ODD, dtypes=(MIXED, MIXED[::-1], (torch.float16, *HALVES))),
    _progressive("slices along every axis", 2, ODD, layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    _progressive("slices along the channels", 2, ODD, layouts=("sliced_channels",), dtypes=FLOAT32),
    _progressive("slices of channels_last", 2, ODD, layouts=("sliced_channels_last",), dtypes=FLOAT32),
    _progressive("one image expanded over the batch", 2, ODD, layouts=("expanded",), dtypes=FLOAT32),
    _progressive("NCHW beside channels_last", 2, ODD, layouts=("contiguous", "channels_last"), dtypes=FLOAT32),
    _progressive(
        "a layout of its own for each",
        3,
        ODD,
        layouts=("sliced", "permuted", "every_second", "sliced_channels"),
        dtypes=FLOAT32,
    ),
    _progressive("saturated logits", 3, ODD, planted={k: SATURATED for k in range(3, 9)}),
    _progressive("NaN and infinity in the features", 2, (2, 3, 5, 7), planted={0: NON_FINITE, 1: NON_FINITE[::-1]}),
    _progressive("NaN in the logits", 2, (2, 3, 5, 7), planted={2: NAN, 5: NAN}),
    _pool("NCHW, prime sizes", (2, 3, 5, 7), thorough=True),
    _pool("channels_last, prime sizes", (2, 3, 5, 7), layouts=("channels_last",), thorough=True),
    _pool("dense, height and width exchanged", (2, 3, 5, 7), layouts=("permuted",), thorough=True),
    _pool("few values in NCHW", (2, 3, 2, 3)),
    _pool("few values in channels_last", (2, 3, 2, 3), layouts=("channels_last",)),
    _pool("many pixels in several tiles", (1, 2, 89, 97)),
    _pool("many pixels in several tiles of channels_last", (1, 3, 89, 97), layouts=("channels_last",)),
    _pool("many channels in NCHW", (1, 131, 5, 7), dtypes=FLOAT32),
    _pool("many channels in channels_last", (1, 131, 5, 7), layouts=("channels_last",), dtypes=FLOAT32),
    _pool("one element", (1, 1, 1, 1)),
    _pool("one channel, where both memory formats coincide", (2, 1, 5, 7), layouts=("channels_last",)),
    _pool("one pixel", (3, 5, 1, 1), dtypes=FLOAT32),
    _pool("one column in channels_last", (2, 3, 11, 1), layouts=("channels_last",), dtypes=FLOAT32),
    _pool("empty batch", (0, 3, 4, 5)),
    _pool("no channels", (2, 0, 4, 5), dtypes=FLOAT32),
    _pool("slices along every axis", ODD, layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    _pool("slices of channels_last", ODD, layouts=("sliced_channels_last",), dtypes=FLOAT32),
    _pool("every second pixel", ODD, layouts=("every_second",), dtypes=FLOAT32),
    _pool("one image expanded over the batch", ODD, layouts=("expanded",), dtypes=FLOAT32),
    _pool("ties", (2, 3, 5, 7), planted={0: 2 * 35 * (3.0, 3.0, -1.0)}),
    _pool("ties in channels_last", (2, 3, 5, 7), layouts=("channels_last",), planted={0: 2 * 35 * (3.0, 3.0, -1.0)}),
    _pool("NaN and infinity", (1, 3, 5, 7), planted={0: NON_FINITE}),
    _pool("NaN and infinity in channels_last", (1, 3, 5, 7), layouts=("channels_last",), planted={0: NON_FINITE}),
    _pool("nothing but minus infinity", (1, 1, 5, 7), planted={0: 35 * (-float("inf"),)}),
    _project("NCHW in training", (2, 5, 3, 5), thorough=True),
    _project("channels_last in training, InPlaceABN", (2, 5, 3, 5), "channels_last", False, 0.01, True, thorough=True),
    _project("running statistics", (2, 5, 3, 5), running=True, thorough=True),
    _project("few values in NCHW", (2, 3, 2, 3)),
    _project("few values in channels_last", (2, 3, 2, 3), "channels_last", slope=0.01),
    _project("few values, running statistics", (2, 3, 2, 3), running=True, abs_weight=True),
    _project("few values in channels_last, running statistics", (2, 3, 2, 3), "channels_last", True, 0.01, True),
    _project("prime sizes, several blocks along every axis", ODD),
    _project("prime sizes in channels_last", ODD, "channels_last"),
    _project("prime sizes, running statistics", ODD, running=True, slope=0.01),
    _project("prime sizes in channels_last, running statistics", ODD, "channels_last", running=True),
    _project("many pixel blocks, summed in several steps", (1, 2, 67, 71), dtypes=FLOAT32),
    _project("many pixel blocks in channels_last", (1, 2, 67, 71), "channels_last", dtypes=FLOAT32),
    _project("sizes a multiple of every block", (1, 16, 16, 64), dtypes=FLOAT32),
    _project("many channels", (1, 131, 3, 5), dtypes=FLOAT32),
    _project("many channels in channels_last", (1, 131, 3, 5), "channels_last", dtypes=FLOAT32),
    _project("three values a channel", (1, 4, 1, 3), dtypes=FLOAT32),
    _project("one pixel, several images", (7, 4, 1, 1), dtypes=FLOAT32),
    _project("one pixel, running statistics", (1, 4, 1, 1), running=True),
    _project("one channel", (2, 1, 5, 7)),
    _project("one row", (2, 3, 1, 7), dtypes=FLOAT32),
    _project("one column in channels_last", (2, 3, 7, 1), "channels_last", dtypes=FLOAT32),
    _project("empty batch, running statistics", (0, 3, 4, 5), running=True),
    _project("no pixels, running statistics", (2, 3, 0, 5), running=True, dtypes=FLOAT32),
    _project("mixed element types", (2, 5, 3, 5), dtypes=(MIXED, (torch.bfloat16, *3 * FLOAT32))),
    *(
        _project(f"{layout} of its own", (2, 5, 3, 5), layout, slope=0.01, dtypes=(torch.float32, torch.bfloat16))
        for layout in ("permuted", "batch_inside", "sliced", "sliced_channels", "sliced_channels_last", "every_second")
    ),
    _project("one image expanded over the batch", (2, 5, 3, 5), "expanded", dtypes=FLOAT32),
    _project("NaN and infinity", (2, 3, 2, 3), running=True, planted={0: NON_FINITE}, dtypes=FLOAT32),
    _project("NaN and infinity, leaky", (2, 3, 2, 3), "channels_last", True, 0.01, planted={0: NON_FINITE}),
    _project("NaN in training", (2, 3, 2, 3), planted={0: NAN}, dtypes=FLOAT32),
    _project("zero and negative weights", (2, 5, 3, 5), abs_weight=True, planted={1: (0.0, -1.0, 1.0, -0.5, 0.5)}),
    _channel("NCHW", (2, 5, 3, 4), thorough=True),
    _channel("channels_last, InPlaceABN", (2, 5, 3, 4), 7, 2, "channels_last", True, 0.01, True, thorough=True),
    _channel("few values", (1, 2, 2, 2), 2, 2),
    _channel("few values in channels_last", (2, 3, 2, 2), 3, 1, "channels_last", True, 0.01),
    _channel("statistics of the batch", (5, 3, 2, 3), 4, 2, running=False),
    _channel("statistics of the batch, InPlaceABN", (5, 3, 2, 3), 4, 2, "channels_last", False, 0.01, True),
    _channel("several blocks along every axis", (2, 67, 2, 3), 71, 19, dtypes=FLOAT32),
    _channel("sizes a multiple of every block", (2, 64, 4, 4), 64, 16, dtypes=FLOAT32),
    _channel("one channel, one unit, one pixel", (3, 1, 1, 1), 1, 1),
    _channel("empty batch", (0, 3, 4, 5)),
    _channel("mixed element types", (2, 5, 3, 4), dtypes=((torch.float32, *HALVES, torch.float64, torch.float32),)),
    _channel("slices along every axis", (2, 5, 3, 4), layout="sliced", dtypes=FLOAT32),
    _channel("NaN and infinity", (2, 3, 2, 3), 4, 2, planted={0: NON_FINITE}),
    _weights("three scales, prime sizes", (2, 3, 11, 13), thorough=True),
    _weights("three scales in channels_last", (2, 3, 11, 13), layouts=("channels_last",), thorough=True),
    _weights("dense, height and width exchanged", (2, 3, 11, 13), layouts=("permuted",), thorough=True),
    *(
        _weights(f"few values, {phi}, background {background}", (2, 3, 2, 3), phi, background)
        for phi in ("abs", "relu", "softplus", "exp")
        for background in ("none", "last")
    ),
    _weights("many pixels in several blocks", (2, 2, 61, 67), dtypes=FLOAT32),
    _weights("one scale", (2, 1, 5, 7)),
    _weights("one opaque scale", (2, 1, 5, 7), background="last", dtypes=FLOAT32),
    _weights("sixteen scales", (2, 16, 5, 7), dtypes=FLOAT32),
    _weights("one element", (1, 1, 1, 1), dtypes=FLOAT32),
    _weights("a list of one size", [(2, 1, 5, 7)] * 3, dtypes=FLOAT32),
    _weights("a list of three sizes", [(2, 1, 3, 4), (2, 1, 6, 8), (2, 1, 5, 7)], dtypes=DTYPES),
    _weights("a list of mixed element types", [(2, 1, 5, 7)] * 3, dtypes=(HALVES, (torch.float32, torch.bfloat16))),
    _weights("empty batch", (0, 3, 4, 5)),
    _weights("no pixels", (2, 3, 0, 5), dtypes=FLOAT32),
    _weights("slices along every axis", (2, 3, 11, 13), layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    _weights("slices along the scales", (2, 3, 11, 13), layouts=("sliced_channels",), dtypes=FLOAT32),
    _weights("slices of channels_last", (2, 3, 11, 13), layouts=("sliced_channels_last",), dtypes=FLOAT32),
    _weights("every second pixel", (2, 3, 11, 13), layouts=("every_second",), dtypes=FLOAT32),
    _weights("one image expanded over the batch", (2, 3, 11, 13), layouts=("expanded",), dtypes=FLOAT32),
    *(
        _weights(f"saturated logits and zeros, {phi}", (1, 3, 2, 3), phi, dtypes=DTYPES, planted={0: SATURATED})
        for phi in ("abs", "relu", "softplus", "exp")
    ),
    *(
        _weights(f"NaN and infinity, {phi}", (1, 3, 2, 3), phi, dtypes=FLOAT32, planted={0: NON_FINITE})
        for phi in ("abs", "relu", "softplus", "exp")
    ),
    _render("two scales", ((2, 3), (3, 5)), (2, 3), batch=1, size=(4, 7), thorough=True),
    _render("three scales, prime sizes, NCHW", SCALES, dtypes=DTYPES, size=(5, 21)),
    _render("channels_last", SCALES, dtypes=DTYPES, size=(5, 21), layouts=("channels_last",), thorough=True),
    _render("dense, height and width exchanged", SCALES, layouts=("permuted",), thorough=True),
    *(
        _render(
            f"few values, {phi}, {resize}, background {background}",
            ((1, 2), (2, 2)),
            (2, 1),
            batch=1,
            channels=2,
            dtypes=DTYPES,
            size=(2, 3),
            phi=phi,
            resize=resize,
            background=background,
        )
        for phi, resize, background in (
            ("abs", "weights", "none"),
            ("abs", "opacities", "none"),
            ("relu", "weights", "last"),
            ("softplus", "opacities", "last"),
            ("exp", "opacities", "none"),
            ("exp", "weights", "last"),
        )
    ),
    _render(
        "few values in channels_last", ((1, 2), (2, 3)), (2, 2), batch=1, dtypes=DTYPES, layouts=("channels_last",)
    ),
    _render("the size of the largest prediction", SCALES),
    _render(
        "opacities at the size of the largest prediction, the last opaque",
        SCALES,
        resize="opacities",
        background="last",
    ),
    _render("every map smaller than the output, by whole factors", ((2, 12), (4, 24)), (4, 24), size=(8, 48)),
    _render("every map larger than the output", SCALES, (6, 21), size=(3, 4)),
    _render("opacities larger than the output", SCALES, (6, 21), size=(3, 4), resize="opacities"),
    _render("every map of the output's size", ((3, 9),) * 3, (3, 9)),
    _render("wider but lower than the output", ((2, 40), (9, 3)), (2, 31), size=(5, 11)),
    _render("one pixel everywhere", ((1, 1),) * 2, (1, 1)),
    _render("one pixel enlarged", ((1, 1),) * 2, (1, 1), size=(5, 6)),
    _render("one output pixel", SCALES, size=(1, 1)),
    _render("one output pixel in channels_last", ((2, 4), (3, 6)), size=(1, 1), layouts=("channels_last",)),
    _render("one pixel behind many in channels_last", ((3, 4), (1, 1)), size=(5, 6), layouts=("channels_last",)),
    _render("one row and one column", ((1, 9), (4, 1)), (1, 5), size=(3, 8)),
    _render("one scale", ((3, 7),), (2, 3), size=(5, 8), dtypes=DTYPES),
    _render("sixteen scales", SIXTEEN, (2, 5), batch=1, size=(3, 7)),
    _render("sixteen scales by opacities", SIXTEEN, (2, 5), batch=1, resize="opacities"),
    _render("rows of several blocks", ((1, 150), (2, 263)), (2, 260), channels=2, batch=1, size=(3, 521)),
    _render("many rows", ((7, 3), (5, 2)), (11, 3), channels=2, batch=1, size=(17, 4)),
    _render("many channels in channels_last", SCALES, channels=37, batch=1, layouts=("channels_last",)),
    _render("many channels in NCHW", SCALES, channels=37, batch=1),
    _render("one channel", SCALES, channels=1, dtypes=DTYPES),
    _render("empty batch", SCALES, batch=0, dtypes=DTYPES),
    _render("no channels", SCALES, channels=0, dtypes=FLOAT32),
    _render("a list of logits", SCALES, [(2, 1, 6, 8)] * 3),
    _render("a list of logits of three sizes", SCALES, [(2, 1, 2, 4), (2, 1, 3, 8), (2, 1, 3, 7)]),
    _render("mixed element types", SCALES, dtypes=(MIXED, HALVES, (torch.float32, torch.bfloat16))),
    _render("slices along every axis", SCALES, layouts=("sliced",), dtypes=(torch.float32, torch.bfloat16)),
    _render("slices along the channels", SCALES, layouts=("sliced_channels",)),
    _render("slices of channels_last", SCALES, layouts=("sliced_channels_last",)),
    _render("one image expanded over the batch", SCALES, layouts=("expanded",)),
    _render("a layout of its own for each", SCALES, layouts=("channels_last", "permuted", "every_second", "sliced")),
    _render("saturated logits and zeros", SCALES, dtypes=DTYPES, planted={3: SATURATED}),
    _render("saturated opacities and zeros", SCALES, dtypes=DTYPES, planted={3: SATURATED}, resize="opacities"),
    _render("NaN in a prediction and in the logits", SCALES, planted={1: NAN, 3: NAN}),
    _render("NaN and infinity at equal sizes", ((3, 9),) * 3, (3, 9), planted={1: NON_FINITE, 3: NON_FINITE[::-1]}),
    _cross_entropy("two scales", ((2, 3), (3, 5)), (4, 13), (2, 3), batch=1, thorough=True),
    _cross_entropy("three scales, prime sizes, NCHW", SCALES, (5, 21), dtypes=DTYPES),
    _cross_entropy("channels_last", SCALES, (5, 21), dtypes=DTYPES, layouts=("channels_last",), thorough=True),
    _cross_entropy("dense, height and width exchanged", SCALES, (4, 13), layouts=("permuted",)),
    *(
        _cross_entropy(
            f"few values, {phi}, {resize}, background {background}, {reduction}",
            ((1, 2), (2, 2)),
            (2, 3),
            (2, 1),
            batch=1,
            dtypes=DTYPES,
            phi=phi,
            resize=resize,
            background=background,
            reduction=reduction,
        )
        for phi, resize, background, reduction in (
            ("abs", "weights", "none", "mean"),
            ("softplus", "opacities", "last", "sum"),
            ("relu", "weights", "last", "none"),
            ("exp", "opacities", "none", "mean"),
        )
    ),
    _cross_entropy("class weights", SCALES, (5, 21), weighted=True, dtypes=DTYPES),
    _cross_entropy("class weights in channels_last", SCALES, (5, 21), weighted=True, layouts=("channels_last",)),
    _cross_entropy("an unreduced loss", SCALES, (5, 21), reduction="none", weighted=True),
    _cross_entropy("targets of 8 bits that ignore 255", SCALES, (5, 21), ignored=255, dtype=torch.uint8),
    _cross_entropy("targets of 32 bits that ignore a class", SCALES, (5, 21), ignored=1, dtype=torch.int32),
    _cross_entropy("every map larger than the output", SCALES, (3, 4), (6, 21)),
    _cross_entropy("every map of the output's size", ((3, 9),) * 3, (3, 9), (3, 9)),
    _cross_entropy("one pixel enlarged", ((1, 1),) * 2, (5, 6), (1, 1)),
    _cross_entropy("one scale", ((3, 7),), (5, 8), (2, 3)),
    _cross_entropy("sixteen scales", SIXTEEN, (3, 7), (2, 5), batch=1),
    _cross_entropy("rows of several blocks", ((1, 150), (2, 263)), (3, 521), (2, 260), batch=1),
    _cross_entropy("many rows", ((9, 2), (20, 1)), (70, 3), (11, 2), batch=1),
    _cross_entropy("many channels in channels_last", SCALES, (5, 21), channels=37, layouts=("channels_last",)),
    _cross_entropy("many channels in NCHW", SCALES, (5, 21), channels=37),
    _cross_entropy("one channel", SCALES, (5, 21), channels=1),
    _cross_entropy("empty batch", SCALES, (5, 21), batch=0, reduction="none"),
    _cross_entropy("mixed element types", SCALES, (5, 21), dtypes=(MIXED, HALVES)),
    _cross_entropy("slices along every axis", SCALES, (5, 21), layouts=("sliced",)),
    _cross_entropy("slices of channels_last", SCALES, (5, 21), layouts=("sliced_channels_last",)),
    _cross_entropy("a layout of its own for each", SCALES, (5, 21), layouts=("channels_last", "permuted", "sliced")),
    _cross_entropy("saturated logits and zeros", SCALES, (5, 21), planted={3: SATURATED}, dtypes=DTYPES),
    _cross_entropy("saturated scores", SCALES, (5, 21), planted={2: SATURATED}),
    _cross_entropy("NaN in a prediction and in the logits", SCALES, (5, 21), planted={1: NAN, 3: NAN}),
    _cross_entropy("NaN and infinity at equal sizes", ((3, 9),) * 2, (3, 9), (3, 9), planted={1: NON_FINITE}),
    _hierarchical("two scales", (0.5, 1.0), dtypes=FLOAT32, full=(4, 10), thorough=True),
    *(
        _hierarchical(f"three scales, {variant}, {layout}", (0.5, 1.0, 2.0), variant, layouts=(layout,))
        for variant in ("afa", "nvidia")
        for layout in ("contiguous", "channels_last")
    ),
    *(
        _hierarchical(f"few values, {variant}", (0.5, 1.0), variant, (2, 2), batch=1, channels=2)
        for variant in ("afa", "nvidia")
    ),
    *(
        _hierarchical(f"five scales, {variant}", (0.25, 0.5, 1.0, 1.5, 2.0), variant, (4, 8), dtypes=FLOAT32)
        for variant in ("afa", "nvidia")
    ),
    *(
        _hierarchical(f"a size of its own, {variant}", (0.5, 2.0), variant, size=(5, 9), dtypes=FLOAT32)
        for variant in ("afa", "nvidia")
    ),
    _hierarchical("every scale below 1, nvidia", (0.25, 0.5, 0.75), "nvidia", (4, 8), size=(4, 8), dtypes=FLOAT32),
    _hierarchical("every scale from 1 on, nvidia", (1.0, 1.5, 2.0), "nvidia", dtypes=FLOAT32),
    _hierarchical("attentions of another size", (0.5, 1.0), attention=(3, 5), dtypes=FLOAT32),
    _hierarchical("one scale", (1.0,), dtypes=FLOAT32),
    _hierarchical("rows of several blocks", (0.5, 1.0), full=(2, 521), batch=1, dtypes=FLOAT32),
    _hierarchical("many rows", (0.5, 1.0), full=(70, 2), batch=1, dtypes=FLOAT32),
    _hierarchical(
        "many channels in channels_last", (0.5, 1.0), channels=37, layouts=("channels_last",), dtypes=FLOAT32
    ),
    _hierarchical("many channels in NCHW", (0.5, 1.0), channels=37, dtypes=FLOAT32),
    _hierarchical("one channel", (0.5, 1.0, 2.0), channels=1, dtypes=FLOAT32),
    _hierarchical("empty batch", (0.5, 1.0), batch=0, dtypes=FLOAT32),
    _hierarchical("no channels", (0.5, 1.0), channels=0, dtypes=FLOAT32),
    _hierarchical("mixed element types", (0.5, 1.0, 2.0), dtypes=(MIXED, HALVES)),
    _hierarchical("slices along every axis", (0.5, 1.0), layouts=("sliced",), dtypes=FLOAT32),
    _hierarchical("a layout of its own for each", (0.5, 1.0), layouts=("permuted", "channels_last"), dtypes=FLOAT32),
    _hierarchical("attention of 0 and 1", (0.5, 1.0, 2.0), planted={3: (0.0, 1.0, 0.0), 4: (1.0, 0.0)}),
    _hierarchical("NaN in a prediction and an attention", (0.5, 1.0), planted={1: NAN, 2: NAN}, dtypes=FLOAT32),
)

WITHOUT_GRADIENT = ("scale_space_labels", "scale_space_accumulate")

SIXTEENTHS = tuple(k / 8 for k in range(1, 17))
SIXTEEN_LARGE = tuple((16 * k, 32 * k) for k in range(1, 17))
# Calls of the sizes of real networks, whose launches are compiled offline and looked at, and never run: for every
# operation sizes that 16 divides, with `thorough`, and sizes that it does not, in both memory formats.
LARGE_CASES: tuple[Case, ...] = (
    *(
        _fusion(f"{name}, {layout}", shape, layouts=(layout,), thorough=name == "sizes divide by 16")
        for name, shape in (("sizes divide by 16", (2, 64, 256, 512)), ("odd sizes", (2, 67, 129, 253)))
        for layout in ("contiguous", "channels_last")
    ),
    *(
        _progressive(f"{name}, {layout}", 3, shape, layouts=(layout,), thorough=name == "sizes divide by 16")
        for name, shape in (("sizes divide by 16", (2, 64, 256, 512)), ("odd sizes", (2, 67, 129, 253)))
        for layout in ("contiguous", "channels_last")
    ),
    _progressive("eight inputs", 8, (1, 64, 256, 512)),
    _progressive("sixteen inputs, odd sizes, contiguous", 16, (1, 67, 129, 253)),
    _progressive("sixteen inputs, odd sizes, channels_last", 16, (1, 67, 129, 253), layouts=("channels_last",)),
    *(
        _pool(f"{name}, {layout}", shape, layouts=(layout,), thorough=name == "sizes divide by 16")
        for name, shape in (("sizes divide by 16", (2, 64, 256, 512)), ("odd sizes", (2, 67, 129, 253)))
        for layout in ("contiguous", "channels_last")
    ),
    *(
        _project(f"{name}, {layout}", shape, layout, thorough=name == "sizes divide by 16")
        for name, shape in (("sizes divide by 16", (2, 64, 256, 512)), ("odd sizes", (2, 67, 129, 253)))
        for layout in ("contiguous", "channels_last")
    ),
    *(
        _channel(f"{name}, {layout}", shape, outputs, hidden, layout, thorough=name == "sizes divide by 16")
        for name, shape, outputs, hidden in (
            ("sizes divide by 16", (2, 512, 64, 128), 512, 32),
            ("odd sizes", (2, 67, 129, 253), 131, 9),
        )
        for layout in ("contiguous", "channels_last")
    ),
    _weights("sizes divide by 16", (1, 5, 512, 1024), thorough=True),
    _weights("odd sizes", (3, 3, 129, 253), thorough=False),
    _weights("softplus, the last opaque", (1, 3, 512, 1024), "softplus", "last", thorough=True),
    _weights("sixteen scales", (1, 16, 512, 1024), thorough=True),
    _render(
        "sizes divide by 16",
        ((128, 256), (256, 512), (512, 1024)),
        (256, 512),
        channels=32,
        dtypes=DTYPES,
        thorough=True,
    ),
    _render(
        "sizes divide by 16, channels_last",
        ((128, 256), (256, 512), (512, 1024)),
        (256, 512),
        channels=32,
        dtypes=DTYPES,
        layouts=("channels_last",),
        thorough=True,
    ),
    _render("odd sizes", ((65, 127), (129, 253)), (65, 127), channels=19, dtypes=DTYPES, size=(259, 507)),
    _render("opacities, odd sizes", ((65, 127), (129, 253)), (65, 127), channels=19, dtypes=DTYPES, resize="opacities"),
    _render(
        "sixteen scales",
        SIXTEEN_LARGE,
        (128, 256),
        channels=32,
        batch=1,
        dtypes=DTYPES,
    ),
    _render(
        "sixteen scales by opacities",
        SIXTEEN_LARGE,
        (128, 256),
        channels=32,
        batch=1,
        dtypes=DTYPES,
        resize="opacities",
    ),
    _hierarchical("sixteen scales", SIXTEENTHS, full=(128, 256), batch=1, channels=32, dtypes=DTYPES[:2]),
    _cross_entropy("sixteen scales", SIXTEEN_LARGE, (256, 512), (128, 256), 1, 32, dtypes=DTYPES[:2]),
    *(
        _hierarchical(f"{name}, {layout}", (0.5, 1.0, 2.0), full=full, channels=channels, layouts=(layout,))
        for name, full, channels in (("sizes divide by 16", (128, 256), 32), ("odd sizes", (131, 253), 19))
        for layout in ("contiguous", "channels_last")
    ),
    _hierarchical("sizes divide by 16, premultiplied", (0.5, 1.0), "nvidia", (256, 512), channels=32, thorough=True),
    *(
        _cross_entropy(
            covers,
            sizes,
            size,
            sizes[-1],
            channels=channels,
            weighted=True,
            layouts=(layout,),
            dtypes=DTYPES,
            thorough=covers.startswith("sizes divide"),
        )
        for covers, channels, sizes, size, layout in (
            ("sizes divide by 16", 32, ((128, 256), (256, 512)), (512, 1024), "contiguous"),
            ("sizes divide by 16, channels_last", 32, ((128, 256), (256, 512)), (512, 1024), "channels_last"),
            ("odd sizes", 19, ((65, 127), (129, 253)), (259, 507), "contiguous"),
        )
    ),
    *(
        Case(
            "scale_space_accumulate",
            f"{name}, {layout}",
            ((2, channels, *size), (2, 1, *size), (2, channels, *half), (2, 1, *half)),
            {"first": False},
            (layout,),
            tuple((FLOAT32[0], FLOAT32[0], dtype, FLOAT32[0]) for dtype in DTYPES[:3]),
            thorough=name == "sizes divide by 16",
        )
        for name, channels, size, half in (
            ("sizes divide by 16", 32, (512, 1024), (256, 512)),
            ("odd sizes", 19, (259, 507), (129, 253)),
        )
        for layout in ("contiguous", "channels_last")
    ),
    *(
        Case(
            "scale_space_labels",
            covers,
            ([(2, channels, h, w) for h, w in sizes], (2, len(sizes), *sizes[-1])),
            {"size": size, "value": "probability"},
            (layout,),
            DTYPES[:2],
            thorough=covers.startswith("sizes divide"),
        )
        for covers, channels, sizes, size, layout in (
            ("sizes divide by 16", 32, ((128, 256), (256, 512)), (512, 1024), "contiguous"),
            ("odd sizes, channels_last", 19, ((65, 127), (129, 253)), (259, 507), "channels_last"),
        )
    ),
)
