"""For `make docs`: the examples of docstrings, which are doctests, as blocks of code."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **other: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """Every paragraph that begins with >>> between fences, without its indentation."""
    paragraph = re.compile(r"^( *)(>>> .*(?:\n *\S.*)*)", re.MULTILINE)

    def block(found: re.Match[str]) -> str:
        return "```pycon\n" + re.sub(f"^{found[1]}", "", found[2], flags=re.MULTILINE) + "\n```"

    return paragraph.sub(block, docstring)
