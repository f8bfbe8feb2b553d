"""`wsol evaluate --maps` and `wsol boxes`: score maps of other programs from the command line."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from wsol_ext.cli import main
from wsol_ext.data import FolderDataset
from wsol_ext.evaluation import evaluate_map_files

QUIET = ["--progress", "false", "--workers", "0"]
FEW = ["--data", "synthetic", "--data-options", '{"length": 4}']


@pytest.fixture(scope="module")
def dataset(pictures):
    return FolderDataset(pictures / "test", pictures / "boxes.csv")


@pytest.fixture(scope="module")
def maps(dataset, tmp_path_factory):
    """A map for each picture of the test split: its first box, and something random."""
    folder, rng = tmp_path_factory.mktemp("maps"), np.random.default_rng(0)
    for index, name in enumerate(dataset.image_names):
        score_map = rng.random((48, 48)) * 0.6
        x0, y0, x1, y1 = dataset.annotations(index)["boxes"][0].int().tolist()
        score_map[y0:y1, x0:x1] += 0.4
        path = (folder / name).with_suffix(".npy" if index % 2 else ".png")
        path.parent.mkdir(exist_ok=True)
        if index % 2:
            np.save(path, score_map)
        else:
            Image.fromarray((65535 * score_map).astype(np.uint16)).save(path)
    return folder


def data(pictures):
    return ["--data", "folder", "--root", pictures, "--boxes", pictures / "boxes.csv"]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_maps_are_evaluated_and_reported_as_a_model_is(dataset, maps, pictures, tmp_path, capsys):
    names = dataset.class_names
    rows = [
        f"{n},{names[label]}\n"
        for n, label in zip(dataset.image_names, dataset.labels, strict=True)
    ]
    (tmp_path / "p.csv").write_text("image,class\n" + "".join(rows))
    flags = ["--protocols", "maxboxacc", "toploc", "--interval", "0.05", *QUIET]
    flags += ["--predictions", tmp_path / "p.csv", "--out", tmp_path / "out"]
    assert run("evaluate", "--maps", maps, *data(pictures), *flags) == 0
    written = json.loads((tmp_path / "out/evaluation.json").read_text())
    expected = evaluate_map_files(
        maps, dataset, ("maxboxacc", "toploc"), predictions=tmp_path / "p.csv", interval=0.05
    )
    assert [each["metrics"] for each in written["protocols"]] == [
        each.metrics for each in expected.protocols
    ]
    assert written["protocols"][1]["metrics"]["maps"]["cls_top1"] == 1
    assert (written["data"], written["split"], written["maps"]) == ("folder", "test", str(maps))
    assert "center baseline" in (tmp_path / "out/report.html").read_text()
    best = expected.protocols[0].metrics["maps"]["best threshold, IoU 0.5"]
    assert f"wsol boxes {maps} --threshold {best:g}" in capsys.readouterr().out
    assert not list(tmp_path.rglob("threshold.json"))


def test_results_lie_beside_the_maps_and_are_none(maps, dataset, pictures, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(maps / dataset.class_names[0])
    one = tmp_path / "maps"
    one.mkdir()
    for folder in maps.iterdir():
        (one / folder.name).mkdir()
        for path in folder.iterdir():
            (one / folder.name / path.name).write_bytes(path.read_bytes())
    for _ in range(2):
        flags = ["--protocols", "toploc", *QUIET]
        assert run("evaluate", "--maps", one, *data(pictures), *flags) == 0
    assert (one / "evaluation/report.html").exists()


def test_missing_maps_are_named_and_left_out_by_choice(maps, dataset, pictures, tmp_path, fails):
    one = next(path for path in sorted(maps.rglob("*.*")))
    folder = tmp_path / "maps" / one.parent.name
    folder.mkdir(parents=True)
    (folder / one.name).write_bytes(one.read_bytes())
    flags = ["--protocols", "maxboxacc", "--interval", "0.1", *QUIET, "--out", tmp_path / "out"]
    command = ["evaluate", "--maps", tmp_path / "maps", *data(pictures), *flags]
    count = len(dataset)
    assert f"{count - 1} of {count} images have no score map: " in fails(*command)
    assert run(*command, "--skip-missing") == 0
    written = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert written["images"] == 1
    assert written["images without a map, left out"] == count - 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--maps", "MAPS"], "--data is missing, it should be one of"),
        (
            ["--maps", "MAPS", "--data", "synthetic", "run"],
            "CHECKPOINT is run, there should be none",
        ),
        (["--maps", "nowhere", "--data", "synthetic"], "--maps is nowhere: no such file or folder"),
        (
            ["--maps", "MAPS", "--data", "synthetic", "--clusters", "none"],
            "--clusters is for a CHECK",
        ),
        (["--data", "synthetic"], "CHECKPOINT is missing: a model.safetensors, .* or --maps"),
        (["MAPS", "--data", "synthetic", "--skip-missing"], "--skip-missing is for --maps"),
        (
            ["--maps", "MAPS", *FEW, "--protocols", "sat", "--out", "OUT"],
            "protocol sat looks at crops, score maps are of whole images",
        ),
    ],
)
def test_mistake_is_one_line(maps, tmp_path, fails, flags, words):
    given = {"MAPS": maps, "OUT": tmp_path / "out"}
    message = fails("evaluate", *(given.get(flag, flag) for flag in flags), *QUIET)
    assert re.search(words, message)


def test_boxes_of_maps_are_a_table_that_the_folder_data_set_reads(maps, pictures, tmp_path):
    out = tmp_path / "boxes.csv"
    flags = ["--threshold", "0.7", "--images", pictures / "test", "--out", out]
    assert run("boxes", maps, *flags, "--progress", "false") == 0
    found = FolderDataset(pictures / "test", out)
    truth = FolderDataset(pictures / "test", pictures / "boxes.csv")
    assert len(found) == len(truth)
    near = [
        (found.annotations(k)["boxes"][0] - truth.annotations(k)["boxes"][0]).abs().max() <= 2
        for k in range(len(truth))
    ]
    assert sum(near) > len(truth) / 2


def test_several_thresholds_are_told_apart(tmp_path):
    score_map = np.zeros((224, 224), np.float32)
    score_map[56:112, 28:112] = 0.5
    score_map[56:84, 28:56] = 1
    score_map[150:160, 150:160] = 0.9
    np.save(tmp_path / "a.npy", score_map)
    flags = ["--threshold", "0.2", "otsu", "0.8", "--out", tmp_path / "out", "--progress", "false"]
    assert run("boxes", tmp_path / "a.npy", *flags) == 0
    (record,) = json.loads((tmp_path / "out/boxes.json").read_text())
    assert {key: record[key] for key in ("image", "width", "height")} == {
        **{"image": "a", "width": 224, "height": 224}
    }
    boxes = {each["threshold"]: each["box"] for each in record["boxes"]}
    assert boxes[0.2] == [28, 56, 112, 112]
    assert boxes[0.8] == [28, 56, 56, 84]
    assert list(boxes) == [0.2, "otsu", 0.8]
    rows = read_csv(tmp_path / "out/boxes.csv")
    assert list(rows[0]) == ["image", "threshold", "x0", "y0", "x1", "y1"]
    flags = ["--threshold", "0.2", "--contours", "all", "--out", tmp_path / "all.json"]
    assert run("boxes", tmp_path / "a.npy", *flags, "--progress", "false") == 0
    (record,) = json.loads((tmp_path / "all.json").read_text())
    found = [each["box"] for each in record["boxes"]]
    assert found == [[28, 56, 112, 112], [150, 150, 160, 160]]


def test_boxes_are_in_pixels_of_the_images(tmp_path):
    (tmp_path / "images/jay").mkdir(parents=True)
    (tmp_path / "maps/jay").mkdir(parents=True)
    Image.new("RGB", (640, 320)).save(tmp_path / "images/jay/1.jpg")
    np.save(tmp_path / "maps/jay/1.npy", np.kron([[1, 0], [0, 0]], np.ones((112, 112))))
    flags = ["--threshold", "0.5", "--images", tmp_path / "images", "--out", tmp_path / "b.csv"]
    assert run("boxes", tmp_path / "maps", *flags, "--progress", "false") == 0
    assert read_csv(tmp_path / "b.csv") == [
        {"image": "jay/1.jpg", "x0": "0.0", "y0": "0.0", "x1": "320.0", "y1": "160.0"}
    ]


def test_broken_map_is_named_and_the_rest_done(tmp_path, fails):
    np.save(tmp_path / "a.npy", np.eye(8))
    np.save(tmp_path / "b.npy", np.full((8, 8), np.nan))
    out = tmp_path / "boxes.csv"
    message = fails("boxes", tmp_path, "--out", out, "--progress", "false", status=1)
    assert "b.npy: NaN in 64 of 64 pixels" in message
    assert [row["image"] for row in read_csv(out)] == ["a"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "OUT", "--threshold", "otsi"], "did you mean otsu?"),
        (["--out", "OUT", "--threshold", "1"], "--threshold is 1.0, it should be in [0, 1)"),
        (["--out", "OUT", "--contours", "larger"], "did you mean largest?"),
        (["--out", "OUT", "--images", "nowhere"], "--images is nowhere: no such file or folder"),
        ([], "--out is missing, it should be a .csv or .json file"),
    ],
)
def test_mistake_of_boxes_is_one_line(maps, tmp_path, fails, flags, words):
    given = {"OUT": tmp_path / "out"}
    assert words in fails("boxes", maps, *(given.get(flag, flag) for flag in flags))


def test_maps_of_no_image_and_two_maps_of_one_are_named(tmp_path, fails):
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, np.eye(8))
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images/a.jpg")
    flags = ["--images", tmp_path / "images", "--out", tmp_path / "out"]
    message = fails("boxes", tmp_path / "b.npy", *flags)
    assert "images: none of the 1 score maps is of an image there: b" in message
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "more/a.npy", np.eye(8))
    message = fails("boxes", tmp_path / "a.npy", tmp_path / "more", "--out", tmp_path / "out")
    assert "are both maps of a" in message


def test_map_of_no_image_is_named_and_the_rest_done(tmp_path, capsys):
    (tmp_path / "maps").mkdir()
    for name in ("a", "b", "c"):
        np.save(tmp_path / f"maps/{name}.npy", np.eye(8))
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "c.jpg", "c.png"):
        Image.new("L", (8, 8)).save(tmp_path / "images" / name)
    flags = ["--images", tmp_path / "images", "--out", tmp_path / "b.csv", "--progress", "false"]
    assert run("boxes", tmp_path / "maps", *flags) == 1
    out, message = capsys.readouterr()
    assert f"maps/b.npy: is of no image in {tmp_path / 'images'}" in message
    assert "maps/c.npy: is of no one image, c.jpg or c.png" in message
    assert f"1 of 3 score maps, and 2 of no image: {tmp_path / 'b.csv'}" in out
    assert [row["image"] for row in read_csv(tmp_path / "b.csv")] == ["a.jpg"]


def test_mistakes_are_said_before_torch_is_imported():
    script = "import sys; from wsol_ext.cli import main\n"
    script += (
        "assert main(['boxes', 'nowhere']) == 2; assert main(['evaluate', '--maps', 'no']) == 2\n"
    )
    script += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
