"""`make report`: in a browser the page of the records has every figure, and no error."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.browser import fits, opened

pytest.importorskip("matplotlib", reason="the figures are drawn by matplotlib: pip install .[report]")
pytest.importorskip("markdown_it", reason="the tables are Markdown: pip install .[report]")
from benchmarks import page as benchmarks
from benchmarks.sections import SECTIONS


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    benchmarks.write(tmp_path / "report.html")
    with opened() as (page, complaints):
        page.goto((tmp_path / "report.html").as_uri())
        widths = page.evaluate("Array.from(document.images, image => image.complete && image.naturalWidth)")
        assert len(widths) == len(list((tmp_path / "report").glob("*.png"))) and min(widths) > 0
        for name in SECTIONS:
            page.locator(f'nav a[href="#{name}"]').click()
            assert page.locator(f"#{name} h2").is_visible(), name
        assert fits(page)
        assert len(page.screenshot(path=tmp_path / "page.png", full_page=True)) > 100_000
        page.set_viewport_size({"width": 390, "height": 844})
        assert fits(page), "the page is wider than a phone"
        page.screenshot(path=tmp_path / "phone.png")
    assert not complaints
