"""Line charts as SVG within a page: they take its colours, by day and by night, and its width."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from markupsafe import Markup

from wsol_ext.evaluation import CENTER, Curve

__all__ = ["SERIES", "Chart", "Line", "curve_chart", "training_charts"]

SERIES = 5
"""How many colours the page has: classes `s0` to `s4`. The baseline's is `base`."""
_WIDTH, _HEIGHT = 420, 264
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 40
_Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: in the legend.
        style: `s0` to `s4`, or `base`.
        pieces: of points, which are joined within each.
        best: a point to mark, and what the legend says of it.
    """

    name: str
    style: str
    pieces: Sequence[Sequence[_Point]]
    best: tuple[_Point, str] | None = None


@dataclass(frozen=True)
class Chart:
    """A chart; its legend is a list of its lines.

    Attributes:
        title: of the chart.
        x_label: of the axis.
        y_label: likewise.
        lines: those first that are to lie over others.
        x_range: of the axis; the other one begins at 0.
        top: where that one ends.
        borders: places on the x axis to mark, and their texts.
        whole: whether the x axis is of whole numbers.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_range: tuple[float, float] = (0, 1)
    top: float = 100
    borders: Sequence[tuple[float, str]] = ()
    whole: bool = False

    @property
    def svg(self) -> Markup:
        """An `<svg>`, all texts escaped."""
        low, high = self.x_range
        across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

        def place(point: _Point) -> tuple[float, float]:
            x = _LEFT + across * (point[0] - low) / (high - low or 1)
            return round(x, 1), round(_TOP + down * (1 - min(point[1], self.top) / self.top), 1)

        label = f"{self.title}: {self.y_label} by {self.x_label}"
        drawn = [
            Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
                _WIDTH, _HEIGHT, label
            )
        ]
        for value in _ticks(0, self.top):
            _, y = place((low, value))
            drawn.append(
                Markup(
                    '<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" class="end">{:g}</text>'
                ).format(_LEFT, y, _WIDTH - _RIGHT, _LEFT - 6, y + 4, value)
            )
        for value in _ticks(low, high, self.whole):
            x, _ = place((value, 0))
            drawn.append(
                Markup('<text x="{}" y="{}" class="middle">{:g}</text>').format(
                    x, _TOP + down + 17, value
                )
            )
        for value, text in self.borders:
            x, _ = place((value, 0))
            drawn.append(
                Markup('<path class="border" d="M{} {}V{}"/><text x="{}" y="{}">{}</text>').format(
                    x, _TOP, _TOP + down, x + 4, _TOP + 10, text
                )
            )
        drawn.append(
            Markup('<text x="{}" y="{}" class="middle">{}</text>').format(
                _LEFT + across / 2, _HEIGHT - 4, self.x_label
            )
        )
        drawn.append(
            Markup(
                '<text transform="translate(11 {}) rotate(-90)" class="middle">{}</text>'
            ).format(_TOP + down / 2, self.y_label)
        )
        # The first line lies over the others.
        for line in reversed(self.lines):
            for piece in line.pieces:
                points = _thinned([place(point) for point in piece])
                path = "L".join(f"{x:g} {y:g}" for x, y in points)
                drawn.append(Markup('<path class="line {}" d="M{}"/>').format(line.style, path))
                if len(points) == 1:
                    drawn.append(_dot(line.style, points[0]))
            if line.best is not None:
                drawn.append(_dot(line.style, place(line.best[0])))
        return Markup("").join([*drawn, Markup("</svg>")])


def curve_chart(title: str, curves: Mapping[str, Curve]) -> Chart:
    """Localization accuracy over the map's threshold, a line for each source, the baseline grey and dashed."""
    styles = iter([f"s{number}" for number in range(SERIES)] * (1 + len(curves) // SERIES))
    lines = []
    for name, curve in curves.items():
        points = [(x, 100 * y) for x, y in zip(curve.thresholds, curve.accuracy, strict=True)]
        best = max(points, key=lambda point: point[1])
        said = f"best {best[1]:.1f}% at {best[0]:g}"
        style = "base" if name == CENTER else next(styles)
        lines.append(Line(name, style, [points], (best, said)))
    return Chart(title, "threshold on the score map", "correct boxes (%)", lines)


def training_charts(rows: Sequence[Mapping[str, float]]) -> list[Chart]:
    """The training loss by epoch, and accuracies where the rows have them.

    Args:
        rows: a mapping an epoch, with `loss` and possibly `accuracy`, `test_accuracy`, and `stage` where training had
            several: they follow each other, a line between them.
    """
    epochs = (1.0, float(max(len(rows), 2)))
    borders = [
        (number + 0.5, f"stage {after['stage']:.0f}")
        for number, (before, after) in enumerate(pairwise(rows), start=1)
        if before.get("stage") != after.get("stage")
    ]
    loss = _by_stage(rows, "loss", 1)
    top = max((y for piece in loss for _, y in piece), default=1.0)
    charts = [
        Chart(
            *("training loss by epoch", "epoch", "loss", [Line("training loss", "s0", loss)]),
            *(epochs, 1.05 * top or 1.0, borders, True),
        )
    ]
    lines = [
        Line(title, style, _by_stage(rows, name, 100))
        for name, title, style in (
            ("accuracy", "training accuracy", "s0"),
            ("test_accuracy", "test accuracy", "s1"),
        )
        if any(name in row for row in rows)
    ]
    if lines:
        of_accuracy = ("accuracy by epoch", "epoch", "accuracy (%)", lines)
        charts.append(Chart(*of_accuracy, epochs, 100, borders, True))
    return charts


def _by_stage(rows: Sequence[Mapping[str, float]], name: str, scale: float) -> list[list[_Point]]:
    numbered = [
        (number, row)
        for number, row in enumerate(rows, start=1)
        if math.isfinite(row.get(name, math.nan))
    ]
    stages = groupby(numbered, key=lambda point: point[1].get("stage"))
    return [[(float(n), scale * row[name]) for n, row in stage] for _, stage in stages]


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers of a range, about five."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if (high - low) / (power * k) <= 5.5)
    if whole:
        step = max(1, round(step))
    first = math.ceil(low / step)
    return [round(step * k, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without those points in between whose neighbours are as high: the line stays as it is."""
    heights = [y for _, y in points]
    last = len(points) - 1
    return [
        point
        for k, point in enumerate(points)
        if k in (0, last) or not heights[k - 1] == heights[k] == heights[k + 1]
    ]


def _dot(style: str, place: tuple[float, float]) -> Markup:
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.5"/>').format(style, *place)
