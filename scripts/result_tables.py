"""The tables of a file of benchmarks/results, read."""

import re
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def result_tables(name: str) -> list[tuple[list[str], list[list[str]]]]:
    """Header and rows of each table of a file."""
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        found.append((lines[0], lines[2:]))
    return found


def markdown_table(lines: list[list[str]]) -> str:
    """A table of these lines of cells, the first of which is its header."""
    header, *rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([header, "| --- " * len(lines[0]) + "|", *rows])
