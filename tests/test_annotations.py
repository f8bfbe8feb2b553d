"""Boxes in the forms of labelling tools, as the tools' own readers, or readers of their rules, find them."""

import contextlib
import csv
import io
import json
import logging
import os
import re
import tracemalloc
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import yaml
from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image
from pycocotools.coco import COCO
from torchvision.datasets import CocoDetection, VOCDetection

from wsol_ext.annotations import FORMATS, About, Object, Picture, _voc, write

CLASSES = ["cat", "dog é", "<bird> & co"]
NAMES = [
    "a b.jpg",
    "cats/a.jpg",
    "cats/a.png",  # whose labels would have the name of those before
    "trip/images/é 日本.jpg",  # in a folder that YOLO's readers take for theirs
    "dogs/a.jpg",
    "empty.jpg",
    "x & <y>.jpg",
]
BOX = (10.25, 5.0, 50.5, 60.0)
SMALL = Object(1, 0.5, (0.0, 0.0, 20.0, 20.0), 0.8, 0.625)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Seven pictures, one without objects, and behind them one that is broken and one that is rejected."""
    album = tmp_path_factory.mktemp("album")
    found = []
    for index, name in enumerate(NAMES):
        path = album / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (100 + index, 80)
        Image.new("RGB", size, (30 * index, 0, 0)).save(path)
        objects = (Object(index % 3, 0.75, BOX), SMALL)
        found.append(Picture(index + 1, name, path, size, () if name == "empty.jpg" else objects))
    found.append(Picture(8, "broken.jpg", album / "broken.jpg", error="broken.jpg: no picture"))
    found.append(Picture(9, "none.jpg", album / "none.jpg", (9, 9), rejected=(1, 0.2)))
    return found


def expected(pictures):
    """What every form has: by name the size and the objects of each picture that was read and not rejected."""
    return {picture.name: (picture.size, picture.objects) for picture in pictures[:7]}


def corners(box):
    x, y, width, height = box
    return (x, y, x + width, y + height)


def test_coco_data_set_is_complete_and_numbers_its_categories_from_1(pictures, tmp_path):
    write("coco", tmp_path, pictures, CLASSES)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "dataset.json"))
        results = coco.loadRes(str(tmp_path / "boxes.json"))
    assert {k: coco.cats[k]["name"] for k in coco.cats} == dict(enumerate(CLASSES, 1))
    assert {"info", "licenses"} <= set(coco.dataset)
    assert [annotation["id"] for annotation in coco.dataset["annotations"]] == [*range(1, 13)]
    for source in (coco, results):
        read = {
            image["file_name"]: (
                (image["width"], image["height"]),
                tuple(
                    Object(
                        one["category_id"] - 1,
                        one["score"],
                        tuple(one["bbox"]),
                        one.get("class_probability"),
                        one.get("map_mean"),
                    )
                    for one in source.loadAnns(source.getAnnIds(image["id"]))
                ),
            )
            for image in source.loadImgs(source.getImgIds())
        }
        assert read == expected(pictures)
    first = coco.dataset["annotations"][0]
    assert (first["area"], first["iscrowd"]) == (3030.0, 0)


def test_coco_data_set_is_read_with_its_pictures_by_torchvision(pictures, tmp_path):
    write("coco", tmp_path, pictures, CLASSES)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = CocoDetection(str(pictures[0].path.parent), str(tmp_path / "dataset.json"))
    read = [(image.size, tuple(tuple(one["bbox"]) for one in target)) for image, target in dataset]
    assert read == [
        (size, tuple(one.box for one in objects)) for size, objects in expected(pictures).values()
    ]


def read_yolo(folder):
    """A data set by ultralytics' rules: of a picture's path the last /images/ becomes /labels/, its suffix .txt."""
    data = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    images = folder / data["train"]
    assert data["val"] == data["train"]
    for path in sorted(images.rglob("*.*")):
        if path.is_dir():
            continue
        before, after = str(path).rsplit("/images/", 1)
        labels = Path(before, "labels", after).with_suffix(".txt")
        rows = [line.split() for line in labels.read_text(encoding="utf-8").splitlines()]
        assert all(len(row) == 5 for row in rows)
        with Image.open(path) as image:
            size = image.size
        objects = []
        for number, *place in rows:
            x, y, w, h = (float(v) * side for v, side in zip(place, 2 * size, strict=True))
            objects.append((data["names"][int(number)], (x - w / 2, y - h / 2, w, h)))
        yield path, size, objects


@pytest.mark.parametrize("placing", ["link", "copy"])
def test_yolo_finds_each_pictures_labels(pictures, tmp_path, placing):
    (folder,) = write("yolo", tmp_path, pictures, CLASSES, About(pictures=placing))
    read = list(read_yolo(folder))
    by_size = {size: (path, objects) for path, size, objects in read}  # each has its own
    assert len(by_size) == len(read) == 7
    for picture in pictures[:7]:
        path, objects = by_size[picture.size]
        assert path.is_symlink() == (placing == "link")
        assert path.read_bytes() == picture.path.read_bytes()
        assert [name for name, _ in objects] == [CLASSES[one.category] for one in picture.objects]
        for (_, box), one in zip(objects, picture.objects, strict=True):
            assert box == pytest.approx(one.box, abs=1e-3)
    assert len(list(folder.rglob("*.txt"))) == 7  # one also for the picture without objects


def test_voc_is_read_with_its_pictures_by_torchvision(pictures, tmp_path):
    jpegs = [picture for picture in pictures if picture.path.suffix == ".jpg"]
    write("voc", tmp_path, jpegs, CLASSES)
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit" / "VOC2012").symlink_to(tmp_path / "voc")
    dataset = VOCDetection(str(tmp_path), "2012", "train")
    assert len(dataset) == 6
    for (image, target), picture in zip(dataset, jpegs[:6], strict=True):
        annotation = target["annotation"]
        assert image.size == picture.size
        assert {k: int(v) for k, v in annotation["size"].items()} == {
            "width": picture.size[0],
            "height": picture.size[1],
            "depth": 3,
        }
        objects = annotation.get("object", [])
        assert [one["name"] for one in objects] == [CLASSES[k.category] for k in picture.objects]
        if objects:
            # From 10.25 to 60.75: the 11th to the 61st pixel.
            places = [tuple(map(int, one["bndbox"].values())) for one in objects]
            assert places == [(11, 6, 61, 65), (1, 1, 20, 20)]
            assert [float(one["score"]) for one in objects] == [0.75, 0.5]


def test_voc_names_of_classes_fit_its_list_and_stay_apart():
    with pytest.warns(UserWarning, match=r"'a:b' is 'a_b_', '#c' is '_c'"):
        assert _voc._plain_names(["a:b", "a_b", "#c"]) == ["a_b_", "a_b", "_c"]


def test_voc_has_a_file_for_each_of_two_pictures_of_one_stem_and_no_white_space(pictures, tmp_path):
    (folder,) = write("voc", tmp_path, pictures, CLASSES, {"pictures": "none"})
    names = (folder / "ImageSets" / "Main" / "train.txt").read_text(encoding="utf-8").splitlines()
    assert names[:4] == ["a_b", "cats/a", "cats/a_3", "trip/images/é_日本"]
    for name in names:
        assert (folder / "Annotations" / f"{name}.xml").is_file()
    listed = (folder / "labelmap.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split(":")[0] for line in listed] == CLASSES
    assert not (folder / "JPEGImages").exists()


def accepted(task, number):
    """A task whose predictions an annotator took as they are."""
    return {**task, "id": number, "annotations": task["predictions"] or [{"result": []}]}


def test_label_studio_takes_tasks_and_gives_their_boxes_back(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("label_studio_sdk"), "disabled", True)
    (folder,) = write("labelstudio", tmp_path, pictures, CLASSES, About(model="scm-1"))
    tasks = json.loads((folder / "tasks.json").read_text())
    config = (folder / "interface.xml").read_text(encoding="utf-8")
    interface = LabelInterface(config)
    interface.validate()
    for task, (name, (_, objects)) in zip(tasks, expected(pictures).items(), strict=True):
        assert unquote(task["data"]["image"]) == f"/data/local-files/?d={name}"
        assert len(task["predictions"]) == (1 if objects else 0)
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction)
            assert (prediction["model_version"], prediction["score"]) == ("scm-1", 0.75)
            assert [region["score"] for region in prediction["result"]] == [0.75, 0.5]
    (tmp_path / "in.json").write_text(json.dumps([accepted(t, k) for k, t in enumerate(tasks)]))
    converter = Converter(config, str(tmp_path), download_resources=False)
    converter.convert_to_coco(str(tmp_path / "in.json"), str(tmp_path / "coco"), is_dir=False)
    back = json.loads((tmp_path / "coco" / "result.json").read_text())
    names = {category["id"]: category["name"] for category in back["categories"]}
    read = [(names[one["category_id"]], one["bbox"]) for one in back["annotations"]]
    wanted = [(CLASSES[one.category], one.box) for p in pictures for one in p.objects]
    assert [name for name, _ in read] == [name for name, _ in wanted]
    for (_, box), (_, other) in zip(read, wanted, strict=True):
        assert box == pytest.approx(other, abs=1e-3)


def test_cvat_has_each_picture_under_its_name_and_labels_for_the_task(pictures, tmp_path):
    (folder,) = write("cvat", tmp_path, pictures, CLASSES)
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    declared = [label.findtext("name") for label in root.iterfind("meta/task/labels/label")]
    labels = json.loads((folder / "labels.json").read_text())
    assert declared == [label["name"] for label in labels] == CLASSES
    assert {label["attributes"][0]["name"] for label in labels} == {"score"}
    read = {}
    for image in root.iterfind("image"):
        boxes = [
            (
                box.get("label"),
                tuple(float(box.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")),
                float(box.findtext("attribute[@name='score']")),
            )
            for box in image.iterfind("box")
        ]
        read[image.get("name")] = ((int(image.get("width")), int(image.get("height"))), boxes)
    assert read == {
        name: (size, [(CLASSES[o.category], corners(o.box), o.score) for o in objects])
        for name, (size, objects) in expected(pictures).items()
    }
    ids = [int(image.get("id")) for image in root.iterfind("image")]
    assert ids == list(range(7))


def test_fiftyone_has_two_pictures_of_one_stem_apart(pictures, tmp_path):
    (folder,) = write("fiftyone", tmp_path, pictures, CLASSES)
    where = json.loads((folder / "data.json").read_text())
    labels = json.loads((folder / "labels.json").read_text())
    # Its importer drops suffixes of the names in data.json.
    assert len({os.path.splitext(key)[0] for key in where}) == 7
    assert list(where) == list(labels["labels"])
    for picture, path, found in zip(
        pictures, where.values(), labels["labels"].values(), strict=False
    ):
        assert path == str(picture.path)
        assert [labels["classes"][one["label"]] for one in found] == [
            CLASSES[one.category] for one in picture.objects
        ]
        for one, wanted in zip(found, picture.objects, strict=True):
            box = [v * side for v, side in zip(one["bounding_box"], 2 * picture.size, strict=True)]
            assert box == pytest.approx(wanted.box, abs=1e-3)
            assert one["confidence"] == wanted.score


def test_table_has_a_line_an_object_and_one_for_a_picture_of_nothing(pictures, tmp_path):
    (path,) = write("csv", tmp_path, pictures, CLASSES)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert list(dict.fromkeys(row["image"] for row in rows)) == NAMES
    (empty,) = (row for row in rows if row["image"] == "empty.jpg")
    assert (empty["width"], empty["class"], empty["x0"]) == ("105", "", "")
    place = [float(rows[0][corner]) for corner in ("x0", "y0", "x1", "y1")]
    assert (rows[0]["class"], place) == ("cat", [10.25, 5.0, 60.75, 65.0])
    assert (rows[1]["class_probability"], rows[1]["map_mean"]) == ("0.8", "0.625")


@pytest.mark.parametrize("name", FORMATS)
def test_what_xml_and_lists_cannot_hold_makes_no_broken_file(name, tmp_path):
    odd = "bell\x07 line\n\x1b[31m.jpg"
    path = tmp_path / "odd.jpg"
    Image.new("RGB", (100, 80)).save(path)
    picture = Picture(1, odd, path, (100, 80), (Object(0, 0.5, BOX),))
    for made in write(name, tmp_path / "out", [picture], ["so\x00so"]):
        for file in [made, *made.rglob("*")] if made.is_dir() else [made]:
            if file.suffix == ".xml":
                ElementTree.parse(file)
            if file.suffix == ".csv":
                assert "so\ufffdso" in file.read_text(encoding="utf-8")
            if file.name == "train.txt":
                assert len(file.read_text().splitlines()) == 1


def test_folder_of_somebody_elses_is_not_replaced(pictures, tmp_path):
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="wsol did not make it"):
        write("yolo", tmp_path, pictures, CLASSES)
    assert [path.name for path in tmp_path.rglob("*")] == ["yolo", "mine.txt"]


def test_what_fails_leaves_what_was_there(pictures, tmp_path):
    (folder,) = write("yolo", tmp_path, pictures[:1], CLASSES)
    gone = Picture(2, "gone.jpg", tmp_path / "gone.jpg", (9, 9))
    with pytest.raises(FileNotFoundError):
        write("yolo", tmp_path, [*pictures, gone], CLASSES, About(pictures="copy"))
    assert len(list(read_yolo(folder))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["yolo"]
    write("yolo", tmp_path, pictures, CLASSES)
    assert len(list(read_yolo(folder))) == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cocoo", [], None), "format is 'cocoo', it should be one of coco, yolo"),
        (("coco", iter([]), None), "pictures is an iterator, it should be"),
        (("coco", [], {"modell": "x"}), "about is 'modell', it should be one of model"),
        (("yolo", [], {"pictures": "move"}), "pictures is 'move', it should be one of link"),
    ],
)
def test_mistakes_are_told_in_words(tmp_path, arguments, words):
    name, pictures, about = arguments
    with pytest.raises(ValueError, match=re.escape(words)):
        write(name, tmp_path, pictures, CLASSES, about)


class Many:
    """Pictures that are made as they are asked for."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        objects = (Object(0, 0.75, BOX), SMALL)
        return (
            Picture(k + 1, f"{k}.jpg", Path(f"{k}.jpg"), (100, 80), objects)
            for k in range(self.count)
        )


@pytest.mark.parametrize("name", ["coco", "labelstudio", "cvat", "fiftyone"])
def test_memory_does_not_grow_with_the_pictures(name, tmp_path):
    write(name, tmp_path / "first", Many(20), CLASSES)  # which imports things
    tracemalloc.start()
    try:
        write(name, tmp_path / "many", Many(700), CLASSES)
        assert tracemalloc.get_traced_memory()[1] < 200_000  # what is written has twice that
    finally:
        tracemalloc.stop()


def test_page_on_labelling_tools_names_every_format_and_what_it_writes(pictures, tmp_path):
    page = Path(__file__).parents[1] / "docs" / "labelling_tools.md"
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in rows] == list(FORMATS)
    for name, written in rows:
        write(name, tmp_path, pictures, CLASSES)
        for path in re.findall(r"`([^`]+)`", written):
            assert (tmp_path / path).exists(), path
