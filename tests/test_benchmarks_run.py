"""The programs that measure: what they write, what of a file they keep, and how one row is measured again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from afa_kernels.testing import differentiable
from benchmarks import limits, run, scaling
from benchmarks.stages import stages
from benchmarks.workload import workloads

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
README = (ROOT / "benchmarks" / "README.md").read_text()
ROW = ["--quick", "--op", "attentive_fusion", "--shape", "1x32x128x256", "--pass", "forward", "--layout", "NCHW"]
WHERE = {"device", "threads", "allocator", "torch", "triton", "version", "commit", "date", "command"}
TIMES = {"p20_ms", "p50_ms", "p80_ms", "repeats"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)


def loaded(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_limits(threads: int) -> None:
    """What is timed writes what it should, every element of it."""
    b, c = torch.randn(2, 4096)
    for contestant, expected in {"copy": b, "triad": b + 2 * c, "triad, streaming": b + 2 * c}.items():
        a = torch.full((4096,), torch.nan)
        limits.call(contestant, threads, (a, b, c))
        torch.testing.assert_close(a, expected)


def test_limits_are_measured_with_one_thread_and_several() -> None:
    found = limits.measure(2, 0.0, elements=4096)
    assert set(found) == {(contestant, threads) for contestant in limits.ARRAYS for threads in (1, 2)}
    assert found["copy", 1][0] == 2 * 4 * 4096 and found["triad", 2][0] == 3 * 4 * 4096


def test_what_memory_gives_around_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """The more of what it gave before and after; a call that others disturb does not count."""
    workload = next(w for w in workloads("quick") if not w.training)
    given = iter([3e9, 5e9])
    assert {r["limit_gigabytes_per_second"] for r in run.measure(workload, 0.0, lambda: next(given))} == {5}
    monkeypatch.setattr(limits, "alternate", lambda functions, repeats: {name: [9.0, 1.0, 2.0] for name in functions})
    assert limits.most(2, elements=4096) == 3 * 4 * 4096 / 2


def test_one_row_again(tmp_path: Path) -> None:
    """The limits and the contestants of a row; of a file what was not measured is kept, and what was is replaced."""
    file = tmp_path / "records.jsonl"
    row = {"op": "attentive_fusion", "pass": "forward", "layout": "NCHW", "shape": "1x32x128x256", "dtype": "float32"}
    row |= {"allocator": "reused", "date": "old"}
    limit = {"op": "limit", "allocator": "reused", "date": "old"}
    kept = [row | {"pass": "training step"}, row | {"allocator": "default"}, limit | {"allocator": "default"}]
    kept.append({"op": "import", "allocator": "default", "date": "old"})
    file.write_text("".join(json.dumps(record) + "\n" for record in [row, limit, *kept]))
    done = python("benchmarks.run", *ROW, "--allocator", "reused", "--output", str(file))
    assert done.returncode == 0, done.stderr
    records = loaded(file.read_text())
    assert records[: len(kept)] == kept
    found, measured = records[len(kept) : -3], records[-3:]
    assert [(r["contestant"], r["threads"]) for r in found] == [(c, t) for c in limits.ARRAYS for t in (1, 2)]
    assert all({"op", "bytes", "gigabytes_per_second", *TIMES, *WHERE} <= r.keys() for r in found)
    assert [r["contestant"] for r in measured] == ["eager", "compiled", "afa_kernels"]
    for r in measured:
        assert {*row, *TIMES, *WHERE} <= r.keys() and r["threads"] == 2
        assert r["limit_share"] == pytest.approx(r["least_gigabytes_per_second"] / r["limit_gigabytes_per_second"])
    assert len({r["limit_gigabytes_per_second"] for r in measured}) == 1


def test_what_the_first_process_refuses_the_others_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = ({"op": "attentive_fusion", "shape": shape} for shape in ("1x2", "3x4"))
    asked = []

    def of_process(name: str, checked: bool) -> list[dict[str, Any]]:
        asked.append((name, checked))
        return [right, wrong | ({} if checked else {"refused": "for no reason"})]

    monkeypatch.setattr(run, "of_process", of_process)
    monkeypatch.setattr(sys, "argv", ["run", "--op", "attentive_fusion"])
    records = list(run.records_of(run.options()))
    assert records == [right, wrong | {"refused": "for no reason"}, right, right]
    assert asked == [("default", False), ("THP", True), ("reused", True)]


def test_the_commit_of_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of what was measured: not other for the records that are written meanwhile."""
    monkeypatch.delenv("AFA_KERNELS_COMMIT", raising=False)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    record, program = tmp_path / "benchmarks" / "results" / "cpu.jsonl", tmp_path / "program.py"
    record.parent.mkdir(parents=True)
    for file in (record, program):
        file.write_text("old")
    author = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "Begin"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    record.write_text("new")
    (tmp_path / "untracked").touch()
    assert run.commit() == head
    program.write_text("new")
    assert run.commit() == f"{head}-dirty"
    monkeypatch.setenv("AFA_KERNELS_COMMIT", "said")
    assert run.commit() == "said"


def test_no_such_row() -> None:
    done = python("benchmarks.run", *ROW[:-1], "channels_last", "--dtype", "bfloat16")
    assert done.returncode == 2 and "there is no such workload" in done.stderr


def test_every_workload_can_be_chosen() -> None:
    """No two workloads of a size have the same values of all filters."""
    for size in ("headline", "full"):
        found = [tuple(w.described()[name] for name in run.FILTERS) for w in [*workloads(size), *stages(size)]]
        assert len(set(found)) == len(found)


def test_scaling() -> None:
    """Of every operation each axis that it has, with the fields that are documented."""
    done = python("benchmarks.scaling", "--quick")
    assert done.returncode == 0, done.stderr
    records = loaded(done.stdout)
    documented = {"op", "pass", "layout", "shape", "shapes", "dtype", "axis", "value", *TIMES, *WHERE}
    assert all(r.keys() == documented and f"`{name}`" in README for r in records for name in r)
    assert {r["allocator"] for r in records} == {"reused"}
    axes = {(r["axis"], r["op"]) for r in records}
    assert axes == {
        *(("threads", op) for op in scaling.operations()),
        *(("elements", op) for op in scaling.OF_MAPS),
        *(("scales", op) for op in scaling.OF_SCALES),
    }
    assert all(r["value"] == r["threads"] for r in records if r["axis"] == "threads")
    assert all(differentiable(r["op"]) for r in records if r["pass"] == "training step")


@pytest.mark.parametrize("axis", scaling.AXES)
def test_scaling_of_every_size(axis: str) -> None:
    """Without measuring: the values of each axis, and that it is what the shapes have."""
    values: dict[str, set[int]] = {}
    for workload, value, threads in scaling.AXES[axis](quick=False):
        values.setdefault(workload.case.op, set()).add(value)
        shapes = workload.case.shapes
        if axis == "elements" and workload.case.op != "upsampled_pool":
            first = shapes[0][0] if isinstance(shapes[0], list) else shapes[0]
            assert torch.Size(first).numel() == value  # type: ignore[arg-type]
        if axis == "scales":
            given = shapes[0]
            assert (len(given) if isinstance(given, list) else given[1]) == value
        assert threads == (value if axis == "threads" else 2)
    expected = {"threads": {1, 2}, "elements": {2**k for k in range(12, 28)}, "scales": {1, 2, 3, 4, 6, 8, 12, 16}}
    assert all(found == expected[axis] for found in values.values())
