"""`wsol localize`: formats, several objects, rejection, and the level for it."""

import csv
import json
import shutil

import pytest
from cli.test_localize import QUIET, localize, read
from PIL import Image

from wsol_ext.cli import main
from wsol_ext.rejection import stored_level

FEW = ["--overlays", "false"]
ALL = ["coco", "yolo", "voc", "labelstudio", "cvat", "fiftyone", "csv"]


@pytest.fixture
def album(pictures):
    return pictures / "test"


@pytest.fixture(autouse=True)
def _uncalibrated(request):
    yield
    if "run_folder" in request.fixturenames:
        (request.getfixturevalue("run_folder") / "reject.json").unlink(missing_ok=True)


def test_formats_are_written_beside_coco_and_later_ones_from_the_finished_result(
    run_folder, album, tmp_path, capsys
):
    one, other = tmp_path / "one", tmp_path / "other"
    assert localize(run_folder, album, *FEW, "--out", one, "--format", *ALL) == 0
    assert localize(run_folder, album, *FEW, "--out", other) == 0
    made = {path.name for path in other.iterdir()}
    assert made == {".wsol-results", "boxes.json", "dataset.json", "request.json"}
    capsys.readouterr()
    assert localize(run_folder, album, *FEW, "--out", other, "--format", *ALL) == 0
    said = capsys.readouterr().out
    assert "is finished: nothing to localize" in said
    assert f"wrote {other / 'cvat'}" in said
    for path in one.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()
    boxes, dataset = read(one)
    assert [annotation["bbox"] for annotation in dataset["annotations"]] == [
        box["bbox"] for box in boxes
    ]
    tasks = json.loads((one / "labelstudio" / "tasks.json").read_text())
    assert tasks[0]["predictions"][0]["model_version"].startswith("tscam-")


def test_several_objects_come_with_their_two_scores(run_folder, album, tmp_path):
    flags = ["--objects", "all", "--threshold", "0.6", "--nms", "0.5", *FEW]
    assert localize(run_folder, album, *flags, "--out", tmp_path / "all") == 0
    boxes, dataset = read(tmp_path / "all")
    assert len(boxes) > len(dataset["images"]) == 12
    for box in boxes:
        product = box["class_probability"] * box["map_mean"]
        assert box["score"] == pytest.approx(product, abs=2e-6)
    assert localize(run_folder, album, *flags, "--out", tmp_path / "few", "--min-score", "1") == 0
    assert read(tmp_path / "few")[0] == []
    assert len(read(tmp_path / "few")[1]["images"]) == 12


def test_rejected_images_are_recorded_and_no_failure(run_folder, album, tmp_path, capsys):
    assert localize(run_folder, album, *FEW, "--out", tmp_path / "one") == 0
    scores = {box["file_name"]: box["score"] for box in read(tmp_path / "one")[0]}
    level = sum(sorted(scores.values())[3:5]) / 2  # scores are rounded
    flags = ["--reject", level, "--out", tmp_path / "two", "--format", "csv"]
    for _ in range(2):  # the second time it is finished
        capsys.readouterr()
        assert localize(run_folder, album, *flags) == 0
        said = capsys.readouterr().out
        assert f"8 of 12 images: {tmp_path / 'two' / 'boxes.json'}" in said
        assert f"4 rejected: {tmp_path / 'two' / 'rejected.json'}" in said
    rejected = json.loads((tmp_path / "two" / "rejected.json").read_text())
    assert rejected["level"] == level
    low = {name for name, score in scores.items() if score < level}
    assert {image["file_name"] for image in rejected["images"]} == low
    assert {image["file_name"] for image in read(tmp_path / "two")[1]["images"]} == {*scores} - low
    with open(tmp_path / "two" / "boxes.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    assert len(list((tmp_path / "two" / "overlays").glob("*.jpg"))) == 8
    assert localize(run_folder, album, *FEW, "--out", tmp_path / "two") == 2  # another request


def test_level_is_found_on_labelled_images_stored_and_taken(
    run_folder, album, tmp_path, capsys, fails
):
    labelled = tmp_path / "labelled"
    shutil.copytree(album, labelled)
    (labelled / "nothing").mkdir()
    for shade in (0, 255):
        Image.new("RGB", (48, 48), (shade,) * 3).save(labelled / "nothing" / f"{shade}.png")
    ask = ["localize", run_folder, album, "--reject", "calibrated", "--out", tmp_path / "x", *QUIET]
    assert "no level is stored for" in fails(*ask)
    # Nothing is written to --out, whether or not that could be.
    assert localize(run_folder, labelled, "--calibrate", "--out", "/proc/none") == 0
    said = capsys.readouterr().out
    level = stored_level(run_folder)
    assert f"level {level.level:g}: what separates right from wrong best on 14 pictures" in said
    assert f"wrote {run_folder / 'reject.json'}" in said
    assert level.images == 14
    (run_folder / "reject.json").unlink()
    (run_folder / "reject.json").mkdir()  # where nobody, root either, may write a file
    assert str(run_folder / "reject.json") in fails(
        "localize", run_folder, labelled, "--calibrate", *QUIET, status=1
    )
    (run_folder / "reject.json").rmdir()
    assert localize(run_folder, labelled, "--calibrate") == 0
    assert main([str(argument) for argument in ask]) == 0
    request = json.loads((tmp_path / "x" / "request.json").read_text())
    assert request["reject"] == level.level
    stored = json.loads((run_folder / "reject.json").read_text())
    (run_folder / "reject.json").write_text(json.dumps({**stored, "checkpoint": "another"}))
    assert "was chosen for another model" in fails(*ask)
    (run_folder / "reject.json").write_text("{}")
    assert "reject.json is damaged: level is missing" in fails(*ask)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--format", "cocoo"], "--format is 'cocoo', it should be one of coco, yolo"),
        (["--pictures", "move"], "--pictures is 'move', it should be one of link, copy, none"),
        (["--objects", "0"], "--objects is 0, it should be all or at least 1"),
        (["--objects", "some"], "--objects is some, it should be all or at least 1"),
        (["--min-score", "2"], "--min-score is 2.0, it should be in [0, 1]"),
        (["--nms", "-1"], "--nms is -1.0, it should be in [0, 1]"),
        (["--reject", "1.5"], "--reject is 1.5, it should be in [0, 1]"),
        (["--reject", "calibratd"], "did you mean calibrated?"),
        (["--calibrate", "2"], "--calibrate is 2.0, it should be in (0, 1]"),
    ],
)
def test_mistake_is_one_line(run_folder, album, tmp_path, fails, flags, words):
    assert words in fails("localize", run_folder, album, *flags, "--out", tmp_path / "o", *QUIET)
    assert not (tmp_path / "o").exists()
