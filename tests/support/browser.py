"""A page in a browser.

It is Playwright's Chromium (`playwright install chromium`), or the one that AFA_KERNELS_BROWSER names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = ["--no-sandbox", "--no-zygote", "--single-process", "--disable-gpu", "--disable-dev-shm-usage"]


@contextlib.contextmanager
def opened() -> Iterator[tuple[Any, list[str]]]:
    """A page of 1440 x 1200, and what goes wrong on it: errors in the console or of scripts, requests that fail."""
    api = pytest.importorskip("playwright.sync_api", reason="pages are looked at by playwright: pip install .[docs]")
    path = os.environ.get("AFA_KERNELS_BROWSER")
    with api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no browser: playwright install chromium, or AFA_KERNELS_BROWSER=/path/to/chromium")
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 1200})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        yield page, complaints
        browser.close()


def fits(page: Any) -> bool:
    """Whether nothing of the page is wider than the window."""
    return not page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
