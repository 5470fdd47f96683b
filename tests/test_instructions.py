"""No C++ kernel needs more instructions than are recorded: a guard against getting slower that times nothing."""

from __future__ import annotations

import shutil

import pytest

from benchmarks import instructions, ops

pytestmark = pytest.mark.once

DUMP = """\
events: Ir
ob=/lib/libtorch_cpu.so
fn=at::empty
12 500
ob=/here/afa_kernels/_native.abi3.so
fn=forward
7 40
cob=/lib/libc.so.6
cfn=memcpy
calls=3 0
8 900
9 2
"""


def test_the_library_kernels_need_no_more_than_is_recorded() -> None:
    record = instructions.load()
    recorded = {name.split(":")[0] for name in record["counts"]}
    assert recorded == {case.op for case in ops.traffic_cases()}
    if record["sources"] == instructions.digest():
        return  # it is of these very sources
    if record["compiler"] != instructions.compiler():
        pytest.skip(f"the record is of {record['compiler']}, and here is {instructions.compiler() or 'no compiler'}")
    if shutil.which("valgrind") is None:
        pytest.skip("the sources have changed since the record, and there is no valgrind to count anew")
    assert instructions.slower(instructions.count(), record["counts"]) == [], "python -m benchmarks.instructions"


def test_what_the_library_executes_itself_is_counted() -> None:
    assert instructions.of_library(DUMP) == 42


def test_what_is_slower_missing_or_new_is_said() -> None:
    recorded = {"a": 1000, "b": 1000, "c": 1000}
    assert instructions.slower({"a": 1030, "b": 900, "c": 1000}, recorded) == []
    found = instructions.slower({"a": 1031, "c": 1000, "d": 1}, recorded)
    assert found == ["a: 1031 instructions, recorded 1000", "b: None instructions, recorded 1000", "d: not recorded"]
