"""Reading a data set through: each kind of fault is found, named, and counted once."""

import json
import math
import re
import warnings
from functools import partial

import numpy as np
import pytest
from data.layouts import LAYOUTS, jpeg, picture, text, voc_xml
from PIL import Image

from wsol_ext.data import CubDataset, FolderDataset, check_dataset, open_dataset


def checked(name, root, split="train", workers=0, **options):
    opens = partial(open_dataset, name, root, split, **options)
    return check_dataset(opens, split, workers, progress=False)


def kinds(report):
    return [finding.kind for finding in report.findings]


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_is_wrong_with_a_tree_as_it_is_downloaded(name, tmp_path):
    root = LAYOUTS[name](tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pictures without an object
        report = checked(name, root)
    assert report.findings == []
    assert report.images > 0
    assert report.as_dict()["counts"] == {}


@pytest.fixture
def voc(tmp_path):
    return LAYOUTS["voc"](tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_that_are_missing_broken_misnamed_or_of_another_size_are_named(voc, workers):
    pictures = voc / "JPEGImages"
    (pictures / "2008_000008.jpg").rename(pictures / "2008_000008.JPG")
    (pictures / "2008_000015.jpg").write_bytes(jpeg()[:-100])
    Image.new("RGB", (16, 20)).save(pictures / "2008_000019.jpg", "PNG")
    report = checked("voc", voc, workers=workers)
    assert (report.images, report.boxes) == (3, 4)
    found = [(finding.kind, finding.image) for finding in report.findings]
    assert found == [
        ("missing", "2008_000008.jpg"),
        ("broken", "2008_000015.jpg"),
        ("misnamed", "2008_000019.jpg"),
        ("size", "2008_000019.jpg"),
    ]
    messages = [finding.message for finding in report.findings]
    assert messages[0].endswith("2008_000008.jpg: no such image file; there is 2008_000008.JPG")
    assert messages[2].endswith("2008_000019.jpg: is PNG by its content")
    assert messages[3] == ("2008_000019.jpg: is 16 x 20 pixels, the annotations say 20 x 16")


def test_every_box_that_makes_no_sense_is_named(voc):
    objects = [
        ("cow", 9, 1, 5, 4),
        ("cow", 5, 1, 4, 9),  # which from edge to edge is 4, 0, 4, 9
        ("cow", 1, 1, 20, 16),
        ("cow", 21, 1, 25, 9),
        ("cow", 1, 1, 23, 16),
        ("cow", 0, 1, 21, 16),  # by one pixel, as annotators do
        ("cow", -1, 1, 21, 16),
        ("cow", 1, 1, 20, 18),
        ("cow", "x", 1, 2, 3),
    ]
    text(voc / "Annotations" / "2008_000019.xml", voc_xml(objects))
    report = checked("voc", voc)
    assert kinds(report) == ["box"] * 7
    assert report.counts() == {"box": 7}
    messages = [finding.message for finding in report.findings]
    for message, words in zip(
        messages,
        [
            "xml: object 1: the box is x0, y0, x1, y1 = 9, 1, 5, 4, it should have x1 >= x0",
            "xml: object 2: the box is",
            "xml: object 9: its box has xmin x",
            "20, 0, 25, 9 lies outside of the image, which is 20 x 16 pixels",
            "0, 0, 23, 16 reaches beyond the image, which is 20 x 16 pixels",
            "-2, 0, 21, 16 reaches beyond the image",
            "0, 0, 20, 18 reaches beyond the image",
        ],
        strict=True,
    ):
        assert words in message


def test_box_without_area_is_named(tmp_path):
    root = LAYOUTS["cubv2"](tmp_path)
    path = root / "metadata" / "CUB" / "val" / "localization.txt"
    path.write_text("001.Ani/30107316117.jpg,5,2,5,14\n")
    (finding,) = checked("cubv2", root, "val").findings
    assert finding.message == (
        "001.Ani/30107316117.jpg: the box x0, y0, x1, y1 = 5, 2, 5, 14 has no area"
    )


def test_every_mistaken_line_is_named_and_the_rest_is_read(tmp_path):
    root = LAYOUTS["cubv2"](tmp_path)
    lists = root / "metadata" / "CUB" / "val"
    names = ["a.jpg", "b.jpg", "c.jpg", "a.jpg", "d.jpg"]
    for name in "abcd":
        picture(root / "dataset" / "CUB" / f"{name}.jpg")
    (lists / "image_ids.txt").write_text("".join(f"{name}\n" for name in names))
    (lists / "class_labels.txt").write_text("a.jpg,0\nb.jpg,x\nc.jpg;0\nd.jpg,0\ne.jpg,0\n")
    (lists / "image_sizes.txt").write_text("a.jpg,20,16\na.jpg,0,4\nd.jpg,16,20\n")
    (lists / "localization.txt").write_text("a.jpg,1,2,3,4\nd.jpg,4,4,2,2\nd.jpg,1\n")
    report = checked("cubv2", root, "val")
    assert (report.images, report.boxes) == (2, 1)
    wanted = [
        ("list", "image_ids.txt:4: a.jpg has a line already, at 1"),
        ("list", "class_labels.txt:3: the line is 'c.jpg;0', it should be image id, label"),
        ("list", "'e.jpg' is not in "),
        ("list", "the label is 'x', it should be an integer"),
        ("list", r"image_ids\.txt:2: b\.jpg has no line in .*class_labels\.txt"),
        ("list", r"image_ids\.txt:3: c\.jpg has no line in .*class_labels\.txt"),
        ("list", "the size is 0 x 4, it should be positive"),
        ("list", "localization.txt:3: the line is 'd.jpg,1'"),
        ("box", "the box is x0, y0, x1, y1 = 4, 4, 2, 2"),
        ("list", r"b\.jpg has no line in .*localization\.txt"),
        ("list", r"c\.jpg has no line in .*localization\.txt"),
        ("size", "d.jpg: is 20 x 16 pixels, the annotations say 16 x 20"),
    ]
    assert len(report.findings) == len(wanted)
    messages = [(finding.kind, finding.message) for finding in report.findings]
    for kind, words in wanted:
        assert any(k == kind and re.search(words, message) for k, message in messages), words


def test_masks_that_are_missing_broken_or_empty_are_named(tmp_path):
    root = LAYOUTS["openimages"](tmp_path)
    folder = root / "dataset" / "OpenImages" / "val" / "01226z"
    mask, ignored = "32fdab44f6e415f1_m01226z_7dab3053.png", "32fdab44f6e415f1_ignore.png"
    assert checked("openimages", root, "val").masks == 2
    Image.fromarray(np.zeros((16, 20), np.uint8)).save(folder / mask)
    (finding,) = checked("openimages", root, "val").findings
    assert (finding.kind, finding.image) == ("mask", "val/01226z/32fdab44f6e415f1.jpg")
    assert finding.message.endswith("its mask has no pixel of an object")
    (folder / mask).write_text("no picture")
    (folder / ignored).unlink()
    broken, missing = checked("openimages", root, "val").findings
    assert f"{mask}: cannot be read" in broken.message
    assert f"{ignored}: no such image file" in missing.message


def test_smaller_picture_is_right_only_where_boxes_are_scaled(voc, tmp_path):
    picture(voc / "JPEGImages" / "2008_000015.jpg", (10, 8))
    assert kinds(checked("voc", voc)) == ["size"]
    root = LAYOUTS["cubv2"](tmp_path)
    picture(root / "dataset" / "CUB" / "001.Ani" / "30107316117.jpg", (10, 8))
    assert checked("cubv2", root, "val").findings == []


def test_cub_is_gone_on_with_after_each_mistake(tmp_path):
    files = {
        "images.txt": "1 1.Ani/a.jpg\n2 1.Ani/b.jpg\n3 1.Ani/c.jpg\nx 1.Ani/d.jpg\n3 1.Ani/e.jpg\n",
        "image_class_labels.txt": "1 1\n2 1\n3 ani\n",
        "train_test_split.txt": "1 1\n2 1\n3 2\n",
        "classes.txt": "1 1.Ani\n",
        "bounding_boxes.txt": "1 1.0 2.0 0.0 4.0\n2 2 2 5 5\n",
    }
    for name, content in files.items():
        text(tmp_path / name, content)
    for name in "ab":
        picture(tmp_path / "images" / "1.Ani" / f"{name}.jpg")
    report = check_dataset(partial(CubDataset, tmp_path), "train", progress=False)
    assert (report.images, report.boxes) == (2, 1)
    assert report.counts() == {"list": 7, "box": 1}
    assert any("0 x 4 pixels" in finding.message for finding in report.findings)


def test_folder_is_gone_on_with_after_each_line_of_its_boxes(tmp_path):
    for name in ("cats/a.png", "cats/b.png"):
        picture(tmp_path / "pictures" / name)
    table = tmp_path / "boxes.csv"
    lines = ["image,x0,y0,x1,y1", "cats/a.png,1,2,3,4", "dogs/a.png,1,2,3,4", "cats/b.png,5,2,3,4"]
    table.write_text("\n".join([*lines, "cats/b.png,1,2", "cats/b.png,1,2,3,x"]))
    report = check_dataset(
        partial(FolderDataset, tmp_path / "pictures", table, unboxed="drop"), "all", progress=False
    )
    assert sorted(kinds(report)) == ["box", "box", "list", "list"]


def test_table_that_cannot_be_read_at_all_is_a_finding(tmp_path):
    root = LAYOUTS["coco"](tmp_path)
    (root / "annotations" / "instances_train2017.json").write_text("{")
    report = checked("coco", root)
    assert (report.images, kinds(report)) == (0, ["list"])
    assert "is no JSON" in report.findings[0].message


def test_coco_categories_called_alike_and_sizes_that_are_none_are_named(tmp_path):
    root = LAYOUTS["coco"](tmp_path)
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = "cat"
    content["images"][0]["width"], content["images"][2]["height"] = "20", math.nan
    file.write_text(json.dumps(content))
    messages = [finding.message for finding in checked("coco", root).findings]
    assert any("the categories of id 17 and 18 are both called 'cat'" in each for each in messages)
    for place in ("images[0].width is '20'", "images[2].height is nan"):
        assert any(place in each for each in messages), messages


def test_data_set_of_which_nothing_is_left_is_a_finding(voc):
    for path in (voc / "Annotations").iterdir():
        path.write_text("<")
    report = checked("voc", voc)
    assert kinds(report) == ["list"] * 4
    assert "the data set has no image" in report.findings[-1].message


def test_absent_annotations_and_mistaken_options_are_no_findings(voc):
    with pytest.raises(FileNotFoundError, match=r"test\.txt: no such file"):
        checked("voc", voc, "test")
    with pytest.raises(ValueError, match="level is 'type', it should be one of variant"):
        checked("aircraft", voc, level="type")


def test_report_is_plain_values(voc):
    (voc / "JPEGImages" / "2008_000008.jpg").unlink()
    said = json.loads(json.dumps(checked("voc", voc).as_dict()))
    assert said["counts"] == {"missing": 1}
    assert said["findings"][0].keys() == {"kind", "message", "image"}
    assert (said["split"], said["images"], said["classes"]) == ("train", 3, 20)
