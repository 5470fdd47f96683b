"""Bytes moved and kernels launched by one forward and one backward pass, counted on the CPU: bounds, not times.

    TRITON_INTERPRET=1 python -m benchmarks.traffic      counts afa_kernels and eager PyTorch
    python -m benchmarks.traffic_compiled                with a CUDA build of torch, no GPU: counts torch.compile
    python -m benchmarks.traffic --write README.md       puts the table there

One meter counts all three. A launch of a Triton kernel, in Triton's interpreter, by every address it loads or stores:
`requested` counts an element each time a program asks for it, `sectors` each 32 bytes once a launch and kind of access,
as if the cache held what it reads. An operator of PyTorch's that is not a view, by the tensors it reads and those it
writes, each once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

import afa_kernels
from afa_kernels.ops import scale_space_cross_entropy
from afa_kernels.testing import WITHOUT_GRADIENT, Case, cotangents, listed, operation, tensors
from benchmarks.shapes import EAGER, Shape, resize

RECORD = Path(__file__).parent / "results" / "traffic.json"
SECTOR = 32
POOLING = ("global_avg_max_pool", "channel_attention")

# Small enough for the interpreter, large enough that blocks and borders cost what they cost at any size.
_FUSION = ((1, 32, 32, 64), (1, 32, 32, 64), (1, 1, 32, 64), (1, 32, 1, 1))
_SCALES: tuple[list[Shape], Shape] = ([(1, 8, 8, 32), (1, 8, 16, 64)], (1, 2, 8, 32))
TRAFFIC_CASES: tuple[Case, ...] = (
    Case("attentive_fusion", "NCHW", _FUSION),
    Case("attentive_fusion", "channels_last", _FUSION, layouts=("channels_last",)),
    Case("progressive_fusion", "three inputs, NCHW", tuple([shape] * 3 for shape in (_FUSION[0], *_FUSION[2:]))),
    Case("global_avg_max_pool", "NCHW", _FUSION[:1]),
    Case(
        "bn_relu_project",
        "training, NCHW",
        (_FUSION[0], (32,), (32,), (1, 32, 1, 1)),
        options={"running_mean": None, "running_var": None, "training": True},
        names=("hidden", "weight", "bias", "project_weight"),
    ),
    Case(
        "channel_attention",
        "evaluation, NCHW",
        (_FUSION[0], (2, 32, 1, 1), (2,), (2,), (32, 2, 1, 1)),
        options={"running_mean": torch.zeros(2), "running_var": torch.ones(2), "training": False},
        names=("x", "conv1_weight", "weight", "bias", "conv2_weight"),
    ),
    Case("scale_space_weights", "five scales", ((1, 5, 32, 64),)),
    Case("scale_space_render", "two scales, 8 classes", _SCALES, options={"size": (16, 64)}),
    Case("scale_space_labels", "two scales, 8 classes", _SCALES, options={"size": (16, 64), "dtype": torch.int64}),
    Case(
        "scale_space_accumulate",
        "a second scale, 8 classes",
        ((1, 8, 16, 64), (1, 1, 16, 64), (1, 8, 8, 32), (1, 1, 8, 32)),
        options={"first": False},
    ),
    Case(
        "scale_space_cross_entropy",
        "two scales, 8 classes",
        _SCALES,
        options={"target": torch.arange(16 * 64).remainder(8).view(1, 16, 64)},
    ),
    Case(
        "hierarchical_fusion",
        "two scales, 8 classes",
        ([(1, 8, 8, 32), (1, 8, 16, 64)], [(1, 1, 8, 32)]),
        options={"scales": (0.5, 1.0), "size": (16, 64)},
    ),
)


def scale_space_accumulate(
    rendered: Tensor, transmittance: Tensor, prediction: Tensor, weight: Tensor, first: bool
) -> tuple[Tensor, Tensor]:
    """What a user writes without afa_kernels, for a scale after the first."""
    size = rendered.shape[2], rendered.shape[3]
    opacity = resize(weight, size)
    return rendered + transmittance * opacity * resize(prediction, size), transmittance * (1 - opacity)


WITHOUT_US: dict[str, Callable[..., Any]] = {**EAGER, "scale_space_accumulate": scale_space_accumulate}


@dataclass
class Traffic:
    """Bytes, and how many kernels moved them."""

    requested: int = 0
    sectors: int = 0
    kernels: int = 0


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """Count what PyTorch's operators and the launches of Triton's interpreter move inside."""
    traffic = Traffic()
    with _counted_launches(traffic), _CountedOperators(traffic):
        yield traffic


@contextlib.contextmanager
def _counted_launches(traffic: Traffic) -> Iterator[None]:
    from triton.runtime import interpreter

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    touched: dict[str, list[np.ndarray]] = {}

    def counting(name: str, kinds: Sequence[str], mask_at: int) -> Any:
        """The builder's method `name`, its accesses noted; the mask comes `mask_at` arguments behind the pointers."""
        access, pointers_at = getattr(builder, name), int(name == "create_atomic_rmw")

        def noted(self: Any, *arguments: Any, **named: Any) -> Any:
            pointers, mask = arguments[pointers_at], arguments[pointers_at + mask_at]
            addresses = np.asarray(pointers.data).reshape(-1).astype(np.uint64)
            if mask is not None:
                addresses = addresses[np.broadcast_to(np.asarray(mask.data), np.shape(pointers.data)).reshape(-1)]
            itemsize = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
            for kind in kinds:
                traffic.requested += addresses.size * itemsize
                touched.setdefault(kind, []).append(np.unique(addresses // np.uint64(SECTOR)))
            return access(self, *arguments, **named)

        return mock.patch.object(builder, name, noted)

    execute = executor.__call__

    def launch(self: Any, *arguments: Any, **keywords: Any) -> Any:
        touched.clear()
        with _disable_current_modes():  # the interpreter's own operators are not the launch's
            result = execute(self, *arguments, **keywords)
        traffic.kernels += 1
        traffic.sectors += SECTOR * sum(np.unique(np.concatenate(lists)).size for lists in touched.values())
        return result

    with (
        counting("create_masked_load", ("load",), 1),
        counting("create_masked_store", ("store",), 2),
        counting("create_atomic_rmw", ("load", "store"), 2),
        mock.patch.object(executor, "__call__", launch),
    ):
        yield


class _CountedOperators(TorchDispatchMode):
    """Every operator that moves data is one kernel; it reads each distinct tensor given and writes its results."""

    ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
    OVERWRITES = ("copy_", "fill_", "zero_")  # what they write they do not read

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "afa":  # what counts is inside
            with self:
                return function.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **(kwargs or {}))
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.removeprefix("aten::")
        read = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        memory = {t.untyped_storage().data_ptr() for t in read.values()}
        view = all(t.untyped_storage().data_ptr() in memory for t in made)
        if name in self.ALLOCATIONS or (view and not function._schema.is_mutable):
            return result
        if name in self.OVERWRITES:
            read.pop(id(args[0]))
        moved = sum(_stored(t) for t in (*read.values(), *made))
        self.traffic.requested += moved
        self.traffic.sectors += moved
        self.traffic.kernels += 1
        return result


def _stored(x: Tensor) -> int:
    """The bytes of the elements that exist: an expanded dimension has one."""
    return min(x.numel() * x.itemsize, x.untyped_storage().nbytes())


def passes(case: Case, function: Callable[..., Any]) -> dict[str, Traffic]:
    """The traffic of one forward and, where there is one, one backward pass."""
    arguments = case.inputs(torch.float32)
    leaves = [t.requires_grad_(case.op not in WITHOUT_GRADIENT) for t in tensors(arguments)]
    with counted() as forward:
        outputs = listed(case.call(function, *arguments))
    if case.op in WITHOUT_GRADIENT:
        return {"forward": forward}
    upstream = [torch.empty_like(o).copy_(g) for o, g in zip(outputs, cotangents(outputs), strict=True)]
    with counted() as backward:
        torch.autograd.grad(outputs, leaves, upstream)
    return {"forward": forward, "backward": backward}


def least(case: Case) -> dict[str, int]:
    """Bytes: every input read and every output written once; backward reads the inputs and upstream gradients.

    The backward pass of a pooling, which channel attention begins with, does not read the map again. The statistics of
    bn_relu_project need a reading of their own, both ways. scale_space_accumulate also writes the transmittance.
    """
    arguments = case.inputs(torch.float32)
    outputs = case(arguments, "reference")
    given = tensors(arguments), [o for o in case.options.values() if isinstance(o, Tensor)], outputs
    grads, others, written = (sum(t.numel() * t.itemsize for t in some) for some in given)
    read = grads + others
    if case.op == "bn_relu_project":
        return {"forward": 2 * read + written, "backward": 2 * (written + read) + grads}
    if case.op == "scale_space_accumulate":
        written += arguments[1].numel() * arguments[1].itemsize
    pooled = arguments[0].numel() * arguments[0].itemsize if case.op in POOLING else 0
    return {"forward": read + written, "backward": written + read - pooled + grads}


def ours(case: Case) -> dict[str, Traffic]:
    checks_values = mock.patch.object(scale_space_cross_entropy, "_check_classes")  # which it does on the CPU alone
    with afa_kernels.use_backend("triton"), checks_values:
        return passes(case, operation(case.op))


def eager(case: Case) -> dict[str, Traffic]:
    return passes(case, WITHOUT_US[case.op])


def count() -> list[dict[str, Any]]:
    rows = []
    for case in TRAFFIC_CASES:
        lower = least(case)
        for name, found in (("afa_kernels", ours(case)), ("eager", eager(case))):
            for direction, traffic in found.items():
                rows.append(row(case, name, direction, traffic, lower[direction]))
    return rows


def row(case: Case, who: str, direction: str, traffic: Traffic, lower: int) -> dict[str, Any]:
    """Bytes in units of the least possible."""
    return {
        "case": str(case),
        "who": who,
        "pass": direction,
        "kernels": traffic.kernels,
        "requested": round(traffic.requested / lower, 3),
        "sectors": round(traffic.sectors / lower, 3),
    }


def save(rows: Sequence[dict[str, Any]]) -> None:
    """Replace the rows of the same `who` in the record."""
    kept = json.loads(RECORD.read_text()) if RECORD.exists() else []
    who = {r["who"] for r in rows}
    lines = (json.dumps(r) for r in [*(r for r in kept if r["who"] not in who), *rows])
    RECORD.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def table() -> str:
    """Kernels and bytes of a pass, and how many times the bytes of afa_kernels the others move."""
    rows = json.loads(RECORD.read_text())
    at = {(r["case"], r["pass"], r["who"]): r for r in rows}
    lines = [
        "| operation | pass | kernels: eager, compiled, afa | bytes over the least: eager, compiled, afa | "
        "at most faster than eager | than compiled |",
        "| --- | --- | --- | --- | ---: | ---: |",
    ]
    for case, direction in dict.fromkeys((r["case"], r["pass"]) for r in rows):
        who = [at[case, direction, w] for w in ("eager", "torch.compile", "afa_kernels")]
        kernels = ", ".join(str(r["kernels"]) for r in who)
        sectors = [r["sectors"] for r in who]
        shown = ", ".join(f"{s:.2f}" for s in sectors)
        gains = [_gain(s / sectors[2]) for s in sectors[:2]]
        lines.append(f"| {case} | {direction} | {kernels} | {shown} | {gains[0]} | {gains[1]} |")
    return "\n".join(lines)


def _gain(times: float) -> str:
    return f"{times:.2f}" if times > 1.02 else "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="put the table between the marks traffic:begin and traffic:end")
    options = parser.parse_args()
    if options.write is None:
        save(count())
        print(table())
        return
    begin, end = "<!-- traffic:begin -->", "<!-- traffic:end -->"
    text = options.write.read_text()
    head, tail = text.split(begin)[0], text.split(end)[1]
    options.write.write_text(f"{head}{begin}\n\n{table()}\n\n{end}{tail}")


if __name__ == "__main__":
    main()
