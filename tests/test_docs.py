"""Run what the documentation shows.

Of README.md, CONTRIBUTING.md and docs/*.md: the python blocks, in order, in one namespace a page. A block that says
`# equivalent to` is run in two halves, and what both of them assign must be equal; in the table whose columns are
"operation" and "equals", so must the two cells of each row. `<!-- python` begins a block that the reader does not see.
Of the package: the examples of its docstrings.
"""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")) + sorted(ROOT.glob("examples/**/README.md"))
BLOCK = re.compile(r"^(?:```python|<!-- python)\n(.*?)^(?:```|-->)$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `([^|]+)` \| `([^|]+)` \|$", re.MULTILINE)
EQUIVALENT = "# equivalent to\n"

pytestmark = pytest.mark.once


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run(code: str, where: str, line: int, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run a block; what it has assigned."""
    before = dict(namespace)
    exec(compile("\n" * line + code, where, "exec"), namespace)
    return {key: value for key, value in namespace.items() if key not in before or before[key] is not value}


def is_comparable(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, (list, tuple)) and all(map(is_comparable, value)))


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=name)
def test_the_code_of_a_page_runs_and_is_equivalent(page: Path) -> None:
    torch.manual_seed(0)
    text, namespace = page.read_text(), {"__name__": name(page)}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        ours, equivalent, theirs = block[1].partition(EQUIVALENT)
        other = dict(namespace)
        assigned = run(ours, name(page), line, namespace)
        if equivalent:
            found = run(theirs, name(page), line + ours.count("\n") + 1, other)
            both = [key for key in assigned if key in found and is_comparable(assigned[key])]
            assert both, f"{name(page)}:{line}: the two halves assign nothing in common"
            for key in both:
                torch.testing.assert_close(
                    assigned[key], found[key], msg=lambda m: f"{name(page)}:{line}: {key}: {m}", check_stride=False
                )
    for row in ROW.finditer(text.partition("| operation | equals |")[2]):
        ours, theirs = eval(row[1], namespace), eval(row[2], namespace)
        torch.testing.assert_close(ours, theirs, msg=lambda m: f"{name(page)}: {row[1]}: {m}")


def test_what_is_shown_is_an_operation() -> None:
    operations = {path.stem for path in (ROOT / "afa_kernels" / "ops").glob("[a-z]*.py")}
    shown = {row[1].split("(")[0] for row in ROW.finditer((ROOT / "README.md").read_text())}
    headings = set(re.findall(r"^## ([a-z_0-9]+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE))
    assert shown and shown <= operations
    assert headings == shown


def slugs(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" not in target:
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{name(page)} links to {target}"
            assert not anchor or anchor in slugs(linked), f"{name(page)} links to {target}"


@pytest.mark.parametrize(
    "module",
    [
        name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in sorted((ROOT / "afa_kernels").rglob("*.py"))
        if ">>> " in path.read_text()
    ],
)
def test_the_examples_of_docstrings(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted and not failed


def test_what_the_table_of_deployment_names_is_a_test() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "integrations").glob("*.py"))
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "deployment.md").read_text())
    assert named and [name for name in named if f"def {name}(" not in tests] == []
