"""Tables from records: what stands in the files is what the committed records say, and the markers are held to."""

from __future__ import annotations

from pathlib import Path

import pytest

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
