"""`wsol evaluate --threshold-from`: who may choose, what is said of it, and where `wsol localize` cuts then."""

import csv
import json
import shutil

import pytest
from cli.test_localize import QUIET, localize
from cli.tiny_runs import tiny_run

from wsol_ext.cli import main
from wsol_ext.data import SyntheticDataset
from wsol_ext.thresholds import StoredThreshold, stored_threshold

DRAWN = ["--data", "synthetic", "--data-options", '{"length": 12, "img_size": 32}']
PROTOCOLS = ["maxboxacc", "maxboxaccv2", "toploc", "sat"]
ALL = ["--protocols", *PROTOCOLS, "--interval", "0.05", "--gallery", "0", *QUIET]
BOXES = ["--protocols", "maxboxacc", "toploc", "--interval", "0.05", "--gallery", "0", *QUIET]


@pytest.fixture(scope="module")
def drawn_run(tmp_path_factory):
    """A run on drawn data, whose splits all have boxes."""
    run = tmp_path_factory.mktemp("drawn") / "run"
    assert main(tiny_run(run, epochs=1)) == 0
    return run


@pytest.fixture(scope="module")
def evaluated(drawn_run, tmp_path_factory):
    """A copy of the run, evaluated with thresholds that the val split chose; and the best of val, in a folder."""
    run = shutil.copytree(drawn_run, tmp_path_factory.mktemp("chosen") / "run")
    best = run.parent / "val"
    val = ["--split", "val", "--threshold", "best", "--out", str(best)]
    assert main(["evaluate", str(run), *DRAWN, *ALL, *val]) == 0
    assert main(["evaluate", str(run), *DRAWN, *ALL, "--threshold-from", "val"]) == 0
    return run, best


def results(folder):
    found = json.loads((folder / "evaluation.json").read_text())
    return found, {each["protocol"]: each for each in found["protocols"]}


def test_every_report_has_chosen_and_best_side_by_side_and_says_who_chose(evaluated):
    run, best = evaluated
    found, by_name = results(run / "evaluation")
    _, there = results(best)
    assert found["thresholds from"] == "the boxes of val (12 pictures, synthetic, val)"
    page = (run / "evaluation" / "report.html").read_text()
    with open(run / "evaluation" / "evaluation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in PROTOCOLS:
        assert by_name[name]["thresholds"] == there[name]["thresholds"]
        assert set(by_name[name]["oracle"]) == {"tscam", "center baseline"}
        title = by_name[name]["title"]
        assert "by the boxes of val (12 pictures, synthetic, val)" in title
        assert title.replace("'", "&#39;") in page
        sources = {row["source"] for row in rows if row["protocol"] == title}
        assert {"tscam", "tscam, oracle", "center baseline, oracle"} <= sources
    columns = [
        f'<th scope="col">{name}</th>' for name in ("tscam", "oracle", "gap", "center baseline")
    ]
    assert "".join(columns) in page
    assert "by thresholds from the boxes of val" in page


def test_the_terminal_names_the_gap(evaluated, tmp_path, capsys):
    run, best = evaluated
    out = ["--out", str(tmp_path)]
    assert main(["evaluate", str(run), *DRAWN, *ALL, "--threshold-from", str(best), *out]) == 0
    said = capsys.readouterr().out.splitlines()
    _, by_name = results(tmp_path)
    assert {each["title"] for each in by_name.values()} <= set(said)
    (gap,) = [line for line in said if line.startswith("by thresholds from the results in ")]
    own, oracle = (by_name["maxboxacc"][kind]["tscam"] for kind in ("metrics", "oracle"))
    lost = 100 * (oracle["maxboxacc"] - own["maxboxacc"])
    assert f"(12 pictures, synthetic, val), not the best here, tscam loses {lost:.1f} points" in gap
    assert "points under toploc (GT-known localization)" in gap
    assert any("oracle" in line and "gap" in line for line in said)


def test_stored_results_choose_as_the_split_itself(evaluated, tmp_path):
    run, best = evaluated
    shutil.copytree(best, tmp_path / "other" / "evaluation")
    flags = ["--threshold-from", str(tmp_path / "other"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(run), *DRAWN, *ALL, *flags]) == 0
    numbers = [
        [(each["metrics"], each["oracle"], each["thresholds"]) for each in by_name.values()]
        for _, by_name in (results(run / "evaluation"), results(tmp_path / "out"))
    ]
    assert numbers[0] == numbers[1]


def test_results_of_the_measured_pictures_are_warned_of(evaluated, tmp_path, capsys):
    run, _ = evaluated
    flags = ["--threshold-from", str(run), "--out", str(tmp_path)]
    assert main(["evaluate", str(run), *DRAWN, *ALL, *flags]) == 0
    assert "were chosen on test of synthetic, which is measured here" in capsys.readouterr().err


def test_localize_cuts_where_others_chose_and_a_later_best_does_not_replace_it(
    drawn_run, pictures, tmp_path, capsys
):
    run = shutil.copytree(drawn_run, tmp_path / "run")
    capsys.readouterr()
    assert main(["evaluate", str(run), *DRAWN, *BOXES, "--threshold-from", "val"]) == 0
    stored = stored_threshold(run)
    assert (stored.source, stored.split, stored.images) == ("the boxes of val", "val", 12)
    assert "; `wsol localize` uses it: " in capsys.readouterr().out
    assert main(["evaluate", str(run), *DRAWN, *BOXES]) == 0
    assert f"`wsol localize` keeps to {stored.threshold:g}, the best of 12 pictures" in (
        capsys.readouterr().out
    )
    assert stored_threshold(run) == stored
    assert localize(run, pictures / "test", "--out", tmp_path / "boxes") == 0
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith(f"wsol: threshold {stored.threshold:g}: the best of 12 pictures (synthe")
    assert said.endswith("right at IoU 0.5, from the boxes of val")


def test_what_others_chose_stays_for_the_same_model_alone():
    best = StoredThreshold(
        threshold=0.3,
        protocol="maxboxacc",
        iou=0.5,
        contours="largest",
        interval=0.01,
        accuracy=0.5,
        data="cub",
        split="test",
        images=9,
        checkpoint="a" * 64,
        version="1",
    )
    chosen = StoredThreshold(**{**vars(best), "source": "the boxes of val"})
    other = StoredThreshold(**{**vars(best), "checkpoint": "b" * 64})
    assert chosen.outranks(best)
    assert not chosen.outranks(other)
    assert not chosen.outranks(chosen)
    assert not best.outranks(chosen)


def test_pseudo_boxes_of_the_training_pictures_choose(run_folder, pictures, tmp_path, capsys):
    found = tmp_path / "found"
    known = ["--labels", "folder", "--threshold", "otsu", "--overlays", "none"]
    assert localize(run_folder, pictures / "train", *known, "--out", found) == 0
    boxes = found / "dataset.json"
    flags = ["--threshold-from", "pseudo", "--pseudo-boxes", str(boxes), "--out", str(tmp_path)]
    assert main(["evaluate", str(run_folder), *BOXES, *flags]) == 0
    source = "the pseudo boxes of train in found/dataset.json"
    assert results(tmp_path)[0]["thresholds from"] == f"{source} (32 pictures, folder, train)"
    assert stored_threshold(run_folder).source == source


def test_boxes_of_a_split_that_has_none_of_its_own(run_folder, pictures, tmp_path):
    drawn, lines = SyntheticDataset(32, img_size=48), ["image,x0,y0,x1,y1"]
    for index in range(8):
        sample = drawn[index]
        box = ",".join(f"{side:g}" for side in sample["boxes"][0].tolist())
        lines.append(f"{drawn.class_names[sample['label']]}/{index}.png,{box}")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("\n".join(lines))
    flags = ["--threshold-from", "train", "--threshold-boxes", str(boxes), "--out", str(tmp_path)]
    assert main(["evaluate", str(run_folder), *BOXES, *flags]) == 0
    said = f"the boxes of train in {tmp_path.name}/boxes.csv (8 pictures, folder, train)"
    assert results(tmp_path)[0]["thresholds from"] == said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threshold-from", "test"], "--threshold-from is test, whose pictures are those that a"),
        (["--threshold-from", "vall"], "should be one of train, val, test; did you mean val?; or"),
        (["--threshold-from", "val", "--threshold", "0.3"], "--threshold is 0.3, and --threshold-"),
        (["--threshold-from", "pseudo"], "--pseudo-boxes is missing, it should be what `wsol disc"),
        (["--pseudo-boxes", __file__], "--threshold-boxes is for --threshold-from, which is not"),
        (["--threshold-from", "/"], "--threshold-from is /, which has no evaluation.json"),
        (
            ["--threshold-from", "val", "--threshold-boxes", "no.csv"],
            "--threshold-boxes is no.csv: no such file",
        ),
        (
            ["--threshold-from", "/", "--threshold-boxes", __file__],
            "--threshold-boxes is for a split",
        ),
    ],
)
def test_what_cannot_choose_is_refused(run_folder, capsys, flags, message):
    assert main(["evaluate", str(run_folder), *DRAWN, *BOXES, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_s_split_needs_its_own_boxes(run_folder, fails):
    flags = ["--threshold-from", "train", *QUIET]
    message = fails("evaluate", run_folder, *flags)
    assert "--threshold-boxes is missing, it should be the boxes of train" in message


def test_found_boxes_are_not_cut(run_folder, pictures, tmp_path, fails):
    found = tmp_path / "boxes.csv"
    found.write_text("image,x0,y0,x1,y1\n")
    flags = ["--protocols", "corloc", *DRAWN, "--threshold-from", "val"]
    assert "--threshold-from is for what is cut" in fails("evaluate", "--found", found, *flags)


def test_a_protocol_without_a_threshold_says_that_nothing_changes(drawn_run, tmp_path, capsys):
    flags = ["--protocols", "pxap", "--threshold-from", "val", "--out", str(tmp_path)]
    assert main(["evaluate", str(drawn_run), *DRAWN, *flags, *QUIET]) == 0
    assert "--threshold-from changes nothing: pxap has no threshold" in capsys.readouterr().err
