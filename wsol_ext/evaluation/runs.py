"""Evaluated runs, and the tables that set several beside each other."""

import csv
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsol_ext._files import read_yaml
from wsol_ext._names import printable, some
from wsol_ext._stored import read_values
from wsol_ext.evaluation.journal import FOLDER, is_unfinished
from wsol_ext.evaluation.results import CENTER, Evaluation, ProtocolResult
from wsol_ext.evaluation.threshold_from import read_evaluation
from wsol_ext.metrics import PROTOCOLS, Curve
from wsol_ext.thresholds import find_evaluation

__all__ = [
    "ORIGIN",
    "Run",
    "differing",
    "grouped",
    "numbers_of",
    "read_run",
    "rows_of_runs",
    "table_columns",
]

ORIGIN = "origin.json"
"""The file, beside `evaluation.json`, of what made it: `command`, `date`, `duration`, `versions`, and where `run`, the
run's folder, and `data`, the pictures, were. They differ between evaluations of the same numbers."""
_ABOUT = ("data", "split", "checkpoint")


@dataclass
class Run:
    """A run that was evaluated.

    Attributes:
        name: what it is called here: the path that was given.
        folder: of its `evaluation.json`.
        evaluation: what that says, with the curves and the numbers by class that lie beside it.
        origin: what `ORIGIN` says; nothing where there is none.
    """

    name: str
    folder: Path
    evaluation: Evaluation
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def verdicts(self) -> Path:
        """The folder of what was found of each image, which need not be there."""
        return self.folder / FOLDER

    @property
    def unfinished(self) -> bool:
        """Whether its verdicts are an evaluation's that was interrupted: another one than `evaluation`."""
        return is_unfinished(self.verdicts)

    @property
    def trained_in(self) -> Path | None:
        """The folder of the training run; None where what was evaluated is none's."""
        known = self.origin.get("run")
        if self.origin and not isinstance(known, str):
            return None  # what lies around the results is another's
        folders = (*([] if known is None else [Path(known)]), self.folder, self.folder.parent)
        return next((each for each in folders if (each / "config.yaml").is_file()), None)

    @property
    def config(self) -> dict[str, Any]:
        """The options that it was trained with."""
        folder = self.trained_in
        return {} if folder is None else read_yaml(folder / "config.yaml")

    @property
    def history(self) -> list[dict[str, float]]:
        """What training noted, a row an epoch."""
        folder = self.trained_in
        if folder is None or not (folder / "metrics.csv").exists():
            return []
        try:
            return [
                {name: float(value) for name, value in row.items() if value}
                for row in _rows(folder / "metrics.csv")
            ]
        except (TypeError, ValueError):  # some other program's file of that name
            return []


def read_run(place: str | Path) -> Run:
    """An evaluated run.

    Args:
        place: a run's folder, a folder of results, or its `evaluation.json`.

    Raises:
        FileNotFoundError: it was not evaluated.
        ValueError: its `evaluation.json`, or a file beside it, is damaged; the message names it.
    """
    file = find_evaluation(place, "RUN")
    folder, evaluation = file.parent, read_evaluation(file)
    for result in evaluation.protocols:
        path = folder / f"curve_{result.name}.csv"
        if path.exists():
            with _reading(path):
                result.curves = _curves(result, _rows(path))
    path = folder / "by_class.csv"
    if path.exists():
        with _reading(path):
            evaluation.by_class = [_row(row) for row in _rows(path)]
    origin = read_values(folder / ORIGIN, "wsol evaluate") if (folder / ORIGIN).exists() else {}
    return Run(printable(place), folder, evaluation, origin)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What is wrong with a table is said with its name."""
    try:
        yield
    except (LookupError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{printable(path)} is damaged: {error}; write it anew by wsol evaluate"
        ) from error


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _curves(
    result: ProtocolResult, rows: Sequence[Mapping[str, str]]
) -> dict[str, dict[str, Curve]]:
    """By IoU and source the curves that `Evaluation.save` made rows of."""
    thresholds = [float(row["threshold"]) for row in rows]
    curves: dict[str, dict[str, Curve]] = {}
    for column in (name for name in (rows[0] if rows else {}) if name != "threshold"):
        source, _, title = column.rpartition(", ")
        if source in result.metrics:  # else another evaluation's
            accuracy = [float(row[column]) for row in rows]
            curves.setdefault(title, {})[source] = Curve(thresholds, accuracy)
    return curves


def _row(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of the numbers by class: texts, counts and shares."""
    if None in row or None in row.values():
        raise ValueError("a line has more or fewer fields than the first")
    texts = ("kind", "taken for")
    numbers = {
        name: int(value) if name == "images" else float(value)
        for name, value in row.items()
        if name not in texts and value
    }
    return {"kind": row["kind"], **numbers, **{name: row[name] for name in texts if name in row}}


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
