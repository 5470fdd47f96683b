"""One self-contained HTML page of the records in benchmarks/results: every figure and table, nothing from a network.

    python -m benchmarks.page                          into demo/report.html, its figures beside it in demo/report/
    python -m benchmarks.page --output FILE.html       the same there, its figures in FILE/

It measures nothing. What it shows is in `benchmarks.sections`; it needs what `pip install .[report]` brings.
"""

from __future__ import annotations

import argparse
import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from markdown_it import MarkdownIt

from benchmarks import figures
from benchmarks.sections import SECTIONS, Folded, Part, Picture

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
CSS = """
:root {
  color-scheme: light dark;
  --text: #1d2530; --soft: #5a6675; --paper: #fff; --panel: #f5f7fa; --line: #dfe4ea; --link: #1566b0;
}
@media (prefers-color-scheme: dark) {
  :root { --text: #dde3ea; --soft: #9aa7b5; --paper: #14181e; --panel: #1c222a; --line: #313a45; --link: #6db3f2 }
}
* { box-sizing: border-box }
html { scroll-padding-top: 1rem }
body { margin: 0; background: var(--paper); color: var(--text) }
body { font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif }
body > div { display: grid; grid-template-columns: 15rem minmax(0, 62rem); gap: 3rem }
body > div { max-width: 84rem; margin: 0 auto; padding: 2rem 1.5rem }
nav { position: sticky; top: 2rem; align-self: start; font-size: .9rem }
nav ol { list-style: none; margin: .5rem 0; padding: 0; border-left: 2px solid var(--line) }
nav a { display: block; padding: .25rem .8rem; color: var(--soft); text-decoration: none }
nav a:hover { color: var(--link) }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.45rem; margin: 3.5rem 0 .8rem; padding-top: 1rem; border-top: 1px solid var(--line) }
h3 { font-size: 1.08rem; margin: 2rem 0 .5rem }
p { max-width: 46rem; overflow-wrap: anywhere }
code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; background: var(--panel); border-radius: 3px }
p code { padding: .1em .3em }
h3 code { font-size: 1em; background: none }
figure { margin: 1.2rem 0 }
figure > div { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: .6rem }
img { display: block; max-width: 100%; min-width: 36rem; height: auto }
figcaption { color: var(--soft); font-size: .85rem }
figcaption p { margin: .45rem 0 0; max-width: 56rem }
.table { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 8px }
table { border-collapse: collapse; font-size: .84rem; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .65rem; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: left }
td:first-child { white-space: normal; min-width: 13rem }
th { background: var(--panel) }
tbody tr:last-child td { border-bottom: 0 }
tbody tr:hover { background: var(--panel) }
td code, th code { background: none }
summary { cursor: pointer; color: var(--link); margin: .6rem 0 }
@media (max-width: 60rem) {
  body > div { display: block; padding: 1.2rem 1rem }
  nav { position: static; margin-bottom: 2rem }
}
@media print { nav { display: none } body > div { display: block } }
"""


def markdown(text: str) -> str:
    """Text as HTML, every table in a box of its own that scrolls."""
    return MARKDOWN.render(text).replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")


def part(of: Part, png: dict[str, bytes]) -> str:
    if isinstance(of, Folded):
        return f"<details><summary>{html.escape(of.title)}</summary>\n{markdown(of.text)}</details>\n"
    if isinstance(of, Picture):
        alt, data = html.escape(of.caption.replace("`", "")), base64.b64encode(png[of.name]).decode()
        image = f'<div><img alt="{alt}" src="data:image/png;base64,{data}"></div>'
        return f"<figure>{image}\n<figcaption>{markdown(of.caption)}{markdown(of.record)}</figcaption></figure>\n"
    return markdown(of)


def page(sections: Mapping[str, tuple[str, Sequence[Part]]], png: dict[str, bytes]) -> str:
    contents = "\n".join(f'<li><a href="#{name}">{title}</a></li>' for name, (title, _) in sections.items())
    body = "\n".join(
        f'<section id="{name}">\n<h2>{title}</h2>\n{"".join(part(each, png) for each in parts)}</section>'
        for name, (title, parts) in sections.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>afa_kernels: benchmarks</title>
<style>{CSS}</style>
</head>
<body><div>
<nav><strong>Contents</strong>
<ol>
{contents}
</ol></nav>
<main>
<h1>afa_kernels: benchmarks</h1>
<p>Made of the records in <code>benchmarks/results</code> by <code>python -m benchmarks.page</code>. What is measured,
and how, is in <code>benchmarks/README.md</code>. Every figure says of which record it is, and where, when and by which
command that was made.</p>
{body}
</main>
</div></body>
</html>
"""


def write(output: Path) -> None:
    """Write the page, and its figures into the folder of its name."""
    folder = output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(figures.STYLE):
        sections = {name: (title, parts()) for name, (title, parts) in SECTIONS.items()}
        pictures = [each for _, parts in sections.values() for each in parts if isinstance(each, Picture)]
        png = {each.name: figures.png(each.figure) for each in pictures}
    for name, data in png.items():
        (folder / f"{name}.png").write_bytes(data)
    output.write_text(page(sections, png))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo/report.html"), metavar="FILE")
    output = parser.parse_args().output
    write(output)
    print(f"{output}: open it in a browser")


if __name__ == "__main__":
    main()
