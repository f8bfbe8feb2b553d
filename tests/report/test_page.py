"""The report's page, from what an evaluation keeps."""

import html
import json
import re
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
import torch
from evaluation.kept import kept_evaluation
from report.kept_runs import Photographs, kept_run

from wsol_ext.data import SyntheticDataset
from wsol_ext.evaluation import CENTER, Evaluation, Example, ProtocolResult
from wsol_ext.evaluation.comparison import compare
from wsol_ext.evaluation.runs import ORIGIN, read_run
from wsol_ext.evaluation.verdicts import read_parts, write_part
from wsol_ext.metrics import TopLoc
from wsol_ext.report.heat_maps import read_heat_maps, write_heat_maps
from wsol_ext.report.page import write_report
from wsol_ext.report.results import write_results
from wsol_ext.report.table import print_tables

SCRIPT = '"><script>alert("&")</script>'


def page_of(*runs, path, **options):
    write_report(path / "page.html", runs, **options)
    return (path / "page.html").read_text(encoding="utf-8")


def listed(page):
    """The rows of a page's tables of one column, and of its listings."""
    return dict(re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td></tr>', page))


def test_names_and_options_from_outside_are_text_in_the_page(tmp_path):
    names = {"names": [SCRIPT + str(k) for k in range(12)]}
    names["class_names"] = [SCRIPT + f"class {k}" for k in range(3)]
    run = kept_run(tmp_path / "run", command=SCRIPT, **names)
    run.origin["run"] = str(tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps({"root": SCRIPT}))
    run.evaluation.about["data"] = SCRIPT
    page = page_of(run, path=tmp_path, dataset=Photographs(**names), made_by={"command": SCRIPT})
    page = page.replace("<wbr>", "")
    assert page.count("<script") == 1
    assert "alert(" not in page.replace("alert(&#34;&amp;&#34;)", "")
    escaped = html.escape(SCRIPT).replace("&quot;", "&#34;")
    # Twelve pictures, and twelve more in the rows of the best and the worst: a class name, an image's twice, and the
    # classes that they were taken for; the table of classes and the choice of one; title, heading and about; the
    # option; both commands.
    taken_for = page.count(f"taken for {escaped}")
    assert taken_for > 0
    assert page.count(escaped) == 24 * 3 + taken_for + 2 * 3 + 3 + 1 + 2


def test_page_asks_no_network_for_anything(tmp_path):
    run = kept_run(tmp_path / "run")
    page = page_of(run, path=tmp_path, dataset=Photographs())
    for outside in ("http:", "https:", "<link", "url(", "@import", "//cdn"):
        assert outside not in page
    assert "default-src 'none'; img-src data:" in page
    assert page.count('src="data:image/jpeg;base64,') == 24


def test_two_hundred_pictures_are_a_few_megabytes_whatever_the_names(tmp_path):
    count, classes = 1200, 1000
    letters = "<'\"é漢😀/ "
    names = [f"{k}{letters * 50}"[:300] for k in range(count)]
    class_names = [f"{k}{letters * 20}"[:100] for k in range(classes)]
    options = {"classes": classes, "names": names, "class_names": class_names}
    run = kept_run(tmp_path / "run", count, **options)
    page = page_of(run, path=tmp_path, dataset=Photographs(count, **options))
    assert page.count('<li class="card"') == 200 + 12
    assert "200 of 1,200 images" in page
    assert len(page.encode()) < 8_000_000
    # As many classes as there are pictures, but for those of the first few.
    assert len(set(re.findall(r'data-class="(\d+)"', page))) > 150


@pytest.mark.parametrize("count", [1, 2])
def test_one_image_is_enough(tmp_path, count):
    page = page_of(kept_run(tmp_path / "run", count), path=tmp_path, dataset=Photographs(count))
    assert "All images" in page
    assert page.count('<li class="card"') == 3 * count  # in the rows of the best and the worst too


def test_without_boxes_and_without_pictures_the_page_says_so(tmp_path):
    run = kept_run(tmp_path / "a", boxes=False)
    page = page_of(run, path=tmp_path, dataset=Photographs())
    assert f"There are none: {run.name} keeps no box of each image." in page
    page = page_of(kept_run(tmp_path / "b"), path=tmp_path)
    assert "no data set is named: boxes are shown without pictures." in page
    assert "<img" not in page
    assert "<b>bird 2</b>" in page  # as by_class.csv has it
    assert '<section id="pictures">' not in page_of(run, path=tmp_path, pictures=0)


def test_data_of_other_images_are_refused(tmp_path):
    run = kept_run(tmp_path / "run")
    with pytest.raises(
        ValueError, match="no image 0000.jpg at its place 0: it should be the first"
    ):
        write_report(tmp_path / "page.html", [run], Photographs(names=["other"] * 12))


def test_pictures_without_class_predictions_are_right_or_wrong(tmp_path):
    run = kept_run(tmp_path / "run", predicts=False)
    page = page_of(run, path=tmp_path)
    right = int((ious_of(run) > 0.5).sum())
    assert f">Right <small>{right}</small>" in page
    assert f">Wrong <small>{12 - right}</small>" in page
    assert "% sure" not in page
    assert 'value="probability"' not in page


def ious_of(run):
    with np.load(run.verdicts / "part-0.npz") as part:
        return part["iou"]


def test_two_runs_side_by_side(tmp_path):
    runs = [kept_run(tmp_path / name / "evaluation", seed=k) for k, name in enumerate("ab")]
    page = page_of(*runs, path=tmp_path, dataset=Photographs())
    assert "<title>b against a</title>" in page
    assert f'<th scope="col">a</th><th scope="col">b</th><th scope="col">{CENTER}</th>' in page
    assert page.count('<path class="line s1"') == 2  # in the chart and its legend
    first, second = map(ious_of, runs)
    only = int(((second > 0.5) & (first <= 0.5)).sum())
    assert f">Only b <small>{only}</small>" in page
    gaps = [float(gap) for gap in re.findall(r'data-gap="(.*?)"', page)][-12:]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps == pytest.approx(sorted(second - first, reverse=True), abs=1e-4)
    assert page.count('class="box b1"') == page.count('<li class="card"')
    assert "Better in b" in page


def test_differences_are_tested_on_the_page(tmp_path):
    runs = []
    for name, seed, sharpness in (("a", 1, 1.2), ("b", 2, 4.0)):
        kept_evaluation(tmp_path / name, seed=seed, threshold=0.3, sharpness=sharpness)
        runs.append(read_run(tmp_path / name))
    page = page_of(*runs, path=tmp_path, comparison=compare(*runs, draws=20))
    assert "b minus a, in points, over the 9 images" in page
    assert re.search(r"GT-known localization</th><td>[\d.]+%</td><td>[\d.]+%</td><td>\+", page)
    assert "McNemar</th>" in page


def test_three_runs_have_a_row_and_a_box_each(tmp_path):
    runs = [kept_run(tmp_path / name, seed=k) for k, name in enumerate("abc")]
    page = page_of(*runs, path=tmp_path)
    assert "<title>3 runs</title>" in page
    for name in "abc":
        assert f'<tr><th scope="row">{name}</th><td>50.0%</td><td>75.0% <small>[70.0, 80.0]' in page
    assert ">Some right <small>" in page
    assert page.count('class="box b2"') == page.count('<li class="card"') == 12 + 6


def test_a_run_beside_itself_and_runs_without_a_common_image(tmp_path):
    run = kept_run(tmp_path / "run")
    page = page_of(run, run, path=tmp_path)
    name = html.escape(run.name)
    assert f"<title>{name} (2) against {name}</title>" in page
    assert "Better in" not in page
    other = kept_run(tmp_path / "other", names=[f"other {k}" for k in range(12)])
    page = page_of(run, other, path=tmp_path)
    assert "There are none: the runs have no image in common, by name." in page


def test_runs_of_other_pictures_have_a_baseline_each_and_no_pairs(tmp_path):
    runs = [kept_run(tmp_path / name) for name in "ab"]
    runs[1].evaluation.protocols[1].metrics[CENTER]["maxboxacc"] = 0.125
    page = page_of(*runs, path=tmp_path, no_comparison="they are of different data")
    assert "No test: they are of different data" in page
    assert ">12.5%" in page
    assert ">40.0%" in page
    assert page.count("center baseline of b") == 2  # of all headlines, and under maxboxacc
    assert 'class="gallery"' not in page


def test_a_box_of_half_the_iou_is_right_but_for_toploc(tmp_path):
    for predicts, shown in ((False, "Right <small>12"), (True, "")):
        run = kept_run(tmp_path / str(predicts), predicts=predicts)
        (part,) = read_parts(run.verdicts)
        part.columns["iou"] = np.full(12, 0.5, np.float32)
        write_part(run.verdicts, "0", part)
        page = page_of(run, path=tmp_path)
        assert ("of 0.5 or more" in page) == (not predicts)
        assert shown in page


def test_a_line_of_too_few_fields_is_damage(tmp_path):
    kept_run(tmp_path / "run")
    with (tmp_path / "run" / "by_class.csv").open("a") as file:
        file.write("bird 3\n")
    with pytest.raises(
        ValueError, match="by_class.csv is damaged: a line has more or fewer fields"
    ):
        read_run(tmp_path / "run")


def test_what_made_each_run_and_the_page_is_listed(tmp_path):
    runs = [kept_run(tmp_path / name, command=f"wsol evaluate {name}") for name in "ab"]
    made_by = {"command": "wsol report a b", "wsol_ext": "0.1.0"}
    page = page_of(*runs, path=tmp_path, made_by=made_by)
    assert "<td>wsol evaluate a</td><td>wsol evaluate b</td>" in page
    assert '<th scope="row">torch</th><td>2.6</td><td>2.6</td>' in page
    assert "<code>wsol report a b</code>" in page
    assert listed(page_of(runs[0], path=tmp_path))["duration"] == "61.5 s"


def test_options_are_those_of_the_runs_own_folder(tmp_path):
    run = kept_run(tmp_path / "run" / "evaluation")
    (tmp_path / "run" / "config.yaml").write_text("model: trt\n")
    assert run.config == {}  # it says what made it, and no run
    run.origin["run"] = str(tmp_path / "moved away")
    assert run.config == {"model": "trt"}
    (tmp_path / "moved away").mkdir()
    (tmp_path / "moved away" / "config.yaml").write_text("model: sat\n")
    assert run.config == {"model": "sat"}
    run.origin.clear()
    assert listed(page_of(run, path=tmp_path))["model"] == "trt"


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
        evaluation.save(tmp_path)
        page = page_of(read_run(tmp_path), path=tmp_path)
        shown = (capsys.readouterr().out, page)
        assert [sentence in text for text in shown] == [said, said]
        assert ["below the center baseline" in text for text in shown] == [said, said]
        assert ('class="warning"' in page) == said


def test_a_baseline_at_its_best_is_said_to_be_where_the_method_is_not():
    evaluation = evaluation_of({"toploc": {"gt_known": 0.2}}, {"toploc": {"gt_known": 0.5}})
    evaluation.protocols[0].settings["chosen"] = "beforehand"
    assert evaluation.below_baseline().endswith(
        "(GT-known localization), which alone is cut where it is best here"
    )


def test_terminal_and_page_call_numbers_the_same(tmp_path, capsys):
    shares = dict.fromkeys(TopLoc.labels, 0.25)
    evaluation = evaluation_of({"toploc": shares}, {"toploc": {"gt_known": 0.1}})
    print_tables(evaluation)
    evaluation.save(tmp_path)
    page = page_of(read_run(tmp_path), path=tmp_path)
    terminal = capsys.readouterr().out
    for label in TopLoc.labels.values():
        assert f" {label} " in terminal
        assert f'<th scope="row">{label}</th>' in page
    assert "multi_instance" not in terminal


def test_evaluation_leaves_the_page_that_a_report_would_be(tmp_path, capsys):
    dataset = SyntheticDataset(9, img_size=32)
    dataset.image_names = [f"{k}.png" for k in range(9)]
    kept = kept_evaluation(tmp_path, seed=0, about={"data": "birds"})
    kept.seconds = 61.5
    command = "wsol evaluate runs/mine --out 'my results'"
    write_results(kept, dataset, tmp_path, command)
    page = (tmp_path / "report.html").read_text()
    rows = listed(html.unescape(page))
    made = datetime.fromisoformat(rows["date"].replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - made) < timedelta(minutes=5)
    assert rows["duration"] == "61.5 s"
    assert rows["command"] == command
    assert page_of(read_run(tmp_path), path=tmp_path, dataset=dataset) == page
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["versions"] == {
        name: rows[name] for name in ("wsol_ext", "python", "torch", "timm")
    }
    # Of the same images the same bytes, whenever and however they were asked for.
    assert not {"date", "duration", "seconds", "command"} & found.keys()
    assert f"report: {tmp_path / 'report.html'}" in capsys.readouterr().out


def test_what_is_read_back_is_what_was_written(tmp_path):
    written = kept_evaluation(tmp_path, seed=3)
    found = read_run(tmp_path).evaluation
    assert found.about | {"versions": 0} == {**written.about, "versions": 0}
    assert [result.curves for result in found.protocols] == [r.curves for r in written.protocols]
    assert [r.title for r in found.protocols] == [r.title for r in written.protocols]
    assert found.by_class == []
    with_classes = kept_run(tmp_path / "run").evaluation
    assert with_classes.by_class[2] == {"kind": "bird 2", "images": 1, "maxboxacc": 2 / 3}
    assert with_classes.by_object[0] == {"kind": "small object", "images": 1, "maxboxacc": 0.5}
    assert with_classes.protocols[0].intervals["mine"] == {"gt_known": (0.7, 0.8)}
    written.save(tmp_path / "run")
    assert read_run(tmp_path / "run").evaluation.by_class == []  # not those of before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("by_class.csv", "kind,images,maxboxacc\na,1,high\n"),
        ("curve_maxboxacc.csv", 'threshold,"mine, IoU 0.5"\n0.1,none\n'),
        (ORIGIN, "["),
        ("heat_maps.npz", "no archive"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    kept_run(tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} is damaged: .* by wsol evaluate"):
        write_report(tmp_path / "page.html", [read_run(tmp_path / "run")])


def test_heat_maps_are_kept_for_the_page(tmp_path):
    run = kept_run(tmp_path / "run", 300, classes=10)
    score_map = torch.linspace(-1, 3, 16).view(1, 16).expand(14, 16)
    example = Example(299, "right", 9, 9, 0.9, 0.6, score_map, torch.zeros(4), torch.zeros(1, 4))
    write_heat_maps(run.folder, [example])
    (levels,) = read_heat_maps(run.folder).values()
    assert (levels.dtype, levels.shape, levels[0, 0], levels[0, -1]) == (np.uint8, (48, 48), 0, 255)
    assert (np.diff(levels[0].astype(int)) >= 0).all()
    page = page_of(run, path=tmp_path, pictures=20)
    assert 'name="heat" checked' in page
    card = next(part for part in page.split('<li class="card"') if 'class="heat"' in part)
    assert "0299.jpg" in card  # it is shown because it has one
    write_heat_maps(run.folder, [])
    assert read_heat_maps(run.folder) == {}
    assert 'name="heat"' not in page_of(run, path=tmp_path)
