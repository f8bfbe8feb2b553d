"""COCO's JSON: its layouts, and what makes no sense in one."""

import json

import pytest
from data.layouts import opened, picture, text

from wsol_ext.data import AnnotationError, open_dataset


def test_pictures_without_an_object_are_left_out_with_a_warning(roots):
    with pytest.warns(UserWarning, match=r"train2017\.json: 1 of 3 images do not show an object"):
        open_dataset("coco", roots["coco"])


def test_coco_file_alone_and_the_layout_of_split_folders(roots, tmp_path):
    file = roots["coco"] / "annotations" / "instances_train2017.json"
    dataset = opened("coco", file, "test", image_root=roots["coco"] / "train2017")
    assert dataset[0]["boxes"].tolist() == [[1.5, 2.25, 11.5, 14.75], [0, 0, 1, 1]]
    text(tmp_path / "valid" / "_annotations.coco.json", file.read_text())
    picture(tmp_path / "valid" / "000000000004.jpg")
    assert opened("coco", tmp_path, "val")[1]["boxes"].tolist() == [[4, 4, 9, 10]]
    with pytest.raises(FileNotFoundError, match="has neither annotations/instances_train2017"):
        open_dataset("coco", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "has no list 'images'"),
        ({"images": [3]}, r"images\[0\] is 3, it should be values by name"),
        ({"images": [{"id": "9", "file_name": "a"}]}, r"images\[0\]\.id is '9'"),
        ({"images": [{"id": 9}]}, r"images\[0\]\.file_name is None"),
        (
            {"images": [{"id": 9, "file_name": "a"}, {"id": 9, "file_name": "b"}]},
            r"images\[1\]\.id is 9, as of one before",
        ),
        (
            {"images": [{"id": 9, "file_name": "a"}, {"id": 4, "file_name": "a"}]},
            r"images\[1\]\.file_name is 'a', as .*images\[0\] has it",
        ),
        ({"categories": [{"id": 1, "name": "a"}] * 2}, r"categories\[1\]\.id is 1, as of one"),
        ({"annotations": [{"image_id": 5, "category_id": 17}]}, r"image_id is 5, which no image"),
        ({"annotations": [{"image_id": 9, "category_id": 1}]}, r"category_id is 1, which no cat"),
        (
            {"annotations": [{"image_id": 9, "category_id": 17, "bbox": [1, 2, 3]}]},
            r"annotations\[0\]\.bbox is \[1, 2, 3\], it should be x, y, width and height",
        ),
        (
            {"annotations": [{"image_id": 9, "category_id": 17, "bbox": [1, 2, 3, float("nan")]}]},
            r"annotations\[0\]\.bbox is \[1, 2, 3, nan\]",
        ),
        (
            {"annotations": [{"image_id": 9, "category_id": 17, "bbox": [1, 2, -3, 4]}]},
            "its width and height should not be negative",
        ),
        (
            {"annotations": [{"image_id": 9, "category_id": 17, "iscrowd": "no"}]},
            r"annotations\[0\]\.iscrowd is 'no', it should be 0 or 1",
        ),
    ],
)
def test_coco_json_that_makes_no_sense_is_named(tree, change, message):
    root = tree("coco")
    path = root / "annotations" / "instances_train2017.json"
    text(path, json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AnnotationError, match=rf"instances_train2017\.json: .*{message}"):
        open_dataset("coco", root)


def test_boxes_that_are_fractions_are_refused(tree):
    root = tree("coco")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.1, 0.2, 0.5, 0.5]
    text(path, json.dumps(content))
    with pytest.raises(AnnotationError, match=r"train2017\.json: all boxes lie between 0 and 1"):
        open_dataset("coco", root)


@pytest.mark.parametrize("content", [b"", b"[1]", b"[" * 100_000, b"\xff{}"])
def test_file_that_is_no_coco_json_is_named(tree, content):
    root = tree("coco")
    (root / "annotations" / "instances_train2017.json").write_bytes(content)
    with pytest.raises(AnnotationError, match=r"instances_train2017\.json: is (no )?JSON"):
        open_dataset("coco", root)


def test_two_years_of_coco_are_not_chosen_between(tree):
    root = tree("coco")
    (root / "annotations" / "instances_train2014.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"instances_train2014\.json, instances_train2017"):
        open_dataset("coco", root)
