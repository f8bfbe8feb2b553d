"""The report: one HTML file that needs nothing beside it."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from wsol_ext._files import write_text
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.evaluation.loop import Example
from wsol_ext.evaluation.results import CENTER, Evaluation, ProtocolResult
from wsol_ext.report import drawing
from wsol_ext.report.figures import curve_figure, loss_figure

_LABELS = {
    "maxboxacc": "MaxBoxAcc",
    "maxboxaccv2": "MaxBoxAccV2",
    "pxap": "PxAP",
    "gt_known": "GT-known localization",
    "loc_top1": "Top-1 localization",
    "loc_top5": "Top-5 localization",
    "cls_top1": "Top-1 classification",
    "cls_top5": "Top-5 classification",
    "right": "right",
    "class_wrong": "wrong class",
    "multi_instance": "several objects in one box",
    "part": "part of the object only",
    "more": "object and much more",
    "other": "elsewhere",
}
_HEADLINES = ("gt_known", "loc_top1", "cls_top1", "maxboxaccv2", "maxboxacc", "pxap")
_OUTCOME_TEXTS = {
    "right": "The class is right and the box has IoU > 0.5.",
    "class_wrong": "Another class was predicted; the map and the box are the true class's.",
    "multi_instance": "The class is right; one box covers several objects.",
    "part": "The class is right; the box lies mostly inside of the object's.",
    "more": "The class is right; the box holds the object and too much around it.",
    "other": "The class is right; the box lies elsewhere.",
}


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    dataset: LocalizationDataset | None = None,
    *,
    title: str = "Weakly supervised localization",
    history: Sequence[Mapping[str, float]] = (),
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write a self-contained HTML page about an evaluation.

    Args:
        path: the file, written whole or not at all.
        evaluation: what `wsol_ext.evaluation.evaluate` found, with examples if a gallery is wanted.
        dataset: the data set the examples' pictures are read from.
        title: the page's title.
        history: a row an epoch, for the loss curve.
        config: options to list.

    Raises:
        OSError: the file cannot be written.
    """
    sections = [_summary(evaluation), _tables(evaluation), _parts(evaluation), _curves(evaluation)]
    if dataset is not None and evaluation.examples:
        sections.append(_gallery(evaluation.examples, dataset))
    if history:
        sections.append(
            _section("Training", _figure(loss_figure(history), "training loss by epoch"))
        )
    if config:
        sections.append(_configuration(config))
    style = files("wsol_ext.report").joinpath("page.css").read_text(encoding="utf-8")
    write_text(path, _page(title, _lead(evaluation), style, "\n".join(filter(None, sections))))


def _page(title: str, lead: str, style: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{html.escape(title)}</h1>
<p class="lead">{lead}</p>
</header>
{body}
</main>
</body>
</html>
"""


def _lead(evaluation: Evaluation) -> str:
    about = {"method": evaluation.method, **evaluation.about}
    words = [f"<b>{html.escape(str(k))}</b> {html.escape(str(v))}" for k, v in about.items()]
    return " &ensp; ".join([*words, f"<b>images</b> {evaluation.images:,}"])


def _section(title: str, body: str, note: str = "") -> str:
    note = f'<p class="note">{note}</p>' if note else ""
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{note}{body}\n</section>"


def _summary(evaluation: Evaluation) -> str:
    tiles = []
    for name in _HEADLINES:
        for result in evaluation.protocols:
            value = result.metrics[evaluation.method].get(name)
            if value is None:
                continue
            baseline = result.metrics[CENTER].get(name)
            beside = f"{CENTER} {_percent(baseline)}" if baseline is not None else "&nbsp;"
            label = _LABELS[name] if name == result.name else f"{_LABELS[name]}, {result.name}"
            tiles.append(
                f'<div class="tile"><span>{label}</span><strong>{_percent(value)}</strong>'
                f"<small>{beside}</small></div>"
            )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tables(evaluation: Evaluation) -> str:
    tables = "\n".join(_table(result, evaluation.method) for result in evaluation.protocols)
    return _section(
        "Metrics",
        tables,
        "Numbers of different protocols, intervals and thresholds are not comparable. The center baseline is a "
        "centred Gaussian as every image's map, no model at all, cut where that is best for it (in sat: at the best of "
        "its four thresholds).",
    )


def _table(result: ProtocolResult, method: str) -> str:
    rows = []
    for name, value in result.metrics[method].items():
        threshold = name.startswith("best threshold")
        show = _number if threshold else _percent
        baseline = result.metrics[CENTER].get(name)
        other = "" if baseline is None else show(baseline)
        kind = ' class="minor"' if threshold or name in _OUTCOME_TEXTS else ""
        rows.append(
            f"<tr{kind}><th>{html.escape(_LABELS.get(name, name))}</th>"
            f"<td>{show(value)}</td><td>{other}</td></tr>"
        )
    return (
        f"<table><caption>{html.escape(result.title)}</caption>"
        f"<thead><tr><th></th><th>{html.escape(method)}</th><th>{CENTER}</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _parts(evaluation: Evaluation) -> str:
    if not evaluation.parts:
        return ""
    names, by_source = evaluation.comparison()
    header = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = []
    for source, values in by_source.items():
        cells = "".join(f"<td>{'' if v is None else _percent(v)}</td>" for v in values)
        rows.append(f"<tr><th>{html.escape(source)}</th>{cells}</tr>")
    return _section(
        "Part by part",
        f"<table><thead><tr><th></th>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>",
        "Each part alone, by its own class scores and maps, then the whole.",
    )


def _curves(evaluation: Evaluation) -> str:
    figures = []
    for result in evaluation.protocols:
        for title, curve in result.curves.items():
            text = f"{result.title}, {title}"
            figures.append(_figure(curve_figure(curve.thresholds, curve.accuracy, text), text))
    if not figures:
        return ""
    return _section("Accuracy over the threshold", f'<div class="figures">{"".join(figures)}</div>')


def _gallery(examples: Sequence[Example], dataset: LocalizationDataset) -> str:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.outcome, []).append(example)
    parts = []
    for outcome, group in groups.items():
        cards = "".join(_card(example, dataset) for example in group)
        parts.append(
            f"<h3>{_LABELS[outcome].capitalize()}</h3>"
            f'<p class="note">{_OUTCOME_TEXTS[outcome]}</p><div class="gallery">{cards}</div>'
        )
    return _section(
        "Examples by outcome",
        "\n".join(parts),
        'Image and heat map. Boxes: <span class="truth">ground truth</span>, '
        '<span class="predicted">predicted</span>.',
    )


def _card(example: Example, dataset: LocalizationDataset) -> str:
    original = dataset.load_image(example.index)
    size = dataset.original_size(example.index, original)
    image = drawing.fit(original, 240, 320)
    heat = drawing.overlay(image, example.score_map)
    for boxes, colour in ((example.gt_boxes, drawing.GREEN), (example.box[None], drawing.RED)):
        image = drawing.draw_boxes(image, boxes, colour, size)
        heat = drawing.draw_boxes(heat, boxes, colour, size)
    true, predicted = dataset.class_names[example.label], dataset.class_names[example.predicted]
    name = html.escape(dataset.image_names[example.index])
    verdict = html.escape(true)
    if true != predicted:
        verdict = (
            f'{html.escape(true)} <span class="wrong">taken for {html.escape(predicted)}</span>'
        )
    return (
        f'<figure class="card"><div>{_picture(image, f"{name}: image")}'
        f"{_picture(heat, f'{name}: heat map')}</div>"
        f"<figcaption><b>{verdict}</b> {_percent(example.probability)}<br><small>{name}</small>"
        "</figcaption></figure>"
    )


def _configuration(config: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in config.items()
    )
    return _section("Configuration", f'<table class="config"><tbody>{rows}</tbody></table>')


def _picture(image: Image.Image, text: str) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return _embedded(file.getvalue(), "jpeg", text)


def _figure(figure: Figure, text: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return f'<div class="figure">{_embedded(file.getvalue(), "svg+xml", html.escape(text))}</div>'


def _embedded(data: bytes, kind: str, text: str) -> str:
    return f'<img alt="{text}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _number(value: float) -> str:
    return f"{value:.3g}"
