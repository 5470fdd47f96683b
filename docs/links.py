"""For `make docs`: what a page links to outside of docs/ is named, for it is not part of the site."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **page: Any) -> str:
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", r"\1 (`\2` of the repository)", markdown)
