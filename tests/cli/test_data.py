"""`wsol data`, and training, evaluation and localization on data sets in the layouts of others."""

import json
import re
from pathlib import Path

import pytest
from cli.tiny_runs import TINY
from data.layouts import LAYOUTS, picture, text, voc_xml

from wsol_ext.cli import main
from wsol_ext.data import DATASETS

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
QUIET = ["--progress", "false", "--workers", "0"]


def test_list_names_every_data_set_and_what_is_known_of_it(capsys):
    assert main(["data", "list"]) == 0
    said = capsys.readouterr().out
    for name, entry in DATASETS.items():
        assert f"{name}: {entry.source.title}" in said
        assert entry.source.licence.replace("`", "") in said
    assert main(["data", "list", "dogs"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("dogs: Stanford Dogs\n  splits  train, test\n")
    assert "train_list.mat" in said


def test_table_of_the_page_is_what_the_command_prints(capsys):
    assert main(["data", "list", "--markdown"]) == 0
    table = capsys.readouterr().out.strip()
    page = PAGE.read_text(encoding="utf-8")
    between = page.partition("<!-- wsol data list --markdown -->")[2].partition("<!-- end -->")[0]
    assert between.strip() == table


def test_sound_data_set_ends_with_0_and_a_spoilt_one_with_1(tmp_path, capsys):
    root = LAYOUTS["voc"](tmp_path)
    out = tmp_path / "report.json"
    assert main(["data", "check", "voc", "--root", str(root), "--out", str(out), *QUIET]) == 0
    said = capsys.readouterr().out
    assert "train: 3 images of 20 classes, 4 boxes; nothing is wrong\n" in said
    assert "trainval: is not there: " in said
    (root / "JPEGImages" / "2008_000008.jpg").unlink()
    assert main(["data", "check", "voc", "--root", str(root), "--out", str(out), *QUIET]) == 1
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("missing: ") for line in said) == 2  # it is of train and of val
    assert "train: 3 images of 20 classes, 4 boxes; wrong: 1 missing" in said
    report = json.loads(out.read_text())
    assert (report["data"], report["root"]) == ("voc", str(root))
    assert {each["split"]: each["counts"] for each in report["splits"]} == {
        "train": {"missing": 1},
        "val": {"missing": 1},
    }


def test_split_that_is_asked_for_and_not_there_is_a_finding(tmp_path, capsys):
    root = LAYOUTS["voc"](tmp_path)
    assert main(["data", "check", "voc", "--root", str(root), "--split", "test", *QUIET]) == 1
    said = capsys.readouterr().out
    assert "list: " in said
    assert "test.txt: no such file" in said
    assert main(["data", "check", "voc", "--root", str(tmp_path), *QUIET]) == 1


def test_folder_is_checked_split_by_split_or_as_a_whole(pictures, capsys):
    arguments = ["data", "check", "folder", "--root", str(pictures), *QUIET]
    assert main(arguments) == 0
    assert "train: 32 images of 4 classes" in (said := capsys.readouterr().out)
    assert "test: 12 images of 4 classes, 0 boxes" in said
    boxes = ["--boxes", str(pictures / "boxes.csv"), "--split", "test"]
    assert main([*arguments, *boxes]) == 0
    assert capsys.readouterr().out == "test: 12 images of 4 classes, 12 boxes; nothing is wrong\n"
    assert main(["data", "check", "folder", "--root", str(pictures / "test"), *QUIET]) == 0
    assert "train: 12 images of 4 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ACTION is missing: list or check"),
        (["lst"], "ACTION is 'lst', it should be one of list, check; did you mean list"),
        (["check"], "DATASET is missing, it should be one of aircraft, "),
        (["check", "vco"], "DATASET is 'vco', it should be one of .*; did you mean voc"),
        (["list", "vco"], "DATASET is 'vco'"),
        (["check", "voc"], "--root is missing, it should be the folder of the voc data set"),
        (["check", "voc", "--root", "nowhere"], "--root is nowhere: no such file"),
        (["check", "voc", "--root", ".", "--split", "tain"], "--split is 'tain', .* mean train"),
        (["check", "voc", "--root", ".", "--workers", "-1"], "--workers is -1"),
        (["check", "voc", "--root", ".", "--out", "."], "--out is ., which is a folder"),
        (["check", "voc", "--root", ".", "--out", "/dev/null/a"], "--out is /dev/null, which is"),
        (["check", "voc", "--root", ".", "--boxes", "."], "--boxes is for --data folder"),
        (
            ["check", "aircraft", "--root", ".", "--data-options", '{"levl": 1}'],
            "the aircraft data set takes no option levl; did you mean level",
        ),
    ],
)
def test_mistake_is_one_line(fails, arguments, message):
    assert re.search(message, fails("data", *arguments))


@pytest.fixture
def horses(tmp_path):
    """A VOC tree of two classes: eight pictures to train on, four to test."""
    root = LAYOUTS["voc"](tmp_path)
    for split, count in (("train", 8), ("test", 4)):
        names = [f"{split}_{k}" for k in range(count)]
        text(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{n}\n" for n in names))
        for k, name in enumerate(names):
            picture(root / "JPEGImages" / f"{name}.jpg", (32, 32))
            objects = [(("horse", "cow")[k % 2], 5, 5, 24, 24)]
            xml = voc_xml(objects, f"{name}.jpg", (32, 32))
            text(root / "Annotations" / f"{name}.xml", xml)
    return root


def test_another_layout_is_trained_on_evaluated_and_localized_by_its_labels(horses, tmp_path):
    run, boxes = tmp_path / "run", tmp_path / "boxes"
    data = ["--data", "voc", "--root", str(horses)]
    assert main(["train", "--out", str(run), *TINY, *data, "--epochs", "1"]) == 0
    device = ["--device", "cpu", *QUIET]
    flags = ["--protocols", "toploc", "--gallery", "1", *device]
    assert main(["evaluate", str(run), *flags]) == 0
    found = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert (found["data"], found["split"], found["images"]) == ("voc", "test", 4)
    flags = ["--labels", "data", "--overlays", "none", "--out", str(boxes), *device]
    assert main(["localize", str(run), *data, *flags]) == 0
    found = json.loads((boxes / "boxes.json").read_text())
    assert [box["category"] for box in found] == ["horse", "cow"] * 2
    assert [box["file_name"] for box in found] == [f"test_{k}.jpg" for k in range(4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "IMAGES is missing: image files, and folders of them; or --data"),
        (["--root", ".", "."], "--root is for --data, which is not given"),
        ([".", "--data", "voc", "--root", "."], "IMAGES is ., there should be none: --data has"),
        (["--data", "vco"], "--data is 'vco', it should be one of"),
        (["--data", "voc", "--root", ".", "--split", "tset"], "--split is 'tset'"),
    ],
)
def test_mistake_in_the_data_to_localize_in_is_said(tmp_path, fails, arguments, message):
    (tmp_path / "run").mkdir()
    assert message in fails("localize", tmp_path / "run", *arguments, "--out", tmp_path / "boxes")


def test_pictures_in_shards_are_trained_on_and_not_localized(tmp_path, fails):
    root, out = LAYOUTS["webdataset"](tmp_path / "shards"), tmp_path / "run"
    data = ["--data", "webdataset", "--root", str(root), "--data-options", '{"unboxed": "drop"}']
    assert main(["train", "--out", str(out), *TINY, *data, "--epochs", "1"]) == 0
    flags = ["--split", "val", "--protocols", "maxboxacc", "--interval", "0.1", "--device", "cpu"]
    assert main(["evaluate", str(out), *flags, "--gallery", "1", *QUIET]) == 0
    found = json.loads((out / "evaluation" / "evaluation.json").read_text())
    assert (found["data"], found["images"]) == ("webdataset", 1)
    boxes = ["--split", "val", "--out", tmp_path / "boxes"]
    assert "images are no files of their own" in fails("localize", out, *data, *boxes)
