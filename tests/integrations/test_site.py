"""`make docs`: the site is built without a warning, has all that is public, and reads right in a browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.browser import fits, opened

import afa_kernels
import afa_kernels.models
import afa_kernels.nn
import afa_kernels.testing

ROOT = Path(__file__).parents[2]
PAGES = {"operations": afa_kernels, "nn": afa_kernels.nn, "models": afa_kernels.models, "testing": afa_kernels.testing}
LOOKED_AT = ("index.html", "operations.html", "api/operations.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the site is built by mkdocs: pip install .[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_the_site_has_every_public_name(site: Path) -> None:
    for page, module in PAGES.items():
        html = (site / "api" / f"{page}.html").read_text()
        for name in set(module.__all__) - {"__version__"}:
            assert f">{name}</span>" in html or f'.{name}"' in html, f"docs/api/{page}.md lacks {name}"


def test_nothing_of_the_site_comes_from_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        html = page.read_text()
        assert 'src="http' not in html and 'rel="stylesheet" href="http' not in html, page


def test_pages_in_a_browser(site: Path, tmp_path: Path) -> None:
    with opened() as (page, complaints):
        for name in LOOKED_AT:
            page.goto((site / name).as_uri())
            assert page.locator("h1").first.is_visible() and page.locator("nav").first.is_visible()
            assert fits(page), f"{name} is wider than the window"
            assert len(page.screenshot(path=tmp_path / f"{Path(name).stem}.png")) > 20_000
    assert not complaints
