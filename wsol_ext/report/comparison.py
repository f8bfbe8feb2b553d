"""Tables of runs beside each other, as markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from wsol_ext.evaluation.comparison import Comparison, Difference

__all__ = ["cells_of", "differences_table", "groups_table", "markdown", "runs_table"]


def differences_table(comparison: Comparison) -> str:
    """The differences as a markdown table, and below it what the runs are not alike in."""
    header = ["number", comparison.first.name, comparison.second.name, "difference", "p", "McNemar"]
    table = markdown(header, [[each.title, *cells_of(each)] for each in comparison.differences])
    return "\n\n".join([table, *comparison.notes])


def runs_table(rows: Sequence[Mapping[str, Any]], titles: Sequence[str]) -> str:
    """Rows of `rows_of_runs` as a markdown table of percentages; numbers that no run has are left out.

    Several runs stand by their names, as methods may be called alike.
    """
    shown = [title for title in titles if any(title in row for row in rows)]
    texts = list(dict.fromkeys(name for row in rows for name in row if name not in titles))
    if len({row["run"] for row in rows if row["run"]}) == 1:
        texts.remove("run")
    cells = [
        [*(row.get(t, "") for t in texts), *(f"{row[t]:.1%}" if t in row else "" for t in shown)]
        for row in rows
    ]
    return markdown([*texts, *shown], cells)


def groups_table(rows: Sequence[Mapping[str, Any]], by: str, titles: Sequence[str]) -> str:
    """Rows of `grouped` as a markdown table: mean ± standard deviation, in percent."""
    shown = [title for title in titles if any(title in row for row in rows)]
    cells = [
        [str(row[by]), str(row["runs"]), *(_mean(row, title) for title in shown)] for row in rows
    ]
    return markdown([by, "runs", *shown], cells)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table.

    Example:
        >>> print(markdown(["a", "b"], [["1", "x|y"]]))
        | a | b |
        | --- | --- |
        | 1 | x\\|y |
    """
    lines = [header, *rows]
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([shown[0], "| --- " * len(header) + "|", *shown[1:]])


def _mean(row: Mapping[str, Any], title: str) -> str:
    if title not in row:
        return ""
    deviation = row.get(f"{title}, sd")
    mean = f"{100 * row[title]:.1f}"
    return mean if deviation is None else f"{mean} ± {100 * deviation:.1f}"


def cells_of(each: Difference) -> list[str]:
    """What a table says of a difference: both numbers, the difference with its interval, p, McNemar's test."""
    test = ""
    if each.mcnemar_p is not None:
        test = f"{each.only_first} : {each.only_second}, p {_probability(each.mcnemar_p)}"
    return [
        f"{each.first:.1%}",
        f"{each.second:.1%}",
        f"{100 * each.difference:+.1f} [{100 * each.low:+.1f}, {100 * each.high:+.1f}]",
        _probability(each.p),
        test,
    ]


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
