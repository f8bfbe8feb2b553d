"""Curves, drawn without a display."""

import io
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wsol_ext._files import atomic_path
from wsol_ext.evaluation import CENTER
from wsol_ext.metrics import Curve

__all__ = ["SERIES", "curve_figure", "figure_svg", "loss_figure", "save_figure"]

INK, GREY, LINE = "#1f2933", "#9aa5b1", "#e4e7eb"
_ON_DARK = {INK: "#e4e7eb", LINE: "#323f4b"}
SERIES = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed")


def _axes(width: float = 6.0, height: float = 3.4) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def loss_figure(rows: Sequence[Mapping[str, float]]) -> Figure:
    """The training loss by epoch, and the accuracy beside it where the rows have one.

    Args:
        rows: a mapping an epoch, with `loss` and possibly `accuracy`, `test_accuracy`, and `stage` where training had
            several: they follow each other, a line between them.
    """
    figure, axes = _axes()
    _plot_stages(axes, rows, "loss", color=SERIES[0])
    axes.set_xlabel("epoch", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("training loss", color=SERIES[0])
    axes.set_ylim(bottom=0)
    for number, (before, after) in enumerate(pairwise(rows), start=1):
        if before.get("stage") != after.get("stage"):
            axes.axvline(number + 0.5, color=GREY, linestyle="--", linewidth=1)
            label = f" stage {after['stage']:.0f}"
            axes.text(number + 0.5, 1, label, transform=axes.get_xaxis_transform(), color=INK)
    shown = [n for n in ("accuracy", "test_accuracy") if any(n in row for row in rows)]
    if shown:
        right = axes.twinx()
        for name, colour in zip(shown, SERIES[1:], strict=False):
            label = "training accuracy" if name == "accuracy" else "test accuracy"
            _plot_stages(right, rows, name, color=colour, label=label)
        right.set_ylabel("accuracy (%)", color=SERIES[1])
        right.set_ylim(0, 101)
        right.spines["top"].set_visible(False)
        right.spines[["left", "bottom", "right"]].set_color(GREY)
        right.tick_params(colors=INK, labelsize=9)
        if len(shown) > 1:
            right.legend(frameon=False, labelcolor=INK, fontsize=9, loc="center right")
    return figure


def _plot_stages(axes: Any, rows: Sequence[Mapping[str, float]], name: str, **style: Any) -> None:
    """Draw a line for each stage through the rows that have `name`, accuracies in percent."""
    scale = 1 if name == "loss" else 100
    marker = "o" if len(rows) < 25 else None
    numbered = [(number, row) for number, row in enumerate(rows, start=1) if name in row]
    for _, stage in groupby(numbered, key=lambda point: point[1].get("stage")):
        points = [(number, scale * row[name]) for number, row in stage]
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, **style)
        style.pop("label", None)  # once is enough for the legend


def curve_figure(curves: Mapping[str, Curve], title: str) -> Figure:
    """Localization accuracy over the map's threshold, a line for each source, the baseline grey and dashed."""
    figure, axes = _axes()
    colours = iter(SERIES * 4)
    for name, curve in curves.items():
        baseline = name == CENTER
        colour = GREY if baseline else next(colours)
        style = "--" if baseline else "-"
        percent = [100 * share for share in curve.accuracy]
        axes.plot(curve.thresholds, percent, style, color=colour, label=name)
        if not baseline:
            best = max(range(len(percent)), key=percent.__getitem__)
            axes.plot(curve.thresholds[best], percent[best], "o", color=colour, markersize=5)
    axes.set_xlabel("threshold on the score map", color=INK)
    axes.set_ylabel("correct boxes (%)", color=INK)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 101)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def figure_svg(figure: Figure) -> str:
    """A figure as SVG without a ground, whose text and lines are light where its reader's screen is dark."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    light, dark = [], []
    for number, (colour, on_dark) in enumerate(_ON_DARK.items()):
        svg = svg.replace(colour, f"var(--c{number})")
        light.append(f"--c{number}:{colour}")
        dark.append(f"--c{number}:{on_dark}")
    style = (
        f"<style>svg{{{';'.join(light)}}}"
        f"@media (prefers-color-scheme: dark){{svg{{{';'.join(dark)}}}}}</style>"
    )
    opening = svg.index(">", svg.index("<svg")) + 1
    return svg[:opening] + style + svg[opening:]
