"""The page of the benchmarks' records: whole, self-contained, with their numbers, and where there are none."""

from __future__ import annotations

import base64
import html.parser
import json
import re
from pathlib import Path

import pytest

from benchmarks import report

pytest.importorskip("matplotlib", reason="the figures are drawn by matplotlib: pip install .[report]")
pytest.importorskip("markdown_it", reason="the tables are Markdown: pip install .[report]")
from benchmarks import page, sections

pytestmark = pytest.mark.once

WITHOUT_END = {"img", "link", "meta", "br", "hr"}
WHERE = {"device": "a CPU", "threads": 2, "torch": "2.13.0", "triton": "3.9.0", "version": "0.1.0"}
WHEN = {"commit": "0123456789abcdef", "date": "2026-11-26T00:00:00+00:00", "command": "python -m benchmarks.some"}


class Page(html.parser.HTMLParser):
    """What a page has of every tag; tags that do not match are an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(self.text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in WITHOUT_END:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def section(self, name: str) -> str:
        return self.text.split(f'<section id="{name}">')[1].split("</section>")[0]


def made(folder: Path) -> Page:
    """Write the page; what holds of every page is checked."""
    output = folder / "report.html"
    page.write(output)
    found = Page(output)
    images, files = found.all("img"), list((folder / "report").glob("*.png"))
    assert len(images) == len(files)
    for image in images:
        kind, data = str(image["src"]).split(",")
        assert kind == "data:image/png;base64" and image["alt"]
        png = base64.b64decode(data, validate=True)
        assert png.startswith(b"\x89PNG\r\n\x1a\n") and all(
            int.from_bytes(png[i : i + 4], "big") > 99 for i in (16, 20)
        )
    assert not found.all("script") and "@import" not in found.text and "url(" not in found.text
    assert all(str(link["href"]).startswith("data:") for link in found.all("link"))
    ids = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    targets = [str(link["href"]) for link in found.all("a")]
    assert targets == [f"#{name}" for name in sections.SECTIONS] and {t[1:] for t in targets} <= ids
    for name in sections.SECTIONS:
        section = found.section(name)
        assert "<img" in section or "Not measured yet:" in section, name
        assert section.count("<figcaption>") == section.count("Record: <code>benchmarks/results/"), name
    return found


def results(folder: Path, **files: list[dict]) -> Path:
    """A folder of records: each a file of JSON lines."""
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def workload(op: str, eager: float, compiled: float, **more: object) -> list[dict]:
    """The records of a workload that takes afa_kernels 2 ms."""
    call = {"op": op, "pass": "training step", "layout": "NCHW", "shape": "1x32x8x16", "dtype": "float32", **more}
    return [
        {**call, "contestant": name, "p20_ms": ms, "p50_ms": ms, "p80_ms": ms, "repeats": 5}
        | {"speedup_over_eager": eager / ms, "speedup_over_compiled": compiled / ms, "peak_bytes": 2**20 * ms}
        | {"saved_bytes": 2**19, "least_bytes": 2**20, "least_gigabytes_per_second": 9.0, "allocator": "default"}
        | {"limit_share": 0.5 / ms, **WHERE, **WHEN}
        for name, ms in (("eager", eager), ("compiled", compiled), ("afa_kernels", 2.0))
    ]


def test_the_committed_records(tmp_path: Path) -> None:
    found = made(tmp_path)
    telling = [r for r in report.load(report.newest(report.RESULTS)) if r.get("contestant") == "afa_kernels"]
    r = next(r for r in telling if r["op"] == "attentive_fusion")
    shapes = found.section("shapes")
    assert f"<td>{r['shape']}</td>" in shapes and f">{r['speedup_over_eager']:.2f}</td>" in shapes
    assert f"at {r['commit'][:12]} on {r['date'][:10]}" in shapes and r["device"] in shapes
    slower = [r for r in telling if min(r["speedup_over_eager"], r["speedup_over_compiled"]) < 1]
    assert all(f"{r['p50_ms']:.2f} ms" in found.section("slower") for r in slower)
    for name in ("memory", "bytes", "networks", "gpu-model", "gpu"):
        assert "Not measured yet" not in found.section(name), name


def test_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert not made(tmp_path).all("img")


def test_a_small_set_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload that is faster, one that is slower than torch.compile, one refused; limits and scaling; no GPU."""
    limits = [
        {"op": "limit", "contestant": name, "allocator": "default", "gigabytes_per_second": 31.25, **WHERE, **WHEN}
        for name in ("copy", "triad, streaming")
    ]
    refused = {**workload("scale_space_render", 2.0, 2.0)[0], "refused": "a | b"}
    del refused["contestant"]
    cpu = [*workload("attentive_fusion", 9.0, 4.0), *workload("progressive_fusion", 3.0, 1.5), *limits, refused]
    axes = {"threads": {1: 3.0, 2: 1.6}, "elements": {2**12: 0.1, 2**20: 9.0}, "scales": {1: 1.0, 16: 9.0}}
    growth = [
        {"op": op, "pass": "forward", "layout": "NCHW", "shape": "1x32x8x16", "axis": axis, "value": value}
        | {"p20_ms": 0.9 * ms, "p50_ms": ms, "p80_ms": 1.1 * ms, **WHERE, **WHEN}
        for op in ("attentive_fusion", "progressive_fusion")
        for axis, points in axes.items()
        for value, ms in points.items()
    ]
    monkeypatch.setattr(report, "RESULTS", results(tmp_path, cpu=cpu, scaling=growth))
    found = made(tmp_path)
    assert ">4.50</td>" in found.section("shapes") and "refused: a / b" in found.section("shapes")
    slower = re.findall(r"<tr>\n<td>(.*?)</td>", found.section("slower"))
    assert len(slower) == 1 and "progressive_fusion" in slower[0] and ">0.750</td>" in found.section("slower")
    assert found.section("limit").count("31.2") == 2
    assert found.section("scaling").count("<img") == 3
    assert "python -m benchmarks.gpu all" in found.section("gpu")
    assert "a CPU, 2 threads, torch 2.13.0" in found.section("shapes")
