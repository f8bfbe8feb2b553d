"""All that an evaluation leaves behind: its files, the report, the tables."""

import warnings
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wsol_ext._files import mark_own_folder, write_json
from wsol_ext._versions import versions
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.data.factory import FLAGS, ChosenDataset
from wsol_ext.evaluation import Evaluation
from wsol_ext.evaluation.breakdown import by_class, by_object
from wsol_ext.evaluation.runs import ORIGIN, read_run
from wsol_ext.evaluation.statistics import add_intervals
from wsol_ext.report.heat_maps import write_heat_maps
from wsol_ext.report.page import write_report
from wsol_ext.report.table import print_tables

__all__ = ["made_by", "write_results"]


def write_results(
    evaluation: Evaluation,
    dataset: LocalizationDataset,
    out: Path,
    command: str,
    *,
    run_folder: Path | None = None,
    data: ChosenDataset | None = None,
) -> None:
    """Write an evaluation's files and the report, and print its tables.

    Where it has verdicts (`wsol_ext.evaluation.verdicts`) of the images, numbers have intervals, and there are tables
    by object and class.

    A new folder is marked as one of results, so that it may lie among folders of pictures.

    Args:
        evaluation: what was found; `about` says on which data.
        dataset: the data set the pictures are read from.
        out: the folder to write to.
        command: the command line, for the report to name.
        run_folder: the folder of the training run, where there is one.
        data: what opens the data set again, to be found by `wsol report` and `wsol compare`.
    """
    mark_own_folder(out, "evaluate")
    _add_statistics(evaluation, dataset, out / "verdicts")
    evaluation.save(out)
    write_heat_maps(out, evaluation.examples)
    write_json(out / ORIGIN, _origin(evaluation, command, run_folder, data))
    page = out / "report.html"
    write_report(page, [read_run(out)], dataset)
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


def _origin(
    evaluation: Evaluation, command: str, run_folder: Path | None, data: ChosenDataset | None
) -> dict[str, Any]:
    """Where the numbers come from: when, how long, by what, from which files."""
    origin: dict[str, Any] = {"command": command, "date": _now()}
    origin |= {"duration": f"{evaluation.seconds:.1f} s", "versions": versions()}
    if run_folder is not None:
        origin["run"] = str(run_folder.resolve())
    if data is not None:
        paths = {name: _whole(path) for name, path in data.options.items() if name in FLAGS}
        root, values = data.root and _whole(data.root), {**data.options, **paths}
        origin["data"] = {**asdict(data), "root": root, "options": values}
    return origin


def _whole(path: str) -> str:
    """A path from wherever it is looked at."""
    return str(Path(path).resolve())


def made_by(command: str) -> dict[str, str]:
    """What makes a page: a command line, when, and which version of this package."""
    return {"command": command, "date": _now(), "wsol_ext": versions()["wsol_ext"]}


def _now() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
