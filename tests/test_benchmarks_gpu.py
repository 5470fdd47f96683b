"""`python -m benchmarks.gpu` without a GPU: every stage's dry run, its record, its budget, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from benchmarks import report
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import calls, fresh, kernels
from benchmarks.gpu.session import Session, SkippedError, in_processes
from benchmarks.gpu.timing import Timer

pytestmark = pytest.mark.once

OPS = ("attentive_fusion", "scale_space_labels")  # one with gradients and one without
EVERYWHERE = {"stage", "device", "torch", "triton", "commit", "date", "command"}
MEASURED = {"op", "backend", "pass", "shape", "dtype", "layout", "p20_us", "p50_us", "p80_us", "cpu_us"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Run a stage's dry run in this process; return its lines."""

    def dry(stage: str, **fields: Any) -> list[dict[str, Any]]:
        path = tmp_path / f"{stage}.jsonl"
        session = Session(stage, "cpu", str(path), **{"ops": OPS, "budget": 120.0, **fields})
        status = gpu.run_stage(session)
        found = lines(path)
        assert all(set(line) >= EVERYWHERE for line in found)
        failed = [line for line in found if line.get("outcome") == "failed" or "refused" in line]
        assert status == (1 if failed else 0)
        assert not failed
        return found

    return dry


def test_smoke(run: Any) -> None:
    found = {line["item"]: line for line in run("smoke")}
    assert found["versions"]["chosen"] in ("cpu", "reference")
    assert found["copy"]["gigabytes_per_second"] > 0 and found["matmul"]["teraflops"] > 0
    assert all(found[op]["outcome"] == "passed" for op in OPS)


def test_kernels(run: Any) -> None:
    found = [line for line in run("kernels") if "p50_us" in line]
    assert all(MEASURED | {"bytes", "share", "copy_us"} <= set(line) for line in found)
    keys = {(line["op"], line["pass"], line["dtype"], line["layout"]) for line in found}
    passes = (("attentive_fusion", "forward"), ("attentive_fusion", "backward"), ("scale_space_labels", "forward"))
    dtypes, layouts = ("float32", "float16", "bfloat16"), ("NCHW", "channels_last")
    assert keys == {(*of, dtype, layout) for of in passes for dtype in dtypes for layout in layouts}


def test_baselines(run: Any) -> None:
    found = [line for line in run("baselines", ops=OPS[:1]) if "p50_us" in line]
    assert all(set(line) >= MEASURED for line in found)
    assert {line["backend"] for line in found} == {"eager", "compiled", "compiled max-autotune"}


def test_networks(run: Any) -> None:
    found = [line for line in run("networks") if "p50_us" in line]
    assert all(MEASURED | {"peak_bytes"} <= set(line) for line in found)
    assert {line["op"].split()[0] for line in found} == {"nn.AttentiveFusion", "AFADLAUp", "AFALevelFusion"}
    assert {line["pass"] for line in found} == {"inference", "training step"}


def test_graphs(run: Any) -> None:
    found = {line["item"]: line["outcome"] for line in run("graphs", ops=OPS[:1])}
    assert found["attentive_fusion, values"] == "passed"
    assert found["attentive_fusion, capture"] == "skipped"
    assert found["aot_inductor"] in ("passed", "skipped")


@pytest.mark.parametrize("op, expected", [("attentive_fusion", "captured"), ("bn_relu_conv2d", "side captured")])
def test_capture(op: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ATen's kernels, which set themselves up in their first call, it is not the first."""
    pytest.importorskip("triton")
    checks, where, ran = fresh.Checks(op, "cpu"), ["nowhere"], []

    def inside(name: str) -> Any:
        @contextlib.contextmanager
        def enter(_: Any) -> Iterator[None]:
            where.append(name)
            yield
            where.pop()

        return enter

    def step(*arguments: Any) -> list[Any]:
        ran.append(where[-1])
        return []

    monkeypatch.setattr(torch, "cuda", mock.MagicMock(stream=inside("side"), graph=inside("captured")))
    monkeypatch.setattr(checks, "step", step)
    checks.device = "cuda"
    checks.capture()
    assert " ".join(ran) == f"{expected} nowhere"  # what is compared with


def test_sanitizer(run: Any) -> None:
    found = {line["item"]: line["outcome"] for line in run("sanitizer")}
    assert found == {**dict.fromkeys((*OPS, "memcheck"), "passed"), "racecheck": "skipped", "initcheck": "skipped"}


def test_values(run: Any) -> None:
    *_, tally, tests = run("values")
    assert (tally["item"], tests["outcome"]) == ("tally", "passed")
    assert tally["passed"] == tally["collected"] > 0


def test_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A stage is a process of its own; without a GPU, what is not a dry run says so."""
    path = tmp_path / "record.jsonl"
    assert gpu.main(["smoke", "--device", "cpu", "--output", str(path), "--op", OPS[0]]) == 0
    assert f"--op {OPS[0]}" in lines(path)[0]["command"]
    assert "Nothing ran on a GPU" in capfd.readouterr().out
    if not torch.cuda.is_available():
        assert gpu.main(["smoke"]) == 2


def test_what_fails_hides_nothing(tmp_path: Path) -> None:
    def fail() -> str:
        raise AssertionError("wrong values")

    def skip() -> str:
        raise SkippedError("nothing to do here")

    path = tmp_path / "record.jsonl"
    session = Session("smoke", "cpu", str(path))
    session.go({"first": fail, "second": skip, "third": lambda: "well"})
    assert [line["outcome"] for line in lines(path)] == ["failed", "skipped", "passed"]
    assert session.bad == 1


def test_what_processes_do_in_time_counts() -> None:
    """And what fails in one hides nothing of the others."""
    assert in_processes(abs, [1, -2, "no number", -4], 120.0) == 7  # type: ignore[list-item]
    start = time.time()
    assert in_processes(time.sleep, [600.0], 1.0) == 0  # type: ignore[arg-type]
    assert time.time() - start < 300


def test_budget(tmp_path: Path) -> None:
    """What remains when the time is spent is recorded as skipped, and is no failure."""
    path = tmp_path / "record.jsonl"
    session = Session("smoke", "cpu", str(path), budget=3600.0)

    def spend() -> str:
        session.budget = 0.0
        return "all of it"

    session.go({"first": spend})
    session.go({"second": lambda: "never", "third": lambda: "never"})
    assert [line["outcome"] for line in lines(path)] == ["passed", "skipped"]
    assert lines(path)[1]["skipped"] == ["second", "third"] and session.bad == 0


def test_wrong_values_are_refused_alone(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    session, timer = Session("kernels", "cpu", str(path)), Timer("cpu")
    workload = next(w for w in calls.timed(OPS[:1], "cpu") if w.dtype == torch.float32)

    def wrong() -> Any:
        ours = workload.ours()
        return lambda *arguments: 1.001 * ours(*arguments)

    session.go(
        {
            str(i): lambda make=make: kernels.measure(session, timer, workload, "afa_kernels", make, backend="cpu")
            for i, make in enumerate((wrong, workload.ours))
        }
    )
    refused, forward, backward = lines(path)
    assert "output 0" in refused["refused"] and "p50_us" not in refused
    assert (forward["pass"], backward["pass"]) == ("forward", "backward")
    assert session.bad == 1


def test_table() -> None:
    """A row for each call, its baselines beside it; nothing without a record."""
    assert report.gpu([]) == ""
    shared = {
        "op": "attentive_fusion",
        "pass": "forward",
        "dtype": "float16",
        "layout": "NCHW",
        "shape": "1x32x512x1024",
    }
    where = {"device": "H", "torch": "2", "triton": "3", "commit": None, "date": "2026-11-25T00:00:00+00:00"}
    times = [("kernels", "triton", 60.0), ("kernels", "triton", 50.0), ("baselines", "eager", 200.0)]
    records = [
        {**shared, **where, "stage": stage, "backend": backend, "p50_us": us, "cpu_us": 41.0, "copy_us": 45.0}
        for stage, backend, us in times
    ]
    row = report.gpu([*records, {**where, **shared, "stage": "kernels", "backend": "cuda", "refused": "wrong"}])
    assert "| 50.0 | 200.0 | 4.00 | - | 45.0 |" in row and "1 timings refused" in row
