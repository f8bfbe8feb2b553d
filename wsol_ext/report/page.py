"""The report: one HTML file that needs nothing beside it. What it looks like is in `page.html` and `page.css`."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from wsol_ext._files import write_text
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.evaluation import CENTER, PROTOCOLS, Evaluation, Example, ProtocolResult
from wsol_ext.evaluation.breakdown import shown_columns
from wsol_ext.evaluation.results import ORACLE
from wsol_ext.metrics import OUTCOMES, TopLoc
from wsol_ext.report import drawing
from wsol_ext.report.figures import curve_figure, figure_svg, loss_figure

__all__ = ["jpeg", "render", "write_report"]

_OUTCOME_TEXTS = {
    "right": "The class is right and the box has IoU > 0.5.",
    "class_wrong": "Another class was predicted; the map and the box are the true class's.",
    "multi_instance": "The class is right; one box covers several objects.",
    "part": "The class is right; the box lies mostly inside of the object's.",
    "more": "The class is right; the box holds the object and too much around it.",
    "other": "The class is right; the box lies elsewhere.",
}
_CLASSES = 8  # shown of the worst, and of the best


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    dataset: LocalizationDataset | None = None,
    *,
    title: str = "Weakly supervised localization",
    history: Sequence[Mapping[str, float]] = (),
    config: Mapping[str, Any] | None = None,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write a self-contained HTML page about an evaluation.

    Args:
        path: the file, written whole or not at all.
        evaluation: what `wsol_ext.evaluation.evaluate` found, with examples if a gallery is wanted.
        dataset: the data set the examples' pictures are read from.
        title: the page's title.
        history: a row an epoch, for the loss curve.
        config: options to list.
        origin: when and by what the evaluation was made, to list.

    Raises:
        OSError: the file cannot be written.
    """
    about = {"method": evaluation.method, **evaluation.about, "images": f"{evaluation.images:,}"}
    if evaluation.chosen is not None:
        about["thresholds from"] = str(evaluation.chosen)
    page = render(
        "page.html",
        title=title,
        about=about,
        method=evaluation.method,
        center=CENTER,
        gap=evaluation.threshold_gap(),
        tiles=_tiles(evaluation),
        tables=[
            {
                "title": result.title,
                "columns": list(result.beside(evaluation.method)),
                "rows": _rows(result, evaluation.method),
            }
            for result in evaluation.protocols
        ],
        intervals=any(result.intervals for result in evaluation.protocols),
        parts=_parts(evaluation),
        by_object=_by_kind(evaluation.by_object),
        by_class=_worst_and_best(evaluation.by_class),
        curves=_curves(evaluation),
        gallery=[] if dataset is None else _gallery(evaluation.examples, dataset),
        training=_figure(loss_figure(history)) if history else None,
        config=config,
        origin=origin,
        warning=evaluation.below_baseline(),
    )
    write_text(path, page + "\n")


def render(template: str, **values: Any) -> str:
    """A page of this folder, what it is given escaped."""
    pages = Environment(
        loader=PackageLoader("wsol_ext.report", "."),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    return pages.get_template(template).render(**values)


def _tiles(evaluation: Evaluation) -> list[dict[str, str]]:
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
            interval = result.interval(evaluation.method, number).strip(" []")
            tiles.append(
                {
                    "label": label if number == result.name else f"{label}, {result.name}",
                    "value": _percent(value),
                    "interval": interval.replace(", ", " to "),
                    "beside": ", ".join(
                        f"{name} {_percent(share)}"
                        for name, share in beside.items()
                        if share is not None
                    ),
                }
            )
    return tiles


def _rows(result: ProtocolResult, method: str) -> list[dict[str, Any]]:
    """All of a protocol's numbers, of the method and what stands beside it."""
    columns = result.beside(method)
    rows = []
    for name in result.metrics[method]:
        show = _percent if result.is_share(name) else _number
        cells = [
            show(numbers[name]) + result.interval(source, name) if name in numbers else ""
            for source, numbers in columns.items()
        ]
        row = {
            "title": result.label(name),
            "cells": cells,
            "minor": name in OUTCOMES or not result.is_share(name),
        }
        rows.append(row)
    return rows


def _parts(evaluation: Evaluation) -> dict[str, Any] | None:
    if not evaluation.parts:
        return None
    names, by_source = evaluation.comparison()
    rows = [
        {"title": source, "cells": ["" if v is None else _percent(v) for v in values]}
        for source, values in by_source.items()
    ]
    return {"names": names, "rows": rows}


def _by_kind(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A table of rows of `wsol_ext.evaluation.breakdown`."""
    if not rows:
        return None
    names = [name for name in shown_columns(rows) if name != "kind"]
    shown = [{"title": row["kind"], "cells": [_cell(row[name]) for name in names]} for row in rows]
    return {"names": names, "rows": shown}


def _worst_and_best(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables of the classes whose numbers are lowest and highest by their first one; all in one where they are few."""
    numbers = [name for name in shown_columns(rows) if isinstance(rows[0][name], float)]
    if not numbers:
        return {}
    number = numbers[0]
    ordered = sorted(rows, key=lambda row: (row[number], row["kind"]))
    if len(rows) <= 2 * _CLASSES:
        return {f"All classes by {number}": _by_kind(ordered)}
    return {
        f"Lowest {number}": _by_kind(ordered[:_CLASSES]),
        f"Highest {number}": _by_kind(ordered[: -_CLASSES - 1 : -1]),
    }


def _cell(value: Any) -> str:
    return _percent(value) if isinstance(value, float) else str(value)


def _curves(evaluation: Evaluation) -> dict[str, str]:
    """For each curve its title, and a figure of it for all sources."""
    figures = {}
    for result in evaluation.protocols:
        for iou, by_source in result.curves.items():
            title = f"{result.name}, {iou}"
            figures[title] = _figure(curve_figure(by_source, title))
    return figures


def _gallery(examples: Sequence[Example], dataset: LocalizationDataset) -> list[dict[str, Any]]:
    return [
        {
            "title": TopLoc.labels[outcome].capitalize(),
            "text": _OUTCOME_TEXTS[outcome],
            "cards": [_card(example, dataset) for example in group],
        }
        for outcome in OUTCOMES
        if (group := [example for example in examples if example.outcome == outcome])
    ]


def _card(example: Example, dataset: LocalizationDataset) -> dict[str, str]:
    original = dataset.load_image(example.index)
    size = dataset.original_size(example.index, original)
    image = drawing.fit(original, 240, 320)
    heat = drawing.overlay(image, example.score_map)
    for boxes, colour in ((example.gt_boxes, drawing.GREEN), (example.box[None], drawing.RED)):
        image = drawing.draw_boxes(image, boxes, colour, size)
        heat = drawing.draw_boxes(heat, boxes, colour, size)
    right = example.predicted == example.label
    return {
        "image": jpeg(image),
        "heat": jpeg(heat),
        "name": dataset.image_names[example.index],
        "true": dataset.class_names[example.label],
        "taken_for": "" if right else dataset.class_names[example.predicted],
        "probability": _percent(example.probability),
        "iou": f"{example.iou:.2f}",
    }


def jpeg(image: Image.Image) -> str:
    """An image as a page holds it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return _embedded(file.getvalue(), "jpeg")


def _figure(figure: Figure) -> str:
    return _embedded(figure_svg(figure).encode(), "svg+xml")


def _embedded(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _number(value: float) -> str:
    return f"{value:.3g}"
