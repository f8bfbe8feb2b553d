"""The curve that training leaves beside a run, drawn without a display."""

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wsol_ext._files import atomic_path

__all__ = ["loss_figure", "save_figure"]

INK, GREY, LINE = "#1f2933", "#9aa5b1", "#e4e7eb"
_SERIES = ("#2563eb", "#d97706", "#059669")


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
    _plot_stages(axes, rows, "loss", color=_SERIES[0])
    axes.set_xlabel("epoch", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("training loss", color=_SERIES[0])
    axes.set_ylim(bottom=0)
    for number, (before, after) in enumerate(pairwise(rows), start=1):
        if before.get("stage") != after.get("stage"):
            axes.axvline(number + 0.5, color=GREY, linestyle="--", linewidth=1)
            label = f" stage {after['stage']:.0f}"
            axes.text(number + 0.5, 1, label, transform=axes.get_xaxis_transform(), color=INK)
    shown = [n for n in ("accuracy", "test_accuracy") if any(n in row for row in rows)]
    if shown:
        right = axes.twinx()
        for name, colour in zip(shown, _SERIES[1:], strict=False):
            label = "training accuracy" if name == "accuracy" else "test accuracy"
            _plot_stages(right, rows, name, color=colour, label=label)
        right.set_ylabel("accuracy (%)", color=_SERIES[1])
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


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
