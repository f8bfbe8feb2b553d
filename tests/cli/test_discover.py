"""`wsol discover`, and what becomes of its boxes."""

import csv
import json
import shutil
from itertools import islice

import pytest
from discovery.drawings import (
    ARCHITECTURE,
    OPTIONS,
    PATCH,
    SIDE,
    THRESHOLD,
    blind_backbone,
    drawing,
    weights_of,
)
from PIL import Image

from wsol_ext.annotations import FORMATS
from wsol_ext.cli import discover as command
from wsol_ext.cli import main
from wsol_ext.data import FolderDataset

QUIET = ["--progress", "false", "--workers", "0"]
BLOCKS = {
    "cats/a.png": (1, 2, 4, 7, "red"),
    "cats/b.png": (4, 1, 8, 3, "gold"),
    "dogs/c.png": (2, 5, 5, 7, "teal"),
    "dogs/d.png": (0, 0, 3, 2, "white"),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return weights_of(blind_backbone(), tmp_path_factory.mktemp("weights") / "blind.safetensors")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Class folders of pictures with one block each, and a table of these."""
    root = tmp_path_factory.mktemp("album")
    rows = [["image", "x0", "y0", "x1", "y1"]]
    for name, block in BLOCKS.items():
        path = root / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing(block, size=(160, 80)).save(path)
        rows.append([name, *(v * (20, 10)[k % 2] for k, v in enumerate(block[:4]))])
    with open(root / "boxes.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture(scope="module")
def discover(weights):
    backbone = ["--backbone", ARCHITECTURE, "--backbone-options", json.dumps(OPTIONS)]
    backbone += ["--img-size", str(SIDE), "--backbone-weights", str(weights)]

    def run(*arguments):
        given = ["discover", *map(str, arguments), *backbone, "--threshold", str(THRESHOLD)]
        return main([*given, "--device", "cpu", *QUIET])

    return run


@pytest.fixture(scope="module")
def found(discover, album, tmp_path_factory):
    """What is found in the album, in all formats."""
    out = tmp_path_factory.mktemp("results") / "found"
    flags = ["--out", out, "--batch-size", "2", "--format", *FORMATS]
    assert discover(album / "pictures", *flags) == 0
    return out


def read_boxes(out):
    return json.loads((out / "boxes.json").read_text())


def test_what_is_found_is_written_as_localize_writes_it(found, album):
    boxes = read_boxes(found)
    assert [one["file_name"] for one in boxes] == list(BLOCKS)
    for one in boxes:
        x0, y0, x1, y1, _ = BLOCKS[one["file_name"]]
        assert one["bbox"] == [20 * x0, 10 * y0, 20 * (x1 - x0), 10 * (y1 - y0)]
        assert one["category"] == "object"
        assert 0 < one["score"] <= 1
    assert len(list((found / "overlays").glob("*.jpg"))) == 4
    for kind in FORMATS.values():
        assert all((found / name).exists() for name in kind.names)


@pytest.mark.parametrize("name", ["boxes.csv", "dataset.json"])
def test_found_boxes_are_pseudo_labels_and_are_measured(found, album, tmp_path, capsys, name):
    with pytest.warns(UserWarning, match="a program found these boxes"):
        dataset = FolderDataset(album / "pictures", found / name)
    truth = FolderDataset(album / "pictures", album / "boxes.csv")
    for k in range(4):
        assert dataset[k]["boxes"].tolist() == truth[k]["boxes"].tolist()
    data = ["--data", "folder", "--root", album / "pictures", "--boxes", album / "boxes.csv"]
    arguments = ["evaluate", "--found", found / name, *data, "--protocols", "corloc"]
    assert main([*map(str, arguments), "--out", str(tmp_path), *QUIET]) == 0
    written = json.loads((tmp_path / "evaluation.json").read_text())
    (corloc,) = written["protocols"]
    assert corloc["metrics"]["found"] == {"corloc": 1.0}
    assert 0 <= corloc["metrics"]["center baseline"]["corloc"] < 1
    assert "CorLoc" in capsys.readouterr().out


def test_a_split_of_one_class_folder_is_read_back_as_a_data_set(discover, album, tmp_path):
    shutil.copytree(album / "pictures" / "cats", tmp_path / "split" / "cats")
    assert discover(tmp_path / "split", "--out", tmp_path / "out", "--format", "csv") == 0
    truth = FolderDataset(album / "pictures", album / "boxes.csv")
    for name in ("boxes.csv", "dataset.json"):
        with pytest.warns(UserWarning, match="a program found these boxes"):
            dataset = FolderDataset(tmp_path / "split", tmp_path / "out" / name)
        assert dataset.image_names == ["cats/a.png", "cats/b.png"] == truth.image_names[:2]
        for k in range(2):
            assert dataset[k]["boxes"].tolist() == truth[k]["boxes"].tolist()


def test_an_interrupted_result_goes_on(found, discover, album, tmp_path, monkeypatch, capsys):
    results = command._results

    def interrupted(*arguments):
        yield from islice(results(*arguments), 3)
        raise KeyboardInterrupt

    flags = [album / "pictures", "--out", tmp_path / "out", "--batch-size", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(command, "_results", interrupted)
        assert discover(*flags) == 130
    assert len((tmp_path / "out" / "journal-0.jsonl").read_text().splitlines()) == 3
    assert discover(*flags) == 0
    for name in ("boxes.json", "dataset.json"):
        assert (tmp_path / "out" / name).read_bytes() == (found / name).read_bytes()
    capsys.readouterr()
    assert discover(*flags) == 0
    assert "is finished: nothing to discover" in capsys.readouterr().out
    assert discover(*flags, "--features", "keys") == 2
    assert "holds other results (features 'tokens' there, 'keys' here)" in capsys.readouterr().err


def test_broken_pictures_and_empty_ones_are_said(discover, tmp_path, capsys):
    (tmp_path / "letter.jpg").write_text("dear all")
    Image.new("RGB", (40, 30), "white").save(tmp_path / "plain.png")
    assert discover(tmp_path, "--out", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "letter.jpg: cannot be read as an image" in captured.err
    assert "1 of 2 images have no object: none stands apart by these tokens" in captured.err
    assert "1 of 2 images: " in captured.out
    assert read_boxes(tmp_path / "out") == []


def test_mistakes_are_said_together(tmp_path, album, capsys):
    pictures = str(album / "pictures")
    given = ["--method", "lost", "--objects", "2", "--features", "key", "--format", "yol"]
    assert main(["discover", pictures, *given, "--decoding", "quick", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    for text in (
        "--objects is 2, it should be 1 for lost; maskcut finds several",
        "--features",
        "--format",
        "--decoding",
    ):
        assert f"wsol: error: {text}" in said
    assert main(["discover", pictures, "--img-size", "450", "--out", str(tmp_path)]) == 2
    assert "--img-size is 450, it should be a multiple of the patch" in capsys.readouterr().err


@pytest.mark.parametrize(("patches_a_side", "said"), [(1, "1 patch"), (129, "16,641 patches")])
def test_a_size_of_too_few_or_too_many_patches_is_refused_at_once(
    album, tmp_path, capsys, weights, patches_a_side, said
):
    backbone = ["--backbone", ARCHITECTURE, "--backbone-options", json.dumps(OPTIONS)]
    size = ["--img-size", str(patches_a_side * PATCH), "--backbone-weights", str(weights)]
    out = tmp_path / "found"
    given = [str(album / "pictures"), *backbone, *size, "--device", "cpu", "--out", str(out)]
    assert main(["discover", *given]) == 2
    error = capsys.readouterr().err
    assert f"--img-size is {patches_a_side * PATCH}, of {said} of {PATCH} x {PATCH}:" in error
    assert not out.exists()


def test_weights_that_cannot_be_had_are_asked_for(album, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    backbone = ["--backbone", "vit_small_patch14_dinov2", "--img-size", "28"]
    given = ["discover", str(album / "pictures"), *backbone, "--out", str(tmp_path / "out")]
    assert main([*given, *QUIET]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.endswith(
        "or start from a file of the backbone's weights (--backbone-weights FILE)"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--protocols", "toploc"],
            "protocol toploc looks at score maps, of boxes there is corloc",
        ),
        (["--maps", "."], "--found is boxes in place of score maps, and --maps is given"),
        (["--published-heads", "3"], "--found needs no model"),
    ],
)
def test_boxes_are_no_maps(found, album, tmp_path, capsys, given, message):
    data = ["--data", "folder", "--root", album / "pictures", "--boxes", album / "boxes.csv"]
    arguments = ["evaluate", "--found", found / "boxes.csv", *data, "--out", tmp_path, *given]
    if "--protocols" not in given:
        arguments += ["--protocols", "corloc"]
    assert main([*map(str, arguments), *QUIET]) == 2
    assert message in capsys.readouterr().err


def test_images_that_the_file_does_not_name(found, album, tmp_path, capsys):
    lines = (found / "boxes.csv").read_text().splitlines(keepends=True)
    stray = lines[4].replace("dogs/d.png", "dogs/e.png")
    (tmp_path / "few.csv").write_text("".join([*lines[:3], stray]))
    data = ["--data", "folder", "--root", album / "pictures", "--boxes", album / "boxes.csv"]
    arguments = ["evaluate", "--found", tmp_path / "few.csv", *data, "--out", tmp_path / "out"]
    arguments = [*map(str, arguments), "--protocols", "corloc", *QUIET]
    assert main(arguments) == 2
    assert "does not name 2 of 4 images: dogs/c.png, dogs/d.png" in capsys.readouterr().err
    assert main([*arguments, "--skip-missing"]) == 0
    assert "few.csv: 1 name is of no image of the data: dogs/e.png" in capsys.readouterr().err
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (written["images"], written["images without a line, left out"]) == (2, 2)
