"""What the documentation's pages take from elsewhere when the site is built: stored results, programs, formulas.

A comment on a line of its own is replaced by what it names, so no number of a page is typed:

<!-- results FILE: PATTERN -->   rows of a table in benchmarks/results/FILE.md: those that hold a match of the pattern
<!-- golden FILE -->             what tests/golden/FILE.safetensors has recorded of an authors' program
<!-- source FILE -->             a program of this repository
<!-- page FILE -->               a page of this repository that lies outside of docs/

`$...$` and `$$...$$` become MathML. A page that would fetch something is an error: the site works without a network.
"""

import html
import json
import logging
import re
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from result_tables import RESULTS, markdown_table, result_tables

ROOT = Path(__file__).resolve().parents[1]
# Columns of the benchmarks' tables that a reader of the site wants; the others stand in the file.
SHOWN = ("case", "baseline ms", "ours ms", "speedup", "peak memory, baseline / ours")

_DIRECTIVE = re.compile(r"^<!-- (results|golden|source|page) (.+?) -->$", re.M)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
_FETCHED = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="https?:|<link\b[^>]*\brel="(?!canonical)[^>]*href="https?:'
)

log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, *, config: Any) -> Files:
    """Make a page of each file of results."""
    for path in sorted(RESULTS.glob("*.md")):
        page = File.generated(
            config, f"results/{path.name}", content=path.read_text(encoding="utf-8")
        )
        page.inclusion = page.inclusion.NOT_IN_NAV
        files.append(page)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put in what the page's comments name, and let links to files of results lead to their pages."""
    makers = {"results": results, "golden": golden, "source": source, "page": outside_page}

    def replaced(found: re.Match[str]) -> str:
        return makers[found[1]](found[2])

    up = "../" * page.file.src_uri.count("/")
    text = _DIRECTIVE.sub(replaced, markdown)
    text = re.sub(r"\]\(RESULTS/", f"]({up}results/", text)
    text = text.replace("](../../docs/", "](../")  # of a page of results
    return re.sub(r"\]\((?:\.\./)+benchmarks/results/", f"]({up}results/", text)


def on_page_content(content: str, **_: Any) -> str:
    """Make MathML of formulas."""

    def mathml(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        return convert(html.unescape(found[2]).strip(), display=display)

    return _FORMULA.sub(mathml, content)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Warn, which strictly is an error, of what the page would fetch."""
    for found in _FETCHED.findall(output):
        log.warning("%s would fetch something: %s", page.file.src_uri, found)
    return output


def results(argument: str) -> str:
    """Rows of a table of results, and where they are from."""
    name, _, pattern = argument.partition(": ")
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    tables, measured = [], ""
    for header, rows in result_tables(name):
        kept = [row for row in rows if re.search(pattern, " | ".join(row))]
        if kept:
            columns = [k for k, title in enumerate(header) if title in SHOWN] or range(len(header))
            columns = [k for k in columns if any(row[k] for row in kept)]
            tables.append(markdown_table([[line[k] for k in columns] for line in (header, *kept)]))
    if not tables:
        raise PluginError(f"no row of benchmarks/results/{name}.md matches {pattern!r}")
    if (machine := text.split("\n\n")[1]).startswith(("Intel", "AMD")):
        measured = f" {machine}"
    return "\n\n".join([*tables, f"<small>[{name}.md](RESULTS/{name}.md).{measured}</small>"])


def golden(name: str) -> str:
    """A table of what a record holds: its groups of arrays."""
    with open(ROOT / "tests" / "golden" / f"{name}.safetensors", "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    names = sorted(key for key in header if key != "__metadata__")
    rows = [["recorded of the authors' program", "arrays"]]
    counts = Counter(key.partition("/")[0] for key in names)
    for group, what in (
        ("state", "weights, under the authors' names"),
        ("grad", "gradients of the loss"),
    ):
        rows.append([what, str(counts[group])])
    for group, what in (("out", "evaluation mode"), ("train", "training mode")):
        listed = ", ".join(
            f"`{key.partition('/')[2]}`" for key in names if key.startswith(f"{group}/")
        )
        rows.append([what, listed])
    return markdown_table(rows)


def source(name: str) -> str:
    """A program as a block of code."""
    return f"```python\n{(ROOT / name).read_text(encoding='utf-8').rstrip()}\n```"


def outside_page(name: str) -> str:
    """A page of the root, whose links lead from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return text.replace("](docs/", "](").replace("](benchmarks/results/", "](RESULTS/")
