"""Pages and tables of runs beside each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wsol_ext._files import write_text
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.evaluation.comparison import Comparison, Difference, Disagreement
from wsol_ext.report import drawing
from wsol_ext.report.page import jpeg, render

__all__ = ["differences_table", "groups_table", "markdown", "runs_table", "write_comparison"]


def write_comparison(
    path: str | Path, comparison: Comparison, dataset: LocalizationDataset | None = None
) -> None:
    """Write a self-contained HTML page about two runs: their differences, and the images whose boxes differ most.

    Args:
        path: the file, written whole or not at all.
        comparison: of the runs.
        dataset: the first run's, whose pictures are shown with the boxes of both; None: none is.

    Raises:
        ValueError: the data set has other images.
        OSError: the file cannot be written.
    """
    first, second = comparison.first.name, comparison.second.name
    cards: dict[str, list[dict[str, Any]]] = {}
    for each in comparison.disagreements:
        better = second if each.ious[1] > each.ious[0] else first
        cards.setdefault(f"Better in {better}", []).append(_card(each, dataset))
    tables: dict[str, list[dict[str, Any]]] = {}
    for difference in comparison.differences:
        tables.setdefault(difference.protocol, []).append(
            {"title": difference.number, "cells": _cells(difference)}
        )
    page = render(
        "comparison.html",
        title=f"{second} against {first}",
        first=first,
        second=second,
        images=f"{comparison.images:,}",
        draws=f"{comparison.draws:,}",
        seed=comparison.seed,
        tables=tables,
        notes=comparison.notes,
        disagreements=cards,
        drawn=dataset is not None,
    )
    write_text(path, page + "\n")


def differences_table(comparison: Comparison) -> str:
    """The differences as a markdown table, and below it what the runs are not alike in."""
    header = ["number", comparison.first.name, comparison.second.name, "difference", "p", "McNemar"]
    table = markdown(header, [[each.title, *_cells(each)] for each in comparison.differences])
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


def _cells(each: Difference) -> list[str]:
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


def _card(each: Disagreement, dataset: LocalizationDataset | None) -> dict[str, Any]:
    pictures = []
    if dataset is not None:
        if each.index >= len(dataset) or dataset.image_names[each.index] != each.image:
            raise ValueError(
                f"the data set has no image {each.image} at its place {each.index}: it should be the first run's, as "
                "--data, --root and --split name it"
            )
        original = dataset.load_image(each.index)
        size = dataset.original_size(each.index, original)
        picture = drawing.fit(original, 240, 320)
        for truth, box in zip(each.truths, each.boxes, strict=True):
            shown = drawing.draw_boxes(picture, torch.from_numpy(truth)[None], drawing.GREEN, size)
            shown = drawing.draw_boxes(shown, torch.from_numpy(box)[None], drawing.RED, size)
            pictures.append(jpeg(shown))
    return {
        "name": each.image,
        "ious": [f"{iou:.2f}" for iou in each.ious],
        "pictures": pictures,
    }
