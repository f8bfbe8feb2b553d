"""Evaluated runs, and the tables that set several beside each other."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsol_ext._names import printable, some
from wsol_ext.evaluation.journal import FOLDER, is_unfinished
from wsol_ext.evaluation.results import CENTER, Evaluation
from wsol_ext.evaluation.threshold_from import read_evaluation
from wsol_ext.metrics import PROTOCOLS
from wsol_ext.thresholds import find_evaluation

__all__ = ["Run", "differing", "grouped", "numbers_of", "read_run", "rows_of_runs", "table_columns"]


_ABOUT = ("data", "split", "checkpoint")


@dataclass
class Run:
    """A run that was evaluated.

    Attributes:
        name: what it is called here: the path that was given.
        folder: of its `evaluation.json`.
        evaluation: what that says.
    """

    name: str
    folder: Path
    evaluation: Evaluation

    @property
    def verdicts(self) -> Path:
        """The folder of what was found of each image, which need not be there."""
        return self.folder / FOLDER

    @property
    def unfinished(self) -> bool:
        """Whether its verdicts are an evaluation's that was interrupted: another one than `evaluation`."""
        return is_unfinished(self.verdicts)


def read_run(place: str | Path) -> Run:
    """An evaluated run.

    Args:
        place: a run's folder, a folder of results, or its `evaluation.json`.

    Raises:
        FileNotFoundError: it was not evaluated.
        ValueError: its `evaluation.json` is damaged.
    """
    file = find_evaluation(place, "RUN")
    return Run(printable(place), file.parent, read_evaluation(file))


def table_columns() -> dict[str, tuple[str, str]]:
    """The numbers in a table of runs, protocol and name by title; protocols that tell classes first."""
    ordered = sorted(PROTOCOLS.items(), key=lambda named: "cls_top1" not in named[1].headlines)
    return {
        title: (name, number) for name, kind in ordered for number, title in kind.columns.items()
    }


def grouped(runs: Sequence[Run], by: str) -> list[dict[str, Any]]:
    """A row for each group of runs: how many, and of each number the mean and the standard deviation (n - 1).

    Args:
        runs: such as those of several seeds.
        by: "method", or another value that all evaluations are said to have, such as "data".

    Returns:
        rows of `by`, `runs`, and by title the mean and, under ``TITLE, sd``, the deviation, where there are two runs.

    Raises:
        ValueError: a run has no such value.

    A group whose runs were not measured alike draws a warning.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        about = {"method": run.evaluation.method, **run.evaluation.about}
        if by not in about:
            raise ValueError(f"--group is {by}, {run.name} has {', '.join(about)} to group by")
        groups.setdefault(str(about[by]), []).append(run)
    rows = []
    for name, members in groups.items():
        unlike = {what: of for what, of in differing(members).items() if what != "checkpoint"}
        for what, of_runs in unlike.items():
            warnings.warn(
                f"runs of {by} {name} differ in {what} ({some(list(dict.fromkeys(of_runs)))}): their mean is of unlike "
                "numbers",
                stacklevel=2,
            )
        row: dict[str, Any] = {by: name, "runs": len(members)}
        cells = [numbers_of(run.evaluation, run.evaluation.method) for run in members]
        for title in table_columns():
            values = [each[title] for each in cells if title in each]
            if len(values) < len(members):
                continue  # a mean of some would not compare
            row[title] = float(np.mean(values))
            if len(values) > 1:
                row[f"{title}, sd"] = float(np.std(values, ddof=1))
        rows.append(row)
    return rows


def numbers_of(evaluation: Evaluation, source: str) -> dict[str, float]:
    """A source's numbers by the titles of `table_columns`."""
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]] = {
        result.name: result.metrics for result in evaluation.protocols
    }
    cells = {
        title: metrics.get(protocol, {}).get(source, {}).get(name)
        for title, (protocol, name) in table_columns().items()
    }
    return {title: value for title, value in cells.items() if value is not None}


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What runs differ in beside their numbers: data, split, images, checkpoint, and each protocol's settings.

    Returns:
        by what it is each run's, "" where a run says nothing of it. What is alike is left out.
    """
    said = [_asked(run.evaluation) for run in runs]
    names = dict.fromkeys(name for each in said for name in each)
    values = {name: [each.get(name, "") for each in said] for name in names}
    return {name: each for name, each in values.items() if len({*each} - {""}) > 1}


def _asked(evaluation: Evaluation) -> dict[str, str]:
    """What an evaluation was told, as texts; thresholds that it found are none."""
    asked = {name: str(evaluation.about[name]) for name in _ABOUT if name in evaluation.about}
    asked["images"] = str(evaluation.images)
    for result in evaluation.protocols:
        given = result.settings.get("chosen") == "beforehand"
        names = ["interval", *(["threshold"] if given else []), "chosen"]
        settings = [f"{name} {result.settings[name]}" for name in names if name in result.settings]
        asked[f"settings of {result.name}"] = ", ".join(settings)
    return asked


def rows_of_runs(runs: Sequence[Run], parts: bool = False) -> list[dict[str, Any]]:
    """A row for each run, its parts first where they are wanted, and the baseline's in the end.

    Returns:
        rows of `method`, `run`, what the runs differ in by `differing`, and by title the numbers that there are. The
        baseline has one row, or one for each run where its numbers differ between them.
    """
    unlike = differing(runs)
    rows: list[dict[str, Any]] = []
    baselines: list[dict[str, Any]] = []
    together: dict[str, float] = {}
    for place, run in enumerate(runs):
        evaluation = run.evaluation
        about = {"run": run.name, **{name: values[place] for name, values in unlike.items()}}
        for source in (*(evaluation.parts if parts else ()), evaluation.method):
            rows.append({"method": source, **about, **numbers_of(evaluation, source)})
        numbers = numbers_of(evaluation, CENTER)
        baselines.append({"method": CENTER, **about, **numbers})
        together |= numbers
    if all(
        row.get(title, value) == value for row in baselines for title, value in together.items()
    ):
        baselines = [{"method": CENTER, "run": "", **together}]
    return [*rows, *baselines]
