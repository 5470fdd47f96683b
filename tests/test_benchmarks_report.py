"""Tables from records: what stands in the files is what the committed records say, and the markers are held to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from afa_kernels import backends
from afa_kernels.testing import operations
from benchmarks import report

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
RECORDS = report.load(report.newest(report.RESULTS))


@pytest.mark.parametrize("name", ["README.md", "docs/benchmarks.md", "docs/networks.md", "docs/verification.md"])
def test_the_files_show_the_records(name: str) -> None:
    text = (ROOT / name).read_text()
    assert report.written(text, name, RECORDS) == text, "python -m benchmarks.report --write " + name


def test_every_shape_is_in_the_full_report() -> None:
    assert (report.RESULTS / "cpu.md").read_text() == f"# Benchmark\n\n{report.report(RECORDS)}\n"


def test_the_share_of_the_limit() -> None:
    """A record says it or not; what memory gives is no row, nor does it change where the rows were made."""
    rows = [{k: v for k, v in r.items() if k != "limit_share"} for r in RECORDS if r["op"] == "attentive_fusion"]
    without = report.report(rows)
    assert set(column(without, "share of the limit")) == {"-"}
    limit = {"op": "limit", "contestant": "triad, streaming", "gigabytes_per_second": 20.0, "allocator": "default"}
    where = {name: rows[0][name] for name in ("device", "command", "commit", "date")}
    shared = [{**limit, **where, "threads": 1}, *({**r, "limit_share": 0.5} for r in rows)]
    said = report.report(shared)
    assert set(column(said, "share of the limit")) == {"0.50"}
    assert said.splitlines()[:3] == without.splitlines()[:3]
    assert report.headline(shared + other_operations()) == report.headline(rows + other_operations())


def other_operations() -> list[report.Record]:
    return [r for r in RECORDS if r["op"] not in ("attentive_fusion", "limit")]


def column(text: str, name: str) -> list[str]:
    """Return the cells of a column of the tables, which are all alike."""
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| ")]
    place = lines[0].index(name)
    return [line[place] for line in lines if line[place] != name and not line[place].startswith("---")]


def test_a_full_run_is_not_the_newest(tmp_path: Path) -> None:
    """Else the tables would be made of it; its rows in two element types stand apart."""
    one = next(r for r in RECORDS if r.get("contestant") == "afa_kernels")
    row = {**one, "command": "python -m benchmarks.run"}
    full = [{**row, "date": "9999", "command": "python -m benchmarks.run --full", "dtype": "bfloat16"}]
    tiny = [{**row, "date": "9999", "command": "python -m benchmarks.run --tiny"}]
    for name, records in {"cpu": [row], "cpu-full": full, "cpu-tiny": tiny}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert report.newest(tmp_path) == tmp_path / "cpu.jsonl"
    assert len(report.by_contestant([row, *full])) == 2


def test_a_killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workload at which it was killed has no row in any table, the others have theirs."""
    whole = report.load(report.RESULTS / "cpu-full.jsonl")
    last = max(i for i, r in enumerate(whole) if r.get("contestant") == "afa_kernels")
    killed = [r for i, r in enumerate(whole) if i != last]
    (tmp_path / "cpu-full.jsonl").write_text("".join(json.dumps(r) + "\n" for r in killed))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    entries = report.by_contestant(report.of_workloads(whole))
    assert report.by_contestant(report.of_workloads(killed)) == [e for e in entries if whole[last] not in e.values()]
    assert "`attentive_fusion`" in report.full() and report.report(killed) and report.summary(killed)


@pytest.mark.parametrize("name", report.TABLES)
def test_tables(name: str) -> None:
    """Every table has rows; writing twice changes nothing."""
    text = f"before\n<!-- {name}:begin -->\nstale\n<!-- {name}:end -->\nafter\n"
    once = report.written(text, "a file", RECORDS)
    assert "stale" not in once and once.startswith("before\n") and once.endswith("\nafter\n")
    assert "|" in once
    assert report.written(once, "a file", RECORDS) == once


def test_headline_has_ten_figures() -> None:
    assert sum(line.startswith("| `") for line in report.headline(RECORDS).splitlines()) == 10


@pytest.mark.parametrize(
    "text",
    [
        "no marker",
        "<!-- traffic:begin -->",
        "<!-- traffic:end --> <!-- traffic:begin -->",
        "<!-- traffic:begin --> <!-- gpu:begin --> <!-- traffic:end --> <!-- gpu:end -->",
        "<!-- unknown:begin --> <!-- unknown:end -->",
        2 * "<!-- traffic:begin --> <!-- traffic:end -->",
    ],
)
def test_wrong_markers(text: str) -> None:
    with pytest.raises(SystemExit, match="a file must have"):
        report.written(text, "a file", RECORDS)


def test_what_a_gpu_took_stands_beside_what_the_model_predicted() -> None:
    call = {"op": "attentive_fusion", "dtype": "float16", "layout": "NCHW", "shape": "1x32x512x1024"}
    took = {"pass": "forward", "stage": "kernels", "backend": "triton", "p50_us": 50.0, "copy_us": 45.0, "cpu_us": 9.0}
    origin = {"torch": "2.14.1", "triton": "3.9.0", "commit": "", "date": "2026-11-25"}
    (us, _) = report.predictions()["attentive_fusion", "forward", "float16", "NCHW", "1x32x512x1024", "H100"]
    for device, predicted in (("NVIDIA H100 80GB HBM3", f"{us:.1f}"), ("NVIDIA L4", "-")):
        said = report.gpu([{**origin, **call, **took, "device": device}])
        assert said.splitlines()[-1].split("|")[-3].strip() == predicted


def test_the_order_of_the_gpu_backends_is_that_of_the_record() -> None:
    rows = [line.split("|") for line in report.gpu_order(report.gpu_records()).splitlines()[2:]]
    first = {row[1].strip(" `"): row[-2].strip() for row in rows}
    assert first.keys() <= set(operations()) and "attentive_fusion" in first
    assert first == dict.fromkeys(first, backends.ORDER["cuda"][0])


def test_of_two_gpu_backends_the_faster_comes_first() -> None:
    call = {"stage": "kernels", "op": "one", "device": "GPU", "dtype": "float16", "layout": "NCHW", "shape": "1x2"}
    times = {("forward", "triton"): (9.0, 1.0), ("forward", "cuda"): (3.0,), ("backward", "triton"): (8.0,)}
    times[("backward", "cuda")] = (2.0,)
    records = [{**call, "pass": name, "backend": of, "p50_us": us} for (name, of), runs in times.items() for us in runs]
    assert report.cuda_over_triton(records)["one"] == pytest.approx({"forward": 3.0, "backward": 0.25})
    assert report.gpu_order(records).splitlines()[-1] == "| `one` | 3.00 | 0.25 | cuda |"


def test_what_the_model_says_of_cuda_stands_beside_what_it_says_of_triton() -> None:
    key = "attentive_fusion", "forward", "float16", "channels_last", "1x32x512x1024"
    said = report.gpu_model_cuda().splitlines()
    cells = next(line for line in said if line.startswith(f"| `{key[0]}` | {key[3]} | {key[4]} |")).split(" | ")
    triton, cuda = report.predictions("triton"), report.predictions("cuda")
    assert [cell.split(" / ")[0] for cell in cells[3:5]] == [f"{of[(*key, 'H100')][0]:.0f}" for of in (triton, cuda)]
    measured = [r for r in report.gpu_records() if r.get("backend") == "cuda" and "p50_us" in r and r["op"] == key[0]]
    last = [r for r in measured if tuple(r[k] for k in ("op", "pass", "dtype", "layout", "shape")) == key][-1]
    assert cells[5] == f"{last['p50_us'] / cuda[(*key, 'H200')][0]:.2f}"
