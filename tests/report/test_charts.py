"""Line charts within a page."""

import re

from wsol_ext.evaluation import CENTER, Curve
from wsol_ext.report.charts import Chart, Line, curve_chart, training_charts


def paths(chart, style):
    """The points of a style's lines."""
    found = re.findall(rf'<path class="line {style}" d="M([\d. L]+)"', chart.svg)
    return [[tuple(map(float, each.split())) for each in path.split("L")] for path in found]


def test_baseline_is_grey_and_lies_below_and_the_best_is_said():
    curves = {
        "mine": Curve([0.0, 0.5, 0.9], [0.1, 0.7, 0.0]),
        CENTER: Curve([0.0, 0.5], [0.2, 0.3]),
    }
    chart = curve_chart("toploc, IoU 0.5", curves)
    assert [(line.name, line.style, line.best) for line in chart.lines] == [
        ("mine", "s0", ((0.5, 70.0), "best 70.0% at 0.5")),
        (CENTER, "base", ((0.5, 30.0), "best 30.0% at 0.5")),
    ]
    assert chart.svg.index("line base") < chart.svg.index("line s0")
    ((start, best, end),) = paths(chart, "s0")
    ((_, lower),) = paths(chart, "base")
    assert start[0] < best[0] < end[0]
    assert best[1] < start[1] < end[1]  # y grows downwards
    assert lower[0] == best[0]
    assert lower[1] > best[1]


def test_points_between_equal_neighbours_are_left_out():
    heights = [0.5] * 500 + [0.25] * 500
    ((*points,),) = paths(
        curve_chart("a", {"mine": Curve([k / 1000 for k in range(1000)], heights)}), "s0"
    )
    assert len(points) == 4
    assert points[0][1] == points[1][1] < points[2][1] == points[3][1]


def test_colours_are_the_pages_alone_and_texts_are_escaped():
    chart = Chart("<b>", 'a "b"', "c", [Line("d", "s1", [[(0, 1), (1, 2)]])], top=2)
    assert 'aria-label="&lt;b&gt;: c by a &#34;b&#34;"' in chart.svg
    assert not re.search("#[0-9a-f]{6}|fill=|stroke=|<b>", chart.svg.replace("&#34;", ""))


def test_stages_are_lines_of_their_own_and_what_is_not_finite_is_left_out():
    rows = [{"loss": 2.0 - k / 4, "stage": 1 + k // 2, "accuracy": k / 4} for k in range(4)]
    rows[1]["loss"] = float("nan")
    loss, accuracy = training_charts(rows)
    assert loss.title == "training loss by epoch"
    assert [[x for x, _ in piece] for piece in loss.lines[0].pieces] == [[1], [3, 4]]
    assert [y for piece in accuracy.lines[0].pieces for _, y in piece] == [0, 25, 50, 75]
    assert loss.borders == [(2.5, "stage 2")]
    assert ">stage 2</text>" in loss.svg
    assert re.findall(r'class="middle">(\d[\d.]*)<', loss.svg) == ["1", "2", "3", "4"]
    assert len(training_charts([{"loss": 0.0}])) == 1
