"""The report: one HTML file that needs nothing beside it, about one evaluated run or several.

What it looks like is in `page.html` and `page.css`; `page.js` sorts and filters the gallery, all of which is shown
without it.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from wsol_ext._files import write_text
from wsol_ext._names import printable
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.evaluation import CENTER, PROTOCOLS, Evaluation, ProtocolResult
from wsol_ext.evaluation.breakdown import shown_columns
from wsol_ext.evaluation.comparison import Comparison
from wsol_ext.evaluation.results import ORACLE
from wsol_ext.evaluation.runs import Run
from wsol_ext.metrics import OUTCOMES
from wsol_ext.report.charts import Chart, curve_chart, training_charts
from wsol_ext.report.comparison import cells_of
from wsol_ext.report.gallery import Gallery, make_gallery

__all__ = ["write_report"]

_CLASSES = 8  # shown of the worst, and of the best


@dataclass(frozen=True)
class _Table:
    """A table: `rows` have a `title`, `cells`, and `minor`, whether they matter less."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]


def write_report(
    path: str | Path,
    runs: Sequence[Run],
    dataset: LocalizationDataset | None = None,
    *,
    comparison: Comparison | None = None,
    no_comparison: str = "",
    pictures: int = 200,
    made_by: Mapping[str, str] | None = None,
) -> None:
    """Write a self-contained HTML page about one evaluated run, or several beside each other.

    Args:
        path: the file, written whole or not at all.
        runs: what `wsol evaluate` left of each, as `read_run` gives it.
        dataset: the first run's, whose pictures are shown; None: their boxes alone are.
        comparison: of the two runs, whose differences are tested.
        no_comparison: why two runs have none: the page says so, and pairs no pictures.
        pictures: how many to show in the gallery.
        made_by: the command that makes the page, and when, to list.

    Raises:
        ValueError: the data set has other images, or a file of a run is damaged.
        OSError: the file cannot be written.
    """
    origins = [_origin(run) for run in runs]
    runs = [
        replace(run, name=name)
        for run, name in zip(runs, _short_names([run.name for run in runs]), strict=True)
    ]
    several = len(runs) > 1
    evaluations = [run.evaluation for run in runs]
    evaluation = evaluations[0]
    script = resources.files("wsol_ext.report").joinpath("page.js").read_text(encoding="utf-8")
    gallery = Gallery() if no_comparison else make_gallery(runs, dataset, pictures)
    page = _render(
        title=_title(runs),
        about=_about(runs),
        names=[run.name for run in runs],
        several=several,
        center=CENTER,
        gap=None if several else evaluation.threshold_gap(),
        tiles=[] if several else _tiles(evaluation),
        headlines=_headlines(runs) if several else None,
        comparison=comparison,
        differences=_differences(comparison, runs),
        tables=_side_by_side(runs) if several else _tables(evaluation),
        intervals=any(result.intervals for each in evaluations for result in each.protocols),
        parts=None if several else _parts(evaluation),
        by_object=_by_object(runs),
        by_class=_by_class(runs),
        curves=_curves(runs),
        gallery=gallery,
        training=_training(runs),
        config=_beside([run.config for run in runs]),
        origin=_beside(origins),
        made_by=made_by or {},
        warnings=[*_warnings(runs), *([f"No test: {no_comparison}"] if no_comparison else [])],
        script=Markup(script),
        # Only this script may run, and nothing may be asked of any network, whatever the page is about.
        script_hash=base64.b64encode(sha256(script.encode()).digest()).decode(),
    )
    write_text(path, page + "\n")


def _render(**values: Any) -> str:
    """The page, what it is given escaped."""
    pages = Environment(
        loader=PackageLoader("wsol_ext.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pages.filters |= {
        "box_path": _box_path,
        "breakable": _breakable,
        "with_quiet_interval": _with_quiet_interval,
        "with_quiet_settings": _with_quiet_settings,
    }
    return pages.get_template("page.html").render(**values)


def _box_path(boxes: Iterable[Sequence[float]]) -> str:
    """Boxes as the data of an SVG path."""
    return "".join(f"M{x0:.6g} {y0:.6g}H{x1:.6g}V{y1:.6g}H{x0:.6g}Z" for x0, y0, x1, y1 in boxes)


def _breakable(name: str) -> Markup:
    """A name that is broken into lines behind its separators, if need be."""
    return Markup("<wbr>").join(map(escape, re.split(r"(?<=[_/\\-])", name)))


def _with_quiet_interval(cell: str) -> Markup:
    """A number whose interval, in brackets behind it, is small."""
    number, bracket, rest = cell.partition(" [")
    if not bracket:
        return escape(cell)
    return Markup("{} <small>[{}</small>").format(number, rest)


def _with_quiet_settings(title: str) -> Markup:
    """A protocol whose settings, in brackets behind its name, are small."""
    name, bracket, settings = title.partition(" (")
    if not bracket:
        return escape(title)
    return Markup("{} <small>({}</small>").format(name, settings)


def _short_names(names: Sequence[str]) -> list[str]:
    """Names without the folders that all have, first and last; each another one."""
    parts = [Path(name).parts for name in names]
    while len(set(names)) > 1 and all(len(each) > 1 for each in parts):
        if len({each[-1] for each in parts}) == 1:
            parts = [each[:-1] for each in parts]
        elif len({each[0] for each in parts}) == 1:
            parts = [each[1:] for each in parts]
        else:
            break
    found: list[str] = []
    for each in parts if len(names) > 1 else []:
        name, count = str(Path(*each)), 2
        while name in found:
            name, count = f"{Path(*each)} ({count})", count + 1
        found.append(name)
    return found or list(names)


def _warnings(runs: Sequence[Run]) -> list[str]:
    """What runs are below the baseline in."""
    said = [(run.name, text) for run in runs if (text := run.evaluation.below_baseline())]
    return [f"{name}: {text}" if len(runs) > 1 else text for name, text in said]


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        evaluation = runs[0].evaluation
        data = evaluation.about.get("data")
        return printable(f"{evaluation.method} on {data}" if data else evaluation.method)
    if len(runs) == 2:
        return f"{runs[1].name} against {runs[0].name}"
    return f"{len(runs)} runs"


def _about(runs: Sequence[Run]) -> dict[str, str]:
    """What all runs have in common of what a reader should know."""
    known = [
        {"method": each.method, **each.about_dict(), "images": f"{each.images:,}"}
        for each in (run.evaluation for run in runs)
    ]
    same = {name for name in known[0] if all(each.get(name) == known[0][name] for each in known)}
    return {name: printable(str(value)) for name, value in known[0].items() if name in same}


def _tiles(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The numbers that stand for each protocol, the baseline's under the method's."""
    tiles = []
    for result in evaluation.protocols:
        for number in PROTOCOLS[result.name].headlines:
            value = result.metrics[evaluation.method].get(number)
            if value is None:
                continue
            label = result.label(number)
            columns = result.beside(evaluation.method)
            beside = {name: columns.get(name, {}).get(number) for name in (ORACLE, CENTER)}
            bounds = result.intervals.get(evaluation.method, {}).get(number)
            shown = {name: _percent(share) for name, share in beside.items() if share is not None}
            tiles.append(
                {
                    "label": label if number == result.name else f"{label}, {result.name}",
                    "value": _percent(value),
                    "share": value,
                    "interval": bounds and f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}",
                    "bounds": bounds,
                    "center": beside[CENTER],
                    "beside": ", ".join(f"{name} {share}" for name, share in shown.items()),
                }
            )
    return tiles


def _headlines(runs: Sequence[Run]) -> _Table:
    """A row a run of the numbers that stand for each protocol, the baseline's row in the end."""
    columns: dict[tuple[str, str], str] = {}
    for run in runs:
        for result in run.evaluation.protocols:
            kind = PROTOCOLS[result.name]
            for number in kind.headlines:
                label = result.label(number)
                title = label if number == result.name else f"{label}, {result.name}"
                columns[result.name, number] = title
    sources = [(run.name, run.evaluation, run.evaluation.method) for run in runs]
    sources += [(title, run.evaluation, CENTER) for title, run in _baselines(runs)]
    rows = []
    for title, evaluation, source in sources:
        results = {result.name: result for result in evaluation.protocols}
        cells = [_cell_of(results.get(name), source, number) for name, number in columns]
        rows.append({"title": title, "cells": cells})
    return _without_empty_columns(_Table("", rows, list(columns.values())))


def _baselines(runs: Sequence[Run], protocol: str | None = None) -> list[tuple[str, Run]]:
    """Titles and runs of the baselines to show, of one protocol or of all: one, or each run's where they differ."""
    by_protocol: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        for result in run.evaluation.protocols:
            if protocol in (None, result.name):
                by_protocol.setdefault(result.name, []).append(result.metrics[CENTER])
    if all(each == found[0] for found in by_protocol.values() for each in found):
        return [(CENTER, max(runs, key=lambda run: len(run.evaluation.protocols)))]
    return [(f"{CENTER} of {run.name}", run) for run in runs]


def _cell_of(result: ProtocolResult | None, source: str, number: str) -> str:
    """A number and its interval; "" where there is none."""
    value = None if result is None else result.metrics.get(source, {}).get(number)
    if result is None or value is None:
        return ""
    show = _percent if result.is_share(number) else _number
    return show(value) + result.interval(source, number)


def _tables(evaluation: Evaluation) -> list[_Table]:
    """All numbers of each protocol, of the method and what stands beside it."""
    tables = []
    for result in evaluation.protocols:
        columns = result.beside(evaluation.method)
        rows = []
        for name in result.metrics[evaluation.method]:
            show = _percent if result.is_share(name) else _number
            cells = [
                show(numbers[name]) + result.interval(source, name) if name in numbers else ""
                for source, numbers in columns.items()
            ]
            rows.append({"title": result.label(name), "cells": cells, "minor": _is_minor(name)})
        tables.append(_Table(result.title, rows, list(columns)))
    return tables


def _side_by_side(runs: Sequence[Run]) -> list[_Table]:
    """All numbers of each protocol, a column a run and one for the baseline."""
    tables = []
    by_name = [{result.name: result for result in run.evaluation.protocols} for run in runs]
    for name in dict.fromkeys(name for results in by_name for name in results):
        known = [results.get(name) for results in by_name]
        sources = [run.evaluation.method for run in runs]
        having = [result for result in known if result is not None]
        numbers = dict.fromkeys(
            number
            for result, source in zip(known, sources, strict=True)
            if result is not None
            for number in result.metrics[source]
        )
        with_it = [run for run, result in zip(runs, known, strict=True) if result is not None]
        baselines = [
            (title, next(each for each in run.evaluation.protocols if each.name == name))
            for title, run in _baselines(with_it, name)
        ]
        columns = [
            *zip(known, sources, strict=True),
            *((result, CENTER) for _, result in baselines),
        ]
        rows = [
            {
                "title": having[0].label(number),
                "cells": [_cell_of(result, source, number) for result, source in columns],
                "minor": _is_minor(number),
            }
            for number in numbers
        ]
        title = " | ".join(dict.fromkeys(result.title for result in having))
        names = [*(run.name for run in runs), *(each for each, _ in baselines)]
        tables.append(_Table(title, rows, names))
    return tables


def _is_minor(number: str) -> bool:
    return number in OUTCOMES or not ProtocolResult.is_share(number)


def _differences(comparison: Comparison | None, runs: Sequence[Run]) -> list[_Table]:
    if comparison is None:
        return []
    columns = [*(run.name for run in runs), "difference", "p", "McNemar"]
    by_protocol: dict[str, list[dict[str, Any]]] = {}
    for each in comparison.differences:
        labels = PROTOCOLS[each.protocol.partition(" ")[0]].labels
        title = labels.get(each.number, each.number)
        row = {"title": title, "cells": cells_of(each), "minor": each.number in OUTCOMES}
        by_protocol.setdefault(each.protocol, []).append(row)
    return [_without_empty_columns(_Table(*each, columns=columns)) for each in by_protocol.items()]


def _without_empty_columns(table: _Table) -> _Table:
    shown = [k for k in range(len(table.columns)) if any(row["cells"][k] for row in table.rows)]
    rows = [{**row, "cells": [row["cells"][k] for k in shown]} for row in table.rows]
    return _Table(table.title, rows, [table.columns[k] for k in shown])


def _parts(evaluation: Evaluation) -> _Table | None:
    if not evaluation.parts:
        return None
    names, by_source = evaluation.comparison()
    rows = [
        {"title": source, "cells": ["" if v is None else _percent(v) for v in values]}
        for source, values in by_source.items()
    ]
    return _Table("", rows, names)


def _by_object(runs: Sequence[Run]) -> _Table | None:
    """The numbers by size and shape of objects; of several runs the first number of each."""
    if len(runs) == 1:
        return _by_kind("", runs[0].evaluation.by_object)
    by_run = [_first_number(run.evaluation.by_object) for run in runs]
    if not by_run[0][0] or len({number for number, _ in by_run}) > 1:
        return None
    kinds = [kind for kind in by_run[0][1] if all(kind in values for _, values in by_run)]
    rows = [
        {"title": kind, "cells": [_percent(values[kind]) for _, values in by_run]} for kind in kinds
    ]
    return _Table(by_run[0][0], rows, [run.name for run in runs])


def _by_class(runs: Sequence[Run]) -> list[_Table]:
    """The classes whose numbers are lowest and highest; of two runs those where the first number differs most."""
    if len(runs) == 1:
        return _worst_and_best(runs[0].evaluation.by_class)
    by_run = [_first_number(run.evaluation.by_class) for run in runs]
    if len(runs) > 2 or not by_run[0][0] or by_run[0][0] != by_run[1][0]:
        return []
    (number, first), (_, second) = by_run
    change = {kind: second[kind] - first[kind] for kind in first if kind in second}
    ordered = sorted(change, key=lambda kind: (-change[kind], kind))
    better = [kind for kind in ordered if change[kind] > 0][:_CLASSES]
    worse = [kind for kind in reversed(ordered) if change[kind] < 0][:_CLASSES]
    columns = [runs[0].name, runs[1].name, "difference"]

    def table(title: str, kinds: Sequence[str]) -> _Table:
        rows = []
        for kind in kinds:
            cells = [_percent(first[kind]), _percent(second[kind]), f"{100 * change[kind]:+.1f}"]
            rows.append({"title": kind, "cells": cells})
        return _Table(title, rows, columns)

    found = {
        f"{number}, better in {runs[1].name}": better,
        f"{number}, better in {runs[0].name}": worse,
    }
    return [table(title, kinds) for title, kinds in found.items() if kinds]


def _first_number(rows: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, float]]:
    """The first number that `shown_columns` gives, by kind, and its name; nothing and "" where there is none."""
    if not rows:
        return "", {}
    numbers = [name for name in shown_columns(rows) if isinstance(rows[0][name], float)]
    if not numbers:
        return "", {}
    return numbers[0], {row["kind"]: row[numbers[0]] for row in rows if numbers[0] in row}


def _by_kind(title: str, rows: Sequence[Mapping[str, Any]]) -> _Table | None:
    """A table of rows of `wsol_ext.evaluation.breakdown`."""
    if not rows:
        return None
    names = [name for name in shown_columns(rows) if name != "kind"]
    shown = [
        {"title": row["kind"], "cells": [_cell(row.get(name, "")) for name in names]}
        for row in rows
    ]
    return _Table(title, shown, names)


def _worst_and_best(rows: Sequence[Mapping[str, Any]]) -> list[_Table]:
    """Tables of the classes whose numbers are lowest and highest by their first one; all in one where they are few."""
    number, _ = _first_number(rows)
    if not number:
        return []
    having = [row for row in rows if number in row]
    ordered = sorted(having, key=lambda row: (row[number], row["kind"]))
    if len(ordered) <= 2 * _CLASSES:
        found = {f"All classes by {number}": ordered}
    else:
        found = {
            f"Lowest {number}": ordered[:_CLASSES],
            f"Highest {number}": ordered[: -_CLASSES - 1 : -1],
        }
    return [table for title, of in found.items() if (table := _by_kind(title, of)) is not None]


def _cell(value: Any) -> str:
    return _percent(value) if isinstance(value, float) else str(value)


def _curves(runs: Sequence[Run]) -> list[Chart]:
    """A chart for each protocol and IoU: of all sources of one run, or of the runs and one baseline."""
    charts: dict[str, dict[str, Any]] = {}
    for run in runs:
        evaluation = run.evaluation
        for result in evaluation.protocols:
            for iou, by_source in result.curves.items():
                curves = charts.setdefault(f"{result.name}, {iou}", {})
                if len(runs) == 1:
                    curves |= _method_first(by_source, evaluation.method)
                elif evaluation.method in by_source:
                    curves[run.name] = by_source[evaluation.method]
                if CENTER in by_source:
                    curves.setdefault(CENTER, by_source[CENTER])
    return [
        curve_chart(title, {**{k: v for k, v in curves.items() if k != CENTER}, **curves})
        for title, curves in charts.items()
    ]


def _method_first(by_source: Mapping[str, Any], method: str) -> dict[str, Any]:
    own = {method: by_source[method]} if method in by_source else {}
    return own | dict(by_source)


def _training(runs: Sequence[Run]) -> list[Chart]:
    charts = []
    for run in runs:
        for chart in training_charts(run.history) if run.history else []:
            title = f"{run.name}: {chart.title}" if len(runs) > 1 else chart.title
            charts.append(Chart(**{**vars(chart), "title": title}))
    return charts


def _origin(run: Run) -> dict[str, str]:
    """Where a run's numbers come from: when, how long, by what."""
    versions = run.origin.get("versions")
    shown: dict[str, Any] = {"results": run.name}
    shown |= {name: run.origin.get(name) for name in ("command", "date", "duration")}
    shown |= versions if isinstance(versions, dict) else {}
    return {name: printable(str(value)) for name, value in shown.items() if value is not None}


def _beside(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Values by name, one of each column."""
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [printable(str(column.get(name, ""))) for column in columns] for name in names}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _number(value: float) -> str:
    return f"{value:.3g}"
