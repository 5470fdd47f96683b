"""What the model of a GPU's time says of the launches, and that it says it of the kernels as they are."""

from __future__ import annotations

import dataclasses
import random
from typing import Any, cast

import pytest
import torch
from cases import LARGE_CASES, of
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from afa_kernels.testing import Case, Shape
from afa_kernels.triton_kernels._launch import Launch
from benchmarks import ops
from benchmarks.gpu import machine, model

H100 = model.GPUS[0]
LARGE = 16e6  # bytes of a map

# Launches that are predicted to take less of the bandwidth, or longer, than the others may, and why.
SLOW: dict[str, str] = {
    "_resize._gather_down_kernel": "waits for each of the rows that it adds up",
    "_resize._gather_along_kernel": "bound by instructions: taps that share nothing between neighbours",
    "scale_space_render": "bound by instructions: four scattered loads an element and scale",
    "_labels": "bound by instructions, as scale_space_render",
    "hierarchical_fusion": "bound by instructions, as scale_space_render",
    "scale_space_accumulate": "bound by instructions, as scale_space_render",
    "_cross_entropy": "bound by instructions, as scale_space_render",
    "_weights": "bound by instructions: exponentials and logarithms of few bytes",
    "channel_attention": "few programs on matrices that fit in a cache",
    "progressive_fusion._backward_kernel": "three inputs take the registers of all but eight warps",
    "bn_relu_project._project_kernel": "a program waits for each of its blocks in turn",
    "bn_relu_project._sums_kernel": "bound by instructions in channels_last in float16",
    "upsampled_": "bound by instructions: 16 taps a pixel of the deep map, each with a gate and the sum of a weight",
    "resized_fusion": "bound by instructions: four neighbours a pixel and level; a program of the backward pass waits "
    "for the channels of its pixels, four at a time, which at coarse levels are many",
    "global_avg_max_pool": "bound by instructions in channels_last in float16: places are selected beside values",
}


def recorded() -> list[dict[str, Any]]:
    return [row for row in model.load() if row["gpu"] == H100.name]


def call(op: str, covers: str, layout: str) -> Case:
    return next(c for c in ops.of(op).gpu(False) if c.covers == covers and c.layouts[0] == layout)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("covers", ["1x32x512x1024", "1x256x64x128"])
def test_the_record_is_of_these_kernels(covers: str, layout: str) -> None:
    case, rows = call("attentive_fusion", covers, layout), []
    for name, made in machine.passes(case, torch.float16).items():
        for launch in made:
            row = model.predicted(launch, machine.code(launch, H100.target), H100)
            rows.append(
                {"call": f"{case}, {layout}", "dtype": "float16", "pass": name, "gpu": H100.name, **row, "launches": 1}
            )
    assert rows == [r for r in recorded() if r["call"] == rows[0]["call"] and r["dtype"] == "float16"]


def test_fusions_reach_the_bandwidth() -> None:
    """0.8 of it on large maps; on others 1.5 times what their bytes take, or 11 us with the launch."""
    found = [r for r in recorded() if not r["kernel"].endswith(model.SECOND_STAGE)]
    assert any(r["kernel"].startswith("attentive_fusion") for r in found)
    for row in found:
        if any(row["kernel"].startswith(kernel) for kernel in SLOW):
            continue
        of_bytes = row["MB"] * 1e12 / H100.bandwidth
        if row["MB"] * 1e6 >= 3 * LARGE:  # a pass reads two maps and writes one at least
            assert row["share"] >= 0.8, row
        else:
            assert row["us"] <= max(1.5 * of_bytes, 11), row


def test_second_stages_are_short() -> None:
    for row in recorded():
        if row["kernel"].endswith(model.SECOND_STAGE):
            three_inputs = row["kernel"].startswith("progressive_fusion") and "512x1024" in row["call"]
            of_weights = row["kernel"] == "upsampled_fusion._weight_kernel"
            a_row_each = row["call"].startswith("resized_fusion")  # 128 pixels of a row of the map leave one of sums
            assert row["us"] <= (18 if a_row_each else 16 if of_weights else 11 if three_inputs else 10), row


def per_element(case: Case, dtype: torch.dtype, kernel: str, elements: int) -> tuple[float, int]:
    """Return the instructions in the innermost loop of the first such launch, over `elements`, and its divisions."""
    launch = next(x for x in machine.launches(case, dtype) if machine.title(x) == kernel)
    code = machine.code(launch, H100.target)
    innermost = code.whole
    while innermost.inner:
        innermost = innermost.inner[0]
    return 32 * code.warps * innermost.instructions / elements, innermost.divisions


def tile(case: Case, kernel: str) -> int:
    keywords = next(x for x in machine.launches(case, torch.float32) if machine.title(x) == kernel).keywords
    return keywords.get("BLOCK_C", 1) * keywords["BLOCK_P"]


@pytest.mark.parametrize(
    "op, module, most", [("scale_space_render", "scale_space_render", 100), ("scale_space_labels", "_labels", 105)]
)
def test_instructions_of_rendering(op: str, module: str, most: int) -> None:
    """Of an element in the loop over the channels, with five scales in float32; no division is left there."""
    case, kernel = call(op, "1x19x1024x2048, 5 scales", "contiguous"), f"{module}._forward_kernel"
    found, divisions = per_element(case, torch.float32, kernel, tile(case, kernel))
    assert (found <= most, divisions) == (True, 0), found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("of_pass, most", [("_gather_down_kernel", 8), ("_gather_along_kernel", 12)])
def test_instructions_of_the_gather(of_pass: str, most: float, dtype: torch.dtype) -> None:
    """Of an element and tap; the two passes have the taps of a row and of a column, and not their product."""
    case, kernel = call("scale_space_render", "1x19x1024x2048, 5 scales", "contiguous"), f"_resize.{of_pass}"
    found, divisions = per_element(case, dtype, kernel, tile(case, kernel))
    assert (found <= most, divisions) == (True, 0), found


def resized(case: Case, height: float, width: float) -> Case:
    """Return the case with every map's height and width multiplied, but those of one pixel."""

    def scaled(shape: Any) -> Any:
        if isinstance(shape, list):
            return [scaled(s) for s in shape]
        if len(shape) < 3:
            return shape
        *first, h, w = shape
        return (*first, h if h == 1 else max(2, round(h * height)), w if w == 1 else max(2, round(w * width)))

    if case.op.startswith("upsampled_"):  # other maps are a whole number of times the deep one
        deep, weight = case.shapes[1:3] if case.op == "upsampled_fusion" else case.shapes
        return cast(Case, of(case.op, "call")(case.covers, scaled(deep), weight[-1] // 2, layouts=case.layouts))
    options = dict(case.options)
    if options.get("size") is not None:
        options["size"] = scaled((1, 1, *options["size"]))[2:]
    shapes: tuple[Shape | list[Shape], ...] = tuple(map(scaled, case.shapes))
    return dataclasses.replace(case, shapes=shapes, options=options)


def specialization(launch: Launch) -> str:
    """Return what Triton's JIT keeps a compiled kernel by."""
    backend = make_backend(machine.TARGETS[H100.target])
    bind = create_function_from_signature(launch.kernel.signature, launch.kernel.params, backend)
    _, found, options = bind(*launch.arguments, debug=False, **launch.keywords)
    return f"{machine.title(launch)} {found} {sorted(options.items(), key=str)}"


@pytest.mark.parametrize("case", {case.op: case for case in reversed(LARGE_CASES)}.values(), ids=str)
def test_images_of_all_sizes_take_few_kernels(case: Case) -> None:
    """Of 100 random sizes, in a training step."""
    numbers, found = random.Random(0), set()
    for _ in range(100):
        size = numbers.uniform(0.4, 1.2), numbers.uniform(0.4, 1.2)
        found |= {specialization(launch) for launch in machine.launches(resized(case, *size), torch.float32)}
    assert len(found) <= 20, "\n".join(sorted(found))


def test_loops_are_read() -> None:
    """A loop unrolled by four and its rest; a loop in a loop."""
    code = "\n".join(
        [".L_x_0:"]
        + ["        /*0000*/                   LDG.E R1, desc[UR4][R2.64] ;"] * 4
        + ["        /*0040*/              @P0  BRA `(.L_x_0) ;", ".L_x_1:"]
        + ["        /*0050*/                   LDG.E R1, desc[UR4][R2.64] ;"]
        + ["        /*0060*/              @P0  BRA `(.L_x_1) ;", "        /*0070*/                   EXIT ;"]
        + [".L_x_2:", "        /*0080*/                   BRA `(.L_x_2) ;"]
    )
    whole = machine.machine_loops(code)
    assert (whole.instructions, [(loop.instructions, loop.loads) for loop in whole.inner]) == (8, [(5, 4), (2, 1)])
    ir = "%c0 = arith.constant 0 : i32\n%c4 = arith.constant 4 : i32\n  %a = scf.for %i = %c0 to %channels step %c4 {"
    assert machine.counted(ir) == (machine.Counted(0, "channels", 4, ()),)
    constants = "".join(f'%{n} = "arith.constant"() <{{value = {n} : i32}}> : () -> i32\n' for n in (0, 4))
    generic = constants + '  %a:4 = "scf.for"(%0, %channels, %4, %7) ({'
    assert machine.counted(generic) == (machine.Counted(0, "channels", 4, ()),)
    done = model._work(whole, machine.counted(ir), {"channels": 30})
    assert (done.instructions, done.waits) == (1 + 8 * 5 / 4, 2)
