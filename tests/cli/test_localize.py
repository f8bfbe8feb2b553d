"""`wsol localize`: boxes of one's own pictures."""

import contextlib
import io
import json
import os
import re
import shutil

import pytest
import torch
from cli.tiny_runs import TINY
from PIL import Image
from pycocotools.coco import COCO

from wsol_ext import create_model
from wsol_ext.checkpoints import load_model, save_model
from wsol_ext.cli import main
from wsol_ext.data import FolderDataset
from wsol_ext.localize import boxes_of_maps, list_images, localize_images

FEW_STEPS = {"size": 16, "width": 4, "channels": 8, "centres": 4, "segments": 12, "max_steps": 2}
QUIET = ["--progress", "false", "--workers", "0", "--device", "cpu"]


@pytest.fixture
def album(pictures, tmp_path):
    """Test pictures in class folders, one of them large."""
    folder = tmp_path / "album"
    shutil.copytree(pictures / "test", folder)
    first = sorted(folder.rglob("*.png"))[0]
    Image.open(first).resize((300, 200)).save(first)
    return folder


def localize(run_folder, *arguments):
    return main(["localize", str(run_folder), *map(str, arguments), *QUIET])


def read(out):
    return json.loads((out / "boxes.json").read_text()), json.loads(
        (out / "dataset.json").read_text()
    )


def test_results_load_in_pycocotools(run_folder, album, tmp_path):
    assert localize(run_folder, album, "--out", tmp_path / "out", "--top-k", "2") == 0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "out" / "dataset.json"))
        results = coco.loadRes(str(tmp_path / "out" / "boxes.json"))
    assert len(results.getAnnIds()) == 24
    names = {category["name"] for category in coco.loadCats(coco.getCatIds())}
    assert names == {folder.name for folder in album.iterdir()}
    for image in coco.loadImgs(coco.getImgIds()):
        assert Image.open(album / image["file_name"]).size == (image["width"], image["height"])
        best, second = results.loadAnns(results.getAnnIds(image["id"]))
        assert 1 >= best["score"] >= second["score"] > 0
        for found in (best, second):
            x, y, width, height = found["bbox"]
            assert 0 <= x < x + width <= image["width"] + 0.01
            assert 0 <= y < y + height <= image["height"] + 0.01


def test_box_is_in_pixels_of_the_original(run_folder, album):
    model = load_model(run_folder / "model.safetensors")
    small = sorted(album.rglob("*.png"))[1]
    large = small.with_name("large.png")
    Image.open(small).resize((480, 96), Image.Resampling.NEAREST).save(large)
    one, other = localize_images(model, [small, large])
    scaled = one.objects[0].box * torch.tensor([10.0, 2.0, 10.0, 2.0])
    assert torch.allclose(scaled, other.objects[0].box, atol=12)
    assert other.size == (480, 96)


@pytest.mark.parametrize("method", ["tscam", "molt"])
def test_models_whose_input_is_no_square_localize_and_evaluate(pictures, tmp_path, method):
    options = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8}
    own = {"clusters": FEW_STEPS} if method == "molt" else {}
    model = create_model(method, "vit_tiny_patch16_224", 4, False, (32, 64), options, **own)
    path = tmp_path / "model.safetensors"
    save_model(model, path, sorted(folder.name for folder in (pictures / "test").iterdir()))
    assert load_model(path).config == model.config
    assert localize(path, pictures / "test", "--out", tmp_path / "out") == 0
    assert len(read(tmp_path / "out")[0]) == 12
    data = ["--data", "folder", "--root", pictures, "--boxes", pictures / "boxes.csv"]
    arguments = ["--protocols", "toploc", "sat", "--out", tmp_path / "evaluation", *data, *QUIET]
    assert main(["evaluate", str(path), *map(str, arguments)]) == 0


def test_box_of_a_known_map():
    maps = torch.zeros(2, 14, 14)
    maps[0, 3:6, 7:12] = 1
    box, whole = boxes_of_maps(maps, torch.tensor([[280, 140], [280, 140]]), threshold=0.5)
    assert torch.allclose(box, torch.tensor([140.0, 30.0, 240.0, 60.0]), atol=1.3)
    assert whole.tolist() == [0, 0, 280, 140]


def test_overlay_is_written_for_each_image(run_folder, album, tmp_path):
    assert localize(run_folder, album, "--out", tmp_path / "out") == 0
    overlays = sorted((tmp_path / "out" / "overlays").glob("*.jpg"))
    assert len(overlays) == 12
    assert all(max(Image.open(path).size) >= 256 for path in overlays)


@pytest.mark.parametrize(
    ("value", "suffixes"),
    [
        ("png", {".png"}),
        ("true", {".jpg"}),
        ("all", {".jpg"}),
        ("false", set()),
        ("none", set()),
        ("0", set()),
    ],
)
def test_overlays_are_of_the_kind_asked_for(run_folder, album, tmp_path, value, suffixes):
    assert localize(run_folder, album, "--out", tmp_path / "out", "--overlays", value) == 0
    assert {path.suffix for path in (tmp_path / "out").glob("overlays/0*")} == suffixes


@pytest.mark.parametrize(("number", "drawn"), [("5", [1, 4, 6, 9, 11]), ("99", range(1, 13))])
def test_overlays_of_some_images_are_spread_evenly(run_folder, album, tmp_path, number, drawn):
    assert localize(run_folder, album, "--out", tmp_path / "out", "--overlays", number) == 0
    found = sorted(int(path.name[:6]) for path in (tmp_path / "out" / "overlays").glob("*.jpg"))
    assert found == list(drawn)
    assert len(read(tmp_path / "out")[0]) == 12


def test_fast_decoding_is_another_request(run_folder, album, tmp_path, fails):
    flags = ["--out", tmp_path / "out", "--overlays", "none", *QUIET]
    assert localize(run_folder, album, *flags, "--decoding", "fast") == 0
    assert len(read(tmp_path / "out")[0]) == 12
    message = fails("localize", run_folder, album, *flags)
    assert "(decoding 'fast' there, 'exact' here)" in message


def test_speed_is_said_in_the_end(run_folder, album, tmp_path, capsys):
    assert localize(run_folder, album, "--out", tmp_path / "out", "--overlays", "none") == 0
    *_, speed, _ = capsys.readouterr().out.splitlines()
    words = r"12 images in \d+\.\d s, \d+\.\d a second; reading them took \d+% of the time"
    assert re.fullmatch(words, speed)


def test_broken_images_are_named_and_the_rest_is_done(run_folder, album, tmp_path, capsys):
    data = sorted(album.rglob("*.png"))[2].read_bytes()
    (album / "truncated.png").write_bytes(data[: len(data) // 2])
    (album / "letter.jpg").write_text("dear all")
    assert localize(run_folder, album, "--out", tmp_path / "out", "--threshold", "0.9") == 1
    threshold, *errors = capsys.readouterr().err.strip().splitlines()
    assert threshold == "wsol: threshold 0.9: as given"
    assert len(errors) == 3
    assert all(line.startswith("wsol: error: ") for line in errors)
    assert any("truncated.png" in line for line in errors)
    assert any("letter.jpg" in line for line in errors)
    assert errors[-1].endswith("2 of 14 images could not be read")
    boxes, dataset = read(tmp_path / "out")
    assert len(boxes) == len(dataset["images"]) == 12


def test_own_pictures_of_an_earlier_time_are_not_taken(run_folder, album):
    for _ in range(2):
        assert localize(run_folder, album, "--out", album / "boxes", "--overwrite") == 0
        assert len(read(album / "boxes")[1]["images"]) == 12
    assert (album / "boxes.old-1").is_dir()


def test_pictures_that_another_run_drew_are_not_taken(run_folder, album, tmp_path):
    assert localize(run_folder, album, "--out", album / "boxes") == 0
    assert localize(run_folder, album, "--out", tmp_path / "out") == 0
    assert len(read(tmp_path / "out")[1]["images"]) == 12


def test_results_among_class_folders_are_no_class(run_folder, album, tmp_path):
    classes = sorted(folder.name for folder in album.iterdir())
    assert localize(run_folder, album, "--out", album / "boxes") == 0
    assert FolderDataset(album).class_names == classes


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_folder_of_ones_own_files_is_not_written_to(run_folder, album, fails, flags):
    before = sorted(album.rglob("*"))
    for out in (album, album / "parrot"):
        message = fails("localize", run_folder, album, "--out", out, *flags, *QUIET)
        assert "holds files that are no results of wsol; choose another --out" in message
    assert sorted(album.rglob("*")) == before


def test_class_called_as_a_folder_of_results_is_taken(run_folder, album):
    (album / "parrot").rename(album / "parts")
    assert localize(run_folder, album, "--out", album / "boxes") == 0
    assert len(read(album / "boxes")[1]["images"]) == 12


def test_names_may_be_as_long_as_the_file_system_allows(run_folder, album, tmp_path):
    for name in ("x" * 251 + ".png", "\N{BIRD}" * 62 + ".png"):
        shutil.copy(next(album.glob("*/*.png")), tmp_path / name)
        out = tmp_path / name[:1]
        assert localize(run_folder, tmp_path / name, "--out", out) == 0
        assert read(out)[1]["images"][0]["file_name"] == name


def test_names_that_are_no_utf8_are_written_for_every_json_reader(run_folder, album, tmp_path):
    photo = album / os.fsdecode(b"caf\xe9.png")
    shutil.copy(next(album.glob("*/*.png")), photo)
    assert localize(run_folder, photo, "--out", tmp_path / "out") == 0
    boxes, dataset = read(tmp_path / "out")
    assert boxes[0]["file_name"] == dataset["images"][0]["file_name"] == "caf\\xe9.png"
    for path in (tmp_path / "out").glob("*.json"):
        assert "\\ud" not in path.read_text()


def test_links_keep_their_own_names(run_folder, album, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "mine.png").symlink_to(next(album.glob("*/*.png")))
    assert localize(run_folder, tmp_path / "links", "--out", tmp_path / "out") == 0
    assert read(tmp_path / "out")[1]["images"][0]["file_name"] == "mine.png"


def test_classes_may_be_called_by_numbers(pictures, tmp_path):
    root = tmp_path / "numbered"
    for split in ("train", "test"):
        for number, folder in enumerate(sorted((pictures / split).iterdir())):
            shutil.copytree(folder, root / split / str(number))
    data = ["--data", "folder", "--root", str(root), "--epochs", "1", "--batch-size", "16"]
    assert main(["train", "--out", str(tmp_path / "run"), *TINY, *data]) == 0
    flags = ["--labels", "folder", "--out", tmp_path / "out"]
    assert localize(tmp_path / "run", root / "test", *flags) == 0
    assert {box["category"] for box in read(tmp_path / "out")[0]} == {"0", "1", "2", "3"}


def test_only_broken_images_still_end_in_files(run_folder, tmp_path, capsys):
    (tmp_path / "letter.jpg").write_text("dear all")
    assert localize(run_folder, tmp_path / "letter.jpg", "--out", tmp_path / "out") == 1
    assert read(tmp_path / "out")[0] == []


def test_known_classes_come_from_folders_or_a_file(run_folder, album, tmp_path):
    assert localize(run_folder, album, "--labels", "folder", "--out", tmp_path / "folder") == 0
    boxes, _ = read(tmp_path / "folder")
    assert all(box["category"] == box["file_name"].split("/")[0] for box in boxes)
    table = tmp_path / "labels.csv"
    names = [path.name for path in list_images([album])]
    table.write_text("image,class\n" + "".join(f"{name},parrot\n" for name in names))
    assert localize(run_folder, album, "--labels", table, "--out", tmp_path / "file") == 0
    assert {box["category"] for box in read(tmp_path / "file")[0]} == {"parrot"}


def test_pictures_of_a_data_set_of_one_class_keep_their_names_there(run_folder, album, tmp_path):
    of_class = sorted(path for path in album.iterdir() if path.is_dir())[0]
    shutil.copytree(of_class, tmp_path / "root" / of_class.name)
    flags = ["--data", "folder", "--root", tmp_path / "root", "--overlays", "false"]
    assert localize(run_folder, *flags, "--out", tmp_path / "out") == 0
    names = {one["file_name"] for one in json.loads((tmp_path / "out" / "boxes.json").read_text())}
    assert names == {f"{of_class.name}/{path.name}" for path in of_class.iterdir()}
    with pytest.warns(UserWarning, match="a program found these boxes"):
        FolderDataset(tmp_path / "root", tmp_path / "out" / "dataset.json")


def test_batch_size_changes_nothing(run_folder, album, tmp_path):
    for size in ("1", "5"):
        assert localize(run_folder, album, "--batch-size", size, "--out", tmp_path / size) == 0
    (one, images), (five, same_images) = read(tmp_path / "1"), read(tmp_path / "5")
    assert images == same_images
    for first, second in zip(one, five, strict=True):
        assert first["category_id"] == second["category_id"]
        assert first["bbox"] == pytest.approx(second["bbox"], abs=1.5)


def test_boxes_that_fill_their_images_are_said_with_the_flag_to_change(
    run_folder, album, tmp_path, capsys
):
    assert localize(run_folder, album, "--out", tmp_path / "low", "--threshold", "0") == 0
    said = capsys.readouterr().err
    assert "wsol: warning: 12 of 12 boxes cover nearly all of their image" in said
    assert "as --threshold, otsu, or above 0.0, may fit this model's maps" in said
    assert localize(run_folder, album, "--out", tmp_path / "high", "--threshold", "0.9") == 0
    assert capsys.readouterr().err == "wsol: threshold 0.9: as given\n"


def test_names_of_classes_make_nothing_outside(run_folder, album, tmp_path):
    names = ["<script>alert(1)</script>", "../../escaped", "$(touch escaped)", "=HYPERLINK(1)"]
    model = load_model(run_folder / "model.safetensors")
    save_model(model, tmp_path / "model.safetensors", names)
    before = {*tmp_path.rglob("*")}
    flags = ["--top-k", "4", "--out", tmp_path / "out"]
    assert localize(tmp_path / "model.safetensors", album, *flags) == 0
    assert {box["category"] for box in read(tmp_path / "out")[0]} == set(names)
    made = {*tmp_path.rglob("*")} - before
    assert all(path.is_relative_to(tmp_path / "out") for path in made)
    assert not any("escaped" in path.name for path in made)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--threshold", "-0.1"], ["threshold is -0.1"]),
        (["--threshold", "nan"], ["threshold is nan, it should be in [0, 1)"]),
        (
            ["--threshold", "otus"],
            ["--threshold is 'otus'", "best, auto, otsu, mean; did you mean otsu?"],
        ),
        (["--threshold", "best"], ["none is stored for", "`wsol evaluate RUN`"]),
        (["--top-k", "9"], ["top_k is 9", "4"]),
        (["--top-k", "2", "--labels", "folder"], ["top_k is 2, it should be 1 with labels"]),
        (["--labels", "/nowhere.csv"], ["--labels is /nowhere.csv: no such file"]),
        (["/nowhere.jpg"], ["/nowhere.jpg: no such file or folder"]),
        (["--overlays", "pgn"], ["--overlays is 'pgn'", "did you mean png?"]),
        (["--decoding", "fsat"], ["--decoding is 'fsat'", "did you mean fast?"]),
    ],
)
def test_mistake_is_one_line(run_folder, album, tmp_path, fails, flags, words):
    message = fails("localize", run_folder, album, *flags, "--out", tmp_path / "out", *QUIET)
    for word in words:
        assert word in message
    assert not (tmp_path / "out").exists()  # it blocks nothing


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("picture,class\n", [":1: the header"]),
        ("image,class\n0.png,parrot\n1.png\n", [":3: the line has 1 fields"]),
        ("image,class\n0.png,penguin\n", [":2: 'penguin' is no class of the model"]),
        ("image,class\nnone.png,parrot\n", ["has no line for"]),
        ("\x00\udcff", ["no UTF-8 CSV"]),
    ],
)
def test_malformed_label_file_is_named_with_its_line(
    run_folder, album, tmp_path, fails, content, words
):
    table = tmp_path / "labels.csv"
    table.write_bytes(content.encode("utf-8", "surrogateescape"))
    message = fails(
        "localize", run_folder, album, "--labels", table, "--out", tmp_path / "out", *QUIET
    )
    for word in [str(table), *words]:
        assert word in message


def test_folder_without_images_is_one_line(run_folder, tmp_path, fails):
    (tmp_path / "empty").mkdir()
    assert "no image" in fails("localize", run_folder, tmp_path / "empty", *QUIET)
