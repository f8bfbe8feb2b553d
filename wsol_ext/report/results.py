"""All that an evaluation leaves behind: its files, the report, the tables."""

import csv
import warnings
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wsol_ext._files import mark_own_folder
from wsol_ext._versions import versions
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.evaluation import Evaluation
from wsol_ext.evaluation.breakdown import by_class, by_object
from wsol_ext.evaluation.statistics import add_intervals
from wsol_ext.report.page import write_report
from wsol_ext.report.table import print_tables

__all__ = ["write_results"]


def write_results(
    evaluation: Evaluation,
    dataset: LocalizationDataset,
    out: Path,
    run_folder: Path,
    config: Mapping[str, Any],
    command: str,
) -> None:
    """Write an evaluation's files and the report, and print its tables.

    Where it has verdicts (`wsol_ext.evaluation.verdicts`) of the images, numbers have intervals, and there are tables
    by object and class.

    A new folder is marked as one of results, so that it may lie among folders of pictures.

    Args:
        evaluation: what was found; `about` says on which data.
        dataset: the data set the examples' pictures are read from.
        out: the folder to write to.
        run_folder: the folder of the run, whose `metrics.csv` is drawn, where there is one.
        config: the run's options, to list.
        command: the command line, for the report to name.
    """
    mark_own_folder(out, "evaluate")
    _add_statistics(evaluation, dataset, out / "verdicts")
    evaluation.save(out)
    title = f"{evaluation.method} on {evaluation.about['data']}"
    history = _history(run_folder / "metrics.csv")
    page = out / "report.html"
    write_report(
        page,
        evaluation,
        dataset,
        title=title,
        history=history,
        config=config,
        origin=_origin(evaluation, command),
    )
    print_tables(evaluation)
    print(f"report: {page}")


def _add_statistics(evaluation: Evaluation, dataset: LocalizationDataset, verdicts: Path) -> None:
    """Find what follows from what was kept of each image: intervals, and numbers by kinds of images."""
    if not verdicts.is_dir():
        return
    try:
        add_intervals(evaluation, verdicts)
        evaluation.by_object = by_object(evaluation, verdicts)
        evaluation.by_class = by_class(evaluation, verdicts, dataset.class_names)
    except ValueError as error:
        warnings.warn(f"{error}; there are no intervals", stacklevel=3)


def _origin(evaluation: Evaluation, command: str) -> dict[str, str]:
    """Where the numbers come from: when, how long, by what."""
    return {
        "date": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        "duration": f"{evaluation.seconds:.1f} s",
        "command": command,
        **versions(),
    }


def _history(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return [{name: float(value) for name, value in row.items() if value} for row in rows]
    except (TypeError, ValueError):  # some other program's file of that name
        return []
