"""What the model of a GPU's time says of the CUDA kernels: that a thread is followed, and that the record is of these.

The digests of the record's sources are looked at always; some of its rows are made anew where there are nvcc and g++.
"""

from __future__ import annotations

import copy
from typing import Any

import compiled
import pytest
import torch

from afa_kernels.testing import differentiable
from benchmarks import ops
from benchmarks.gpu import model as of_triton
from benchmarks.gpu.cuda import launches, model, thread
from benchmarks.gpu.cuda.sass import programs
from benchmarks.gpu.cuda.thread import Thread

SHAPE = "1x256x64x128"
# Adds up as many elements of a tensor as the second parameter says, a line of the cache apart, two before it waits.
CODE = """
//--------------------- .text.sum --------------------------
.text.sum:
        /*0000*/                   ULDC.64 UR4, c[0x0][0x210] ;
        /*0010*/                   S2R R0, SR_TID.X ;
        /*0020*/                   LDC R3, c[0x0][0x218] ;
        /*0030*/                   IMAD.WIDE.U32 R4, R0, 0x4, RZ ;
        /*0040*/                   IADD3 R4, P0, R4, UR4, RZ ;
        /*0050*/                   IADD3.X R5, R5, UR5, RZ, P0, !PT ;
.L_x_0:
        /*0060*/                   LDG.E R6, desc[UR6][R4.64] ;
        /*0070*/                   LDG.E R7, desc[UR6][R4.64+0x80] ;
        /*0080*/                   VIADD R3, R3, 0xfffffffe ;
        /*0090*/                   FADD R8, R8, R6 ;
        /*00a0*/                   FADD R8, R8, R7 ;
        /*00b0*/                   IADD3 R4, P0, R4, 0x100, RZ ;
        /*00c0*/                   IMAD.X R5, RZ, RZ, R5, P0 ;
        /*00d0*/                   ISETP.GT.AND P1, PT, R3, RZ, PT ;
        /*00e0*/               @P1 BRA `(.L_x_0) ;
        /*00f0*/                   EXIT ;
"""


def parameters(address: int, count: int) -> bytes:
    return address.to_bytes(8, "little") + count.to_bytes(4, "little")


@pytest.mark.parametrize("target", model.TARGETS)
def test_a_thread_is_followed(target: str) -> None:
    """The address crosses 32 bits; what has been read before is not waited for again."""
    code = CODE if target == "sm_90" else CODE.replace("[0x210]", "[0x160]").replace("[0x218]", "[0x168]")
    begin, program = (1 << 33) - 0x200, programs(code)["sum"]
    work = Thread(program, target, parameters(begin, 10), [(begin, 10 * 128)], block=0, thread=3).run()
    assert (work.instructions, work.waits, dict(work.asked)) == (6 + 5 * 9 + 1, 5, {begin: 40})
    short = programs(code.replace("IADD3 R4, P0, R4, 0x100", "IADD3 R4, P0, R4, 0x0"))["sum"]
    work = Thread(short, target, parameters(begin, 10), [(begin, 10 * 128)], block=0, thread=3).run()
    assert (work.instructions, work.waits) == (6 + 5 * 9 + 1, 1)


def test_a_wrong_way_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is in no tensor says that the thread was not followed as it goes."""
    with pytest.raises(RuntimeError, match="in no tensor of the launch"):
        Thread(programs(CODE)["sum"], "sm_90", parameters(4096, 10), [(4096, 9 * 128)], block=0, thread=3).run()
    monkeypatch.setattr(thread, "MOST", 1000)
    endless = CODE.replace("@P1 BRA", "@PT BRA").replace("R4, 0x100", "R4, 0x0")
    with pytest.raises(RuntimeError, match="does not end"):
        Thread(programs(endless)["sum"], "sm_90", parameters(4096, 2), [(4096, 256)], block=0, thread=0).run()


def test_the_record_is_of_these_sources() -> None:
    """Of every operation with CUDA kernels. After a change of csrc/cuda: python -m benchmarks.gpu.cuda.model"""
    assert set(model.load()["operations"]) == {op for op in ops.operations() if model.calls(op)}
    changed = [op for op in model.load()["operations"] if not model.as_recorded(op)]
    assert not changed, f"the sources of {', '.join(changed)} are not the recorded ones"


def test_every_call_has_rows_of_both_passes() -> None:
    for op in ops.operations():
        calls = [(f"{case}, {case.layouts[0]}", str(dtype).removeprefix("torch.")) for case, dtype in model.calls(op)]
        passes = ("forward", "backward") if differentiable(op) else ("forward",)
        wanted = {(*call, name, gpu.name) for call in calls for name in passes for gpu in model.GPUS}
        rows = model.load()["operations"].get(op, {"rows": []})["rows"]
        assert {(row["call"], row["dtype"], row["pass"], row["gpu"]) for row in rows} == wanted, op


def test_every_kernel_has_rows() -> None:
    """By its name before the template's arguments, of every file of csrc/cuda."""
    rows = [row for entry in model.load()["operations"].values() for row in entry["rows"]]
    kernels = [k for name in compiled.sources() for k in compiled.recorded()[name]["kernels"][model.TARGETS[0]]]
    assert {row["kernel"].split("<")[0] for row in rows} == {kernel.split("<")[0] for kernel in kernels}


def test_the_kernels_are_those_whose_resources_are_recorded() -> None:
    """By name and registers, of the files whose digests the record has; test_cubin.py says which are not recorded."""
    resources = compiled.recorded()
    if not resources:
        pytest.skip(f"{compiled.RECORD.name} is of another nvcc than {compiled.version()}")
    for op, entry in model.load()["operations"].items():
        if not all(map(compiled.as_recorded, entry["sources"])):
            continue
        kernels = {
            gpu.name: {k: of for name in entry["sources"] for k, of in resources[name]["kernels"][gpu.target].items()}
            for gpu in model.GPUS
        }
        for row in entry["rows"]:
            found = kernels[row["gpu"]][row["kernel"]]
            assert (row["registers"], row["occupancy"]) == (found["registers"], found["occupancy"]), (op, row)


def test_a_fusion_moves_what_it_moves_in_triton() -> None:
    def bytes_of(rows: list[dict[str, Any]], kernel: str) -> dict[tuple[str, ...], float]:
        keys = ("call", "dtype", "pass", "gpu")
        return {tuple(r[key] for key in keys): r["MB"] for r in rows if r["kernel"].startswith(kernel)}

    cuda = bytes_of(model.load()["operations"]["attentive_fusion"]["rows"], "fusion_forward<")
    triton = bytes_of(of_triton.load(), "attentive_fusion._forward_kernel")
    both = cuda.keys() & triton.keys()
    assert both and {key: cuda[key] for key in both} == {key: triton[key] for key in both}


@pytest.mark.skipif(launches.why_not() is not None, reason=str(launches.why_not()))
def test_the_rows_are_of_these_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    record = model.load()
    if record["nvcc"] != compiled.version():
        pytest.skip(f"the record is of nvcc {record['nvcc']}, and here is {compiled.version()}")
    monkeypatch.setattr(compiled, "sources", lambda: ["attentive_fusion"])  # which alone is compiled
    calls = [(c, d) for c, d in model.calls("attentive_fusion") if c.covers == SHAPE and d == torch.float16]
    rows = model.rows(calls)
    names = {row["call"] for row in rows}
    assert len(names) == 2  # one a layout
    recorded = record["operations"]["attentive_fusion"]["rows"]
    assert rows == [r for r in recorded if r["call"] in names and r["dtype"] == "float16"]


@pytest.mark.skipif(launches.why_not() is not None, reason=str(launches.why_not()))
def test_what_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of the record can fail: at a row, and at a digest."""
    changed = copy.deepcopy(model.load())
    entry = changed["operations"]["attentive_fusion"]
    next(r for r in entry["rows"] if SHAPE in r["call"] and r["dtype"] == "float16")["instructions"] += 1
    entry["sources"]["attentive_fusion"] = ""
    monkeypatch.setattr(model, "load", lambda: changed)
    with pytest.raises(AssertionError, match="attentive_fusion"):
        test_the_record_is_of_these_sources()
    with pytest.raises(AssertionError):
        test_the_rows_are_of_these_kernels(monkeypatch)
