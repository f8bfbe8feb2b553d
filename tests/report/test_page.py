"""The HTML report, apart from the evaluation it tells of."""

import pytest
import torch

from wsol_ext.data import SyntheticDataset
from wsol_ext.evaluation import CENTER, Evaluation, Example, ProtocolResult
from wsol_ext.report.page import write_report

SCRIPT = '"><script>alert("&")</script>'


@pytest.fixture
def dataset():
    drawn = SyntheticDataset(4, img_size=32)
    drawn.class_names = [SCRIPT + name for name in drawn.class_names]
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
    write_report(path, evaluation, dataset, title=SCRIPT, config={"root": SCRIPT})
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    # Title and heading, about, the table's settings, the option, and two class names of a card.
    assert page.count("&lt;script&gt;alert(&#34;&amp;&#34;)&lt;/script&gt;") >= 7
    assert "75.0%" in page
    assert "25.0%" in page
