"""Bytes moved and kernels launched by one forward and one backward pass, counted on the CPU: bounds, not times.

    TRITON_INTERPRET=1 python -m benchmarks.traffic      counts afa_kernels and eager PyTorch
    python -m benchmarks.traffic_compiled                with a CUDA build of torch, no GPU: counts torch.compile
    python -m benchmarks.traffic --write README.md       puts the table there

afa_kernels: every address that its Triton kernels load or store, in Triton's interpreter. `requested` counts an
element each time a program asks for it, `sectors` each 32 bytes once a launch, as if the cache held what it reads.
Eager: for every operator that is not a view, each distinct tensor read and each written once. torch.compile: Inductor's
own count for the kernels it generates for CUDA.
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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import afa_kernels
from afa_kernels.testing import Case, cotangents, listed, tensors
from benchmarks.shapes import EAGER

RECORD = Path(__file__).parent / "results" / "traffic.json"
SECTOR = 32

# Small enough for the interpreter, large enough that blocks and borders cost what they cost at any size.
_FUSION = ((1, 32, 32, 64), (1, 32, 32, 64), (1, 1, 32, 64), (1, 32, 1, 1))
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
    Case("scale_space_weights", "five scales", ((1, 5, 32, 64),)),
    Case(
        "scale_space_render",
        "two scales, 8 classes",
        ([(1, 8, 8, 32), (1, 8, 16, 64)], (1, 2, 8, 32)),
        options={"size": (16, 64)},
    ),
    Case(
        "scale_space_cross_entropy",
        "two scales, 8 classes",
        ([(1, 8, 8, 32), (1, 8, 16, 64)], (1, 2, 8, 32)),
        options={"target": torch.arange(16 * 64).remainder(8).view(1, 16, 64)},
    ),
    Case(
        "hierarchical_fusion",
        "two scales, 8 classes",
        ([(1, 8, 8, 32), (1, 8, 16, 64)], [(1, 1, 8, 32)]),
        options={"scales": (0.5, 1.0), "size": (16, 64)},
    ),
)


@dataclass
class Traffic:
    """Bytes, and how many kernels moved them."""

    requested: int = 0
    sectors: int = 0
    kernels: int = 0


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """Count what Triton's interpreter loads and stores inside."""
    from triton.runtime import interpreter

    builder, traffic = interpreter.InterpreterBuilder, Traffic()
    touched: dict[str, list[np.ndarray]] = {}

    def note(kind: str, pointers: Any, mask: Any) -> None:
        addresses = np.asarray(pointers.data).reshape(-1).astype(np.uint64)
        if mask is not None:
            addresses = addresses[np.broadcast_to(np.asarray(mask.data), np.shape(pointers.data)).reshape(-1)]
        traffic.requested += addresses.size * max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        touched.setdefault(kind, []).append(np.unique(addresses // np.uint64(SECTOR)))

    load, store, execute = builder.create_masked_load, builder.create_masked_store, interpreter.GridExecutor.__call__

    def noted_load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        note("load", pointers, mask)
        return load(self, pointers, mask, *rest, **named)

    def noted_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        note("store", pointers, mask)
        return store(self, pointers, value, mask, *rest, **named)

    def noted_launch(self: Any, *arguments: Any, **keywords: Any) -> Any:
        touched.clear()
        result = execute(self, *arguments, **keywords)
        traffic.kernels += 1
        traffic.sectors += SECTOR * sum(np.unique(np.concatenate(lists)).size for lists in touched.values())
        return result

    with (
        mock.patch.object(builder, "create_masked_load", noted_load),
        mock.patch.object(builder, "create_masked_store", noted_store),
        mock.patch.object(interpreter.GridExecutor, "__call__", noted_launch),
    ):
        yield traffic


class EagerTraffic(TorchDispatchMode):
    """Every operator that moves data is one kernel; it reads each distinct tensor given and writes its results."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = Traffic()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        memory = {t.untyped_storage().data_ptr() for t in given.values()}
        view = bool(memory) and all(t.untyped_storage().data_ptr() in memory for t in made)
        if view and not function._schema.is_mutable:
            return result
        moved = sum(_stored(t) for t in (*given.values(), *made))
        self.traffic.requested += moved
        self.traffic.sectors += moved
        self.traffic.kernels += 1
        return result


def _stored(x: Tensor) -> int:
    """The bytes of the elements that exist: an expanded dimension has one."""
    return min(x.numel() * x.itemsize, x.untyped_storage().nbytes())


def passes(case: Case, function: Callable[..., Any], meter: Callable[[], Any]) -> dict[str, Traffic]:
    """The traffic of one forward and one backward pass; and under "least" what must move, over `kernels` of 1."""
    arguments = case.inputs(torch.float32)
    leaves = [t.requires_grad_() for t in tensors(arguments)]
    with meter() as entered:
        outputs = listed(case.call(function, *arguments))
    found = {"forward": _traffic(entered)}
    upstream = [torch.empty_like(o).copy_(g) for o, g in zip(outputs, cotangents(outputs), strict=True)]
    with meter() as entered:
        torch.autograd.grad(outputs, leaves, upstream)
    found["backward"] = _traffic(entered)
    return found


def _traffic(meter: Any) -> Traffic:
    return meter if isinstance(meter, Traffic) else meter.traffic


def least(case: Case) -> dict[str, int]:
    """Bytes: every input read and every output written once; backward reads the inputs and upstream gradients.

    Pooling's backward reads no input. The statistics of bn_relu_project need a reading of their own, both ways.
    """
    arguments = case.inputs(torch.float32)
    outputs = case(arguments, "reference")
    given = tensors(arguments), [o for o in case.options.values() if isinstance(o, Tensor)], outputs
    grads, others, written = (sum(t.numel() * t.itemsize for t in some) for some in given)
    read = grads + others
    if case.op == "bn_relu_project":
        return {"forward": 2 * read + written, "backward": 2 * (written + read) + grads}
    read_again = 0 if case.op == "global_avg_max_pool" else read
    return {"forward": read + written, "backward": written + read_again + grads}


def ours(case: Case) -> dict[str, Traffic]:
    with afa_kernels.use_backend("triton"):
        return passes(case, getattr(afa_kernels, case.op), counted)


def eager(case: Case) -> dict[str, Traffic]:
    return passes(case, EAGER[case.op], EagerTraffic)


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
        who = [at.get((case, direction, w)) for w in ("eager", "torch.compile", "afa_kernels")]
        kernels = ", ".join(str(r["kernels"]) if r else "-" for r in who)
        sectors = [r["sectors"] if r else None for r in who]
        shown = ", ".join(f"{s:.2f}" if s else "-" for s in sectors)
        gains = [f"{s / sectors[2]:.2f}" if s else "-" for s in sectors[:2]]
        lines.append(f"| {case} | {direction} | {kernels} | {shown} | {gains[0]} | {gains[1]} |")
    return "\n".join(lines)


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
