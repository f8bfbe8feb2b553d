"""The HTML report, apart from the evaluation it tells of."""

import html
import json
import re
from datetime import datetime, timedelta, timezone
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image

from wsol_ext.data import SyntheticDataset
from wsol_ext.evaluation import CENTER, Curve, Evaluation, Example, ProtocolResult
from wsol_ext.metrics import TopLoc
from wsol_ext.report import drawing
from wsol_ext.report.figures import curve_figure, figure_svg, loss_figure
from wsol_ext.report.page import write_report
from wsol_ext.report.results import write_results
from wsol_ext.report.table import print_tables

SCRIPT = '"><script>alert("&")</script>'


@pytest.fixture
def dataset():
    drawn = SyntheticDataset(4, img_size=32)
    drawn.class_names = [SCRIPT + name for name in drawn.class_names]
    drawn.image_names = [SCRIPT + name for name in drawn.image_names]
    return drawn


def test_names_and_options_from_outside_are_text_in_the_page(dataset, tmp_path):
    shares = {"loc_top1": 0.5, "gt_known": 0.75}
    result = ProtocolResult(
        "toploc", {"threshold": SCRIPT}, {"mine": shares, CENTER: {"gt_known": 0.25}}
    )
    example = Example(
        index=0,
        outcome="class_wrong",
        label=0,
        predicted=1,
        probability=0.9,
        iou=0.6,
        score_map=torch.rand(4, 4),
        box=torch.tensor([0.0, 0.0, 9.0, 9.0]),
        gt_boxes=torch.tensor([[1.0, 1.0, 8.0, 8.0]]),
    )
    evaluation = Evaluation("mine", 4, [result], about={"data": SCRIPT}, examples=[example])
    path = tmp_path / "report.html"
    write_report(
        path,
        evaluation,
        dataset,
        title=SCRIPT,
        config={"root": SCRIPT},
        origin={"command": SCRIPT},
    )
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    # Title and heading, about, the table's settings, the option, the command; of a card two class names, the image's
    # in its caption and in two pictures' texts.
    assert page.count("&lt;script&gt;alert(&#34;&amp;&#34;)&lt;/script&gt;") == 11
    assert "75.0%" in page
    assert "25.0%" in page


def evaluation_of(own, baseline):
    """An evaluation whose headline numbers the method and the baseline have so."""
    results = [
        ProtocolResult(name, {}, {"mine": {**one}, CENTER: {**other}})
        for (name, one), other in zip(own.items(), baseline.values(), strict=True)
    ]
    return Evaluation("mine", 4, results, seconds=61.5)


BELOW = evaluation_of(
    {"maxboxaccv2": {"maxboxaccv2": 0.3}, "toploc": {"cls_top1": 0.1, "gt_known": 0.5}},
    {"maxboxaccv2": {"maxboxaccv2": 0.345}, "toploc": {"gt_known": 0.5001}},
)
ABOVE = evaluation_of({"maxboxacc": {"maxboxacc": 0.5}}, {"maxboxacc": {"maxboxacc": 0.5}})


def test_model_below_the_baseline_is_said_to_be(tmp_path, capsys):
    sentence = (
        "mine is below the center baseline by 4.5 points under maxboxaccv2, "
        "by less than 0.1 points under toploc (GT-known localization)"
    )
    for evaluation, said in ((BELOW, True), (ABOVE, False)):
        print_tables(evaluation)
        path = tmp_path / "report.html"
        write_report(path, evaluation)
        shown = (capsys.readouterr().out, path.read_text(encoding="utf-8"))
        assert [sentence in text for text in shown] == [said, said]
        assert ["below the center baseline" in text for text in shown] == [said, said]
        assert ('class="warning"' in shown[1]) == said


def test_terminal_and_page_call_numbers_the_same(tmp_path, capsys):
    shares = dict.fromkeys(TopLoc.labels, 0.25)
    evaluation = evaluation_of({"toploc": shares}, {"toploc": {"gt_known": 0.1}})
    print_tables(evaluation)
    write_report(tmp_path / "report.html", evaluation)
    terminal, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    for label in TopLoc.labels.values():
        assert f" {label} " in terminal
        assert f"<th>{label}</th>" in page
    assert "multi_instance" not in terminal


def test_report_says_when_how_long_and_by_what(dataset, tmp_path, capsys):
    ABOVE.about["data"] = "birds"
    command = "wsol evaluate runs/mine --out 'my results'"
    write_results(ABOVE, dataset, tmp_path, tmp_path, {}, command)
    page = html.unescape((tmp_path / "report.html").read_text())
    rows = dict(re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td></tr>", page))
    made = datetime.fromisoformat(rows["date"].replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - made) < timedelta(minutes=5)
    assert rows["duration"] == "61.5 s"
    assert rows["command"] == command
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["versions"] == {
        name: rows[name] for name in ("wsol_ext", "python", "torch", "timm")
    }
    # Of the same images the same bytes, whenever and however they were asked for.
    assert not {"date", "duration", "seconds", "command"} & found.keys()


def test_boxes_are_drawn_inside_of_the_picture():
    grey = Image.new("RGB", (80, 60), (128, 128, 128))
    boxes = torch.tensor([[0.0, 0.0, 80.0, 60.0], [-9.0, -9.0, 99.0, 99.0]])
    for box in boxes:
        pixels = np.asarray(drawing.draw_boxes(grey, box[None], drawing.RED))
        red = (pixels == drawing.RED).all(axis=2)
        for side in (red[1:4, 4:-4], red[-4:-1, 4:-4], red[4:-4, 1:4], red[4:-4, -4:-1]):
            assert side.all()
        # Around them the dark rim.
        assert (pixels[0] == 0).all()
        assert (pixels[:, -1] == 0).all()


def test_box_well_inside_is_drawn_where_it_is():
    grey = Image.new("RGB", (80, 60), (128, 128, 128))
    drawn = drawing.draw_boxes(grey, torch.tensor([[20.0, 10.0, 60.0, 50.0]]), drawing.RED)
    assert [drawn.getpixel(at) for at in ((20, 30), (60, 30), (40, 10), (40, 50))] == [
        drawing.RED
    ] * 4
    assert drawn.getpixel((40, 30)) == drawn.getpixel((5, 5)) == (128, 128, 128)


def test_charts_follow_the_page_into_the_dark():
    curve = Curve([0.0, 0.5, 1.0], [0.1, 0.7, 0.0])
    rows = [{"loss": 1.0, "accuracy": 0.2, "test_accuracy": 0.3, "stage": k} for k in (1, 2)]
    for figure in (curve_figure({"mine": curve, CENTER: curve}, "toploc"), loss_figure(rows)):
        svg = figure_svg(figure)
        rules = re.search(r"<style>(.*?)</style>", svg).group(1)
        assert rules.count("prefers-color-scheme: dark") == 1
        for variable in ("--c0", "--c1"):
            assert rules.count(f"{variable}:#") == 2
            assert svg.count(f"var({variable})") >= 8
        # No ground, and nothing that is dark in the dark.
        assert not re.search("#ffffff|#000000|#1f2933", svg.replace(rules, ""))


def test_no_column_is_wider_than_a_narrow_page():
    style = resources.files("wsol_ext.report").joinpath("page.css").read_text()
    assert re.findall(r"minmax\((\d+)px", style) == ["150"]
    assert len(re.findall(r"minmax\(min\(\d+px, 100%\)", style)) == 2
    assert "img { max-width: 100%; }" in style
