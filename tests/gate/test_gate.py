"""Every kernel compiles for every target, keeps its values in registers, and reads and writes 16 bytes at a time."""

from __future__ import annotations

import functools
import os
import subprocess
from typing import Any

import offline
import pytest
import torch
import triton
from cases import LARGE_CASES
from support.session import on_triton

from afa_kernels.testing import operations

# What is compiled at every run, beside all that is not as it was when resources.json was recorded, by the same Triton.
# `make gate` and AFA_KERNELS_GATE=all compile everything.
EVERYTHING = os.environ.get("AFA_KERNELS_GATE") == "all"
AT_EVERY_RUN = {"sm_90": {"bfloat16"}, "gfx942": {"float32"}}

# Kernels that read and write less than 16 bytes at a time where sizes allow it, and why that is meant.
NARROW = {
    "scale_space_render": "neighbouring outputs read sources that are not neighbours; a tile of 256 keeps the indices "
    "of all scales in registers",
    "_statistics": "its outputs have one value a channel",
    "_sums_kernel": "its outputs have one value a channel",
    "_parameters_kernel": "its outputs have one value a channel",
    "bn_relu_project._project_kernel": "its output has one channel: 256 pixels are 2 a thread",
    "channel_attention": "its output has one value a channel",
    "_nchw._copy_kernel": "of few classes a pixel in channels_last begins where 16 does not divide",
    **dict.fromkeys(
        (
            "_gather_along_kernel",
            "_labels",
            "_cross_entropy",
            "scale_space_accumulate",
            "hierarchical_fusion",
            "resized_fusion",
        ),
        "neighbouring outputs read sources that are not neighbours, as in scale_space_render",
    ),
    "_gather_down_kernel": "a thread takes four pixels of four channels, in float16 8 bytes of each",
    "_factors_kernel": "its output has one value a channel",
    "_channel_kernel": "the output of the fusions' last sum has one value a channel",
    "global_avg_max_pool": "its outputs, and the gradients that reach it, have one value a channel",
    "_pool._combine_kernel": "its outputs have one value a channel",
    "_weight_kernel": "its output has one value a weight",
    "upsampled_": "in NCHW the fine pixels of neighbours are no neighbours, and in channels_last a thread has few "
    "channels, each with the sums of its weights",
}
# Launches that may spill, by the parts of their name: bytes of stack, and why by their machine code. Others spill none.
SPILLS = {
    ("attentive_fusion: odd sizes", "float64", "_forward_kernel"): (16, "ptxas takes 72 registers on sm_80"),
    ("attentive_fusion: odd sizes", "float16", "_forward_kernel"): (40, "ptxas takes 72 registers on sm_120"),
    ("progressive_fusion: odd sizes", "bfloat16", "_backward_kernel"): (24, "ptxas takes 168 registers on sm_80"),
    ("eight inputs", "float16", "_backward_kernel"): (8, "ptxas takes 168 registers on sm_90"),
    ("sixteen inputs", "float64", "_backward_kernel"): (504, "three values of 16 inputs are more than 255 registers"),
    ("sixteen inputs", "float32", "_backward_kernel"): (32, "all 255 registers are taken"),
    ("sixteen inputs", "bfloat16", "_backward_kernel"): (32, "all 255 registers are taken"),
    ("sixteen inputs", "float16", "_backward_kernel"): (32, "all 255 registers are taken"),
    ("bn_relu_conv2d: sizes divide by 16", "float64", "_sums_kernel"): (8, "ptxas takes 64 registers on sm_80"),
    ("bn_relu_conv2d: sizes divide by 16", "float64", "_gradient_kernel"): (8, "ptxas takes 48 registers on sm_120"),
    ("bn_relu_conv2d: odd sizes", "float16", "_gradient_kernel"): (32, "ptxas takes 80 registers on sm_100"),
    ("bn_relu_project: odd sizes", "float16", "_gradient_kernel"): (8, "ptxas takes 80 registers on sm_90"),
    ("scale_space_render: sixteen scales", "float64", "_forward_kernel"): (344, "the taps of 16 scales stay"),
    ("scale_space_render: sixteen scales", "float64", "_maps_backward_kernel"): (344, "the taps of 16 scales stay"),
    ("hierarchical_fusion: sixteen scales", "_forward_kernel"): (36, "the taps of 16 scales stay"),
    ("hierarchical_fusion: sixteen scales", "_opacities_backward_kernel"): (8, "ptxas takes 168 registers on sm_100"),
    ("cross_entropy: sixteen scales", "_gradient_kernel"): (16, "the scores of 16 scales stay, for their gradients"),
    ("resized_fusion: sixteen levels", "_backward_kernel"): (168, "the taps and two sums of 16 levels stay"),
    ("resized_fusion: odd sizes", "float32", "_backward_kernel"): (16, "ptxas takes 128 registers on sm_86"),
    ("upsampled_fusion: ", "channels_last", "_backward_kernel"): (352, "64 sums of weights a thread, and gradients"),
    ("upsampled_fusion: ", "contiguous", "float32", "_backward_kernel"): (8, "ptxas takes 128 registers on sm_80"),
    ("upsampled_fusion: ", "times", "float32", "_backward_kernel"): (24, "ptxas takes 128 registers on sm_90"),
    ("upsampled_fusion: ", "channels_last", "float64", "_forward_kernel"): (8, "ptxas takes 80 registers on sm_80"),
    ("upsampled_pool: ", "float64", "_forward_kernel"): (8, "ptxas takes 72 registers on sm_90"),
    ("scale_space_accumulate: ", "_forward_kernel"): (8, "ptxas takes 32 registers on sm_90"),
}


def at_every_run(compilation: offline.Compilation) -> bool:
    takes_seconds = "sixteen" in compilation.name
    return EVERYTHING or (compilation.dtypes == AT_EVERY_RUN.get(compilation.target) and not takes_seconds)


@functools.cache
def compiled_here() -> offline.Rows:
    def chosen(compilation: offline.Compilation) -> bool:
        return at_every_run(compilation) or (bool(offline.recorded()) and not offline.as_recorded(compilation))

    return offline.resources(chosen)


@functools.cache
def found() -> offline.Rows:
    return offline.with_recorded(compiled_here())


def complain(problem: dict[tuple[str, str], Any]) -> None:
    assert not problem, "\n".join(f"{name} on {target}: {what}" for (name, target), what in problem.items())


def test_every_operation_is_here() -> None:
    assert {case.op for case in LARGE_CASES} == {op for op in operations() if on_triton(op)}
    compiled = {name.split(" | ")[2].split(" ")[0] for name in found()}
    assert compiled == offline.kernels(), "a kernel that no large case launches"


def test_nothing_is_spilled() -> None:
    def allowed(name: str) -> int:
        return max((most for parts, (most, _) in SPILLS.items() if all(part in name for part in parts)), default=0)

    complain(
        {
            (name, target): result
            for name, by_target in found().items()
            for target, result in by_target.items()
            if result["spilled"] > allowed(name) or (result["local accesses"] and not allowed(name))
        }
    )


def test_what_may_spill_does() -> None:
    """No allowance outlives its reason, nor is larger than it must be."""
    if not offline.recorded():
        pytest.skip(f"{offline.RECORD.name} is of another version of Triton than {triton.__version__}")
    for parts, (most, _) in SPILLS.items():
        spilled = [
            result["spilled"]
            for name, by_target in found().items()
            if all(part in name for part in parts)
            for result in by_target.values()
        ]
        assert max(spilled) == most, parts


def test_shared_memory_fits() -> None:
    complain(
        {
            (name, target): result
            for name, by_target in found().items()
            for target, result in by_target.items()
            if result["shared"] > 1024 * offline.SHARED_PER_BLOCK.get(target, 64)
        }
    )


def test_wide_accesses() -> None:
    """16 bytes at a time where 16 divides the sizes."""
    complain(
        {
            (name, target): result
            for name, by_target in found().items()
            if "divide by 16" in name and not any(kernel in name.split(" | ")[2] for kernel in NARROW)
            for target, result in by_target.items()
            # AMD's 64 lanes to a warp have half as many elements each
            if min(result["widest load"], result["widest store"]) < (128 if target in offline.NVIDIA else 64)
        }
    )


def test_resources_are_the_recorded_ones() -> None:
    """Registers, shared memory and occupancy as committed; after a change meant so, `make gate-record`."""
    record = offline.recorded()
    if not record:
        pytest.skip(f"{offline.RECORD.name} is of another version of Triton than {triton.__version__}")
    complain(
        {
            (name, target): f"{result}, recorded {record.get(name, {}).get(target)}"
            for name, by_target in compiled_here().items()
            for target, result in by_target.items()
            if not offline.as_compiled_again(record.get(name, {}).get(target), result, target)
        }
    )
    planned = {(compilation.name, compilation.target) for compilation in offline.plan()}
    gone = {(name, target) for name, by_target in record.items() for target in by_target} - planned
    assert not gone, f"recorded, and launched no more: {gone}"


def test_what_two_compilations_may_differ_by() -> None:
    row = {"digest": "d", "registers": 106, "spilled": 0}
    assert offline.as_compiled_again(row, {**row}, "sm_90")
    assert offline.as_compiled_again(row, {**row, "registers": 107}, "gfx942")
    assert not offline.as_compiled_again(row, {**row, "registers": 107}, "sm_90")
    assert not offline.as_compiled_again(row, {**row, "registers": 109}, "gfx942")
    assert not offline.as_compiled_again(row, {**row, "spilled": 4}, "gfx942")
    assert not offline.as_compiled_again(None, row, "gfx942")


def test_a_changed_kernel_is_compiled() -> None:
    """Its digest is another one; and the same again where nothing but the line numbers changed."""
    case = next(case for case in LARGE_CASES if case.op == "attentive_fusion")
    first, second = (offline.launches(case, torch.float32)[0] for _ in range(2))
    target = offline.TARGETS["sm_90"]
    assert offline.front_end(first, target) == offline.front_end(second, target)
    second.keywords.update(BLOCK_P=512)
    assert offline.front_end(first, target) != offline.front_end(second, target)
    assert offline.digest("the same", [("num_warps", 4)]) != offline.digest("the same", [("num_warps", 8)])


def test_a_moved_function_is_not() -> None:
    calls = '@_norm_kernel calls @afa_kernels.a.gate__fp32, @"afa_kernels.a.norm__c1e-05", @afa_kernels.a.gate__fp32'
    moved = calls.replace("afa_kernels.a.gate", "afa_kernels.b._gate.sigmoid").replace("_norm_kernel", "_a_kernel")
    assert offline.without_names(calls) == offline.without_names(moved) == "@0 calls @1, @2, @1"


def test_a_spill_is_seen() -> None:
    """The gate can fail: a tile far too large for the registers."""
    case = next(case for case in LARGE_CASES if case.op == "attentive_fusion")
    launch = offline.launches(case, torch.float32)[1]
    launch.keywords.update(BLOCK_C=64, BLOCK_P=512, num_warps=1)
    result = offline.compiled(launch, "sm_90")
    assert result["spilled"] > 0 and result["local accesses"] > 0


def test_a_narrow_access_is_seen() -> None:
    case = next(case for case in LARGE_CASES if case.op == "attentive_fusion")
    launch = offline.launches(case, torch.float16)[0]
    launch.keywords.update(BLOCK_P=16)
    assert offline.compiled(launch, "sm_90")["widest store"] < 128


def test_the_tools_are_here() -> None:
    for tool in ("cuobjdump", "nvdisasm"):
        subprocess.run([offline.TOOLS / tool, "--version"], check=True, capture_output=True)
