"""Published data sets, each in a made-up tree of its layout: what is read, and the boxes by hand."""

import json
import re
import tarfile
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from data.layouts import LAYOUTS, add_to_tar, jpeg, picture, text, voc_xml
from PIL import Image
from scipy.io import loadmat, savemat
from torch.utils.data import DataLoader

from wsol_ext.annotations import About, Object, Picture, write
from wsol_ext.data import (
    DATASETS,
    AnnotationError,
    ImageError,
    broken_images,
    collate,
    eval_transform,
    open_dataset,
)
from wsol_ext.data.matlab import read_mat

EXPECTED = {
    ("aircraft", "train"): (
        ["0034309.jpg", "1025794.jpg"],
        ["F/A-18", "707-320"],
        [[[2, 3, 18, 14]], [[0, 0, 20, 16]]],
    ),
    ("aircraft", "test"): (["0056978.jpg"], ["F/A-18"], [[[1, 1, 19, 9]]]),
    ("cars", "train"): (
        ["cars_train/00001.jpg", "cars_train/00002.jpg"],
        ["Ram C/V Cargo Van Minivan 2012", "AM General Hummer SUV 2000"],
        [[[2, 3, 18, 14]], [[0, 0, 20, 16]]],
    ),
    ("cars", "test"): (
        ["cars_test/00001.jpg"],
        ["AM General Hummer SUV 2000"],
        [[[1, 1, 9, 9]]],
    ),
    ("clsloc", "train"): (
        ["n01440764/n01440764_10026.JPEG", "n01443537/n01443537_2.JPEG"],
        ["n01440764 tench", "n01443537 goldfish"],
        None,
    ),
    ("clsloc", "val"): (
        ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"],
        ["n01443537 goldfish", "n01440764 tench"],
        [[[0, 2, 19, 15], [3, 4, 8, 9]], [[5, 6, 7, 8]]],
    ),
    ("coco", "train"): (
        ["000000000009.jpg", "000000000004.jpg"],
        ["cat", "dog"],
        [[[1.5, 2.25, 11.5, 14.75], [0, 0, 1, 1]], [[4, 4, 9, 10]]],
    ),
    ("cubv2", "train"): (["001.Ani/Ani_1.jpg"], ["001.Ani"], [[[1, 2, 18, 14]]]),
    ("cubv2", "val"): (["001.Ani/30107316117.jpg"], ["001.Ani"], [[[1, 2, 18, 14]]]),
    ("cubv2", "test"): (["001.Ani/Ani_2.jpg"], ["001.Ani"], [[[1, 2, 18, 14]]]),
    ("dogs", "train"): (
        ["n02085620-Chihuahua/n02085620_5927.jpg", "n02085782-Japanese_spaniel/n02085782_2.jpg"],
        ["Chihuahua", "Japanese_spaniel"],
        [[[0, 1, 19, 15], [3, 4, 8, 9]], [[0, 1, 19, 15]]],
    ),
    ("dogs", "test"): (
        ["n02085782-Japanese_spaniel/n02085782_1058.jpg"],
        ["Japanese_spaniel"],
        [[[0, 1, 19, 15]]],
    ),
    ("ilsvrc", "train"): (["train/n01440764/n01440764_10026.JPEG"], ["n01440764"], None),
    ("ilsvrc", "val"): (["val2/0/0.jpeg"], ["0"], [[[1, 2, 18, 14], [0, 0, 5, 5]]]),
    ("ilsvrc", "test"): (
        ["val/ILSVRC2012_val_00000001.JPEG"],
        ["val"],
        [[[1, 2, 18, 14], [0, 0, 5, 5]]],
    ),
    ("openimages", "train"): (["train/01226z/32fdab44f6e415f1.jpg"], ["01226z"], None),
    ("openimages", "val"): (["val/01226z/32fdab44f6e415f1.jpg"], ["01226z"], None),
    # Objects that are hard to see count where there is no other.
    ("voc", "train"): (
        ["2008_000008.jpg", "2008_000015.jpg", "2008_000019.jpg"],
        ["horse", "bottle", "cow"],
        [[[2, 3, 18, 14], [0, 0, 2, 2]], [[1, 1, 5, 9]], [[4, 4, 5, 5]]],
    ),
    ("webdataset", "train"): (
        [
            "imagenet-train-000000.tar/a/0001.jpg",
            "imagenet-train-000000.tar/a/0002.jpg",
            "imagenet-train-000001.tar/0003.jpg",
        ],
        ["goldfish", "tench", "goldfish"],
        [[[2, 3, 18, 14]], [], [[0, 0, 20, 16], [1.5, 2, 3, 4]]],
    ),
    ("webdataset", "val"): (
        [f"imagenet-validation-000000.tar/000{k}.jpg" for k in (4, 5)],
        ["tench", "tench"],
        [[[1, 1, 2, 2]], []],
    ),
}


def opened(name, root, split="train", **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*do not show an object, left out")
        return open_dataset(name, root, split, **options)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A tree of each layout, which tests only read."""
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in LAYOUTS.items()}


@pytest.fixture
def tree(tmp_path):
    """Builds a tree to spoil."""
    return lambda name: LAYOUTS[name](tmp_path)


@pytest.mark.parametrize(("name", "split"), EXPECTED)
def test_layout_is_read_as_it_is_downloaded(roots, name, split):
    names, classes, boxes = EXPECTED[name, split]
    dataset = opened(name, roots[name], split)
    assert dataset.image_names == names
    assert [dataset.class_names[label] for label in dataset.labels] == classes
    assert dataset.has_boxes == (boxes is not None)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample["image"].shape == (3, 16, 20)
        assert sample["size"].tolist() == [20, 16]
        if boxes is not None:
            assert sample["boxes"].tolist() == boxes[index]
    assert broken_images(dataset, progress=False) == {}


def test_every_published_data_set_has_a_tree_and_says_where_it_is_from(roots):
    others = {"cub", "folder", "synthetic", "wsol"}  # of which there are tests of their own
    assert set(DATASETS) == set(LAYOUTS) | others
    for entry in DATASETS.values():
        assert entry.source is not None
        assert all(
            (entry.source.title, entry.source.licence, entry.source.root, entry.source.boxes)
        )


def test_splits_agree_on_the_classes(roots):
    for (name, split), (other, another) in pairwise(EXPECTED):
        if name == other and name != "ilsvrc":  # whose names are the folders of made-up lists
            pair = [opened(name, roots[name], each).class_names for each in (split, another)]
            assert pair[0] == pair[1]


def test_openimages_has_masks(roots):
    sample = opened("openimages", roots["openimages"], "val")[0]
    columns = sample["mask"][0]
    edges = torch.nonzero(columns[1:] != columns[:-1]).flatten() + 1
    assert columns[[0, 130, 223]].tolist() == [1, 255, 0]
    assert edges.tolist() == [112, 168]  # 10 and 15 of 20 columns, in 224


@pytest.mark.parametrize(
    ("level", "classes"),
    [("family", ["Boeing 707", "F/A-18"]), ("manufacturer", ["Boeing", "McDonnell Douglas"])],
)
def test_aircraft_have_classes_of_three_levels(roots, level, classes):
    dataset = opened("aircraft", roots["aircraft"], level=level)
    assert (dataset.class_names, dataset.labels) == (classes, [1, 0])
    inner = opened("aircraft", roots["aircraft"] / "data", level=level)
    assert inner.image_names == dataset.image_names


def test_training_images_can_be_those_of_trainval(roots):
    for split, names in (
        ("train", ["0034309.jpg", "0056978.jpg"]),
        ("test", ["0056978.jpg"]),
    ):
        assert opened("aircraft", roots["aircraft"], split, with_val=True).image_names == names
    with pytest.raises(FileNotFoundError, match=r"Main/trainval\.txt: no such file"):
        opened("voc", roots["voc"], with_val=True)


def test_pictures_of_several_classes_can_be_left_out(roots):
    with pytest.warns(UserWarning, match="1 of 3 images do not show one class of objects, left"):
        dataset = open_dataset("voc", roots["voc"], one_class=True)
    assert dataset.image_names == ["2008_000015.jpg", "2008_000019.jpg"]
    with pytest.warns(UserWarning, match="2 of 3 images do not show one class of objects, left"):
        dataset = open_dataset("coco", roots["coco"], one_class=True)
    assert dataset.image_names == ["000000000004.jpg"]


def test_pictures_without_an_object_are_left_out_with_a_warning(roots):
    with pytest.warns(UserWarning, match=r"train2017\.json: 1 of 3 images do not show an object"):
        open_dataset("coco", roots["coco"])


def test_coco_file_alone_and_the_layout_of_split_folders(roots, tmp_path):
    file = roots["coco"] / "annotations" / "instances_train2017.json"
    dataset = opened("coco", file, "test", image_root=roots["coco"] / "train2017")
    assert dataset[0]["boxes"].tolist() == EXPECTED["coco", "train"][2][0]
    text(tmp_path / "valid" / "_annotations.coco.json", file.read_text())
    picture(tmp_path / "valid" / "000000000004.jpg")
    assert opened("coco", tmp_path, "val")[1]["boxes"].tolist() == [[4, 4, 9, 10]]
    with pytest.raises(FileNotFoundError, match="has neither annotations/instances_train2017"):
        open_dataset("coco", tmp_path)


def test_what_is_written_as_voc_or_coco_is_read_back(tmp_path):
    picture(tmp_path / "one.png")
    found = Picture(1, "one.png", tmp_path / "one.png", (20, 16), (Object(0, 0.9, (3, 4, 10, 9)),))
    about = About(pictures="copy")
    write("voc", tmp_path, [found], ["lion"], about)
    write("coco", tmp_path, [found], ["lion"], about)
    for name, root, options in (
        ("voc", tmp_path / "voc", {}),
        ("coco", tmp_path / "dataset.json", {"image_root": tmp_path}),
    ):
        dataset = open_dataset(name, root, **options)
        assert dataset.class_names == ["lion"]
        assert dataset[0]["boxes"].tolist() == [[3, 4, 13, 13]]


def test_shards_are_read_by_workers_and_at_random_places(roots):
    dataset = opened("webdataset", roots["webdataset"], transform=eval_transform(8))
    loader = DataLoader(dataset, batch_size=3, num_workers=1, collate_fn=collate)
    (batch,) = loader
    assert (batch["images"].shape, batch["labels"].tolist()) == ((3, 3, 8, 8), [1, 0, 1])
    left = dataset.without([0])
    assert left[0]["image"].equal(dataset[1]["image"])
    assert left.file_bytes(0) == dataset.file_bytes(1) == len(jpeg())


def test_pictures_in_shards_without_a_box_can_be_left_out(roots):
    with pytest.warns(UserWarning, match="has no box for 1 of 3 images of train, left out"):
        dataset = open_dataset("webdataset", roots["webdataset"], unboxed="drop")
    assert [name[-8:] for name in dataset.image_names] == ["0001.jpg", "0003.jpg"]
    with pytest.raises(ValueError, match="unboxed is 'error', it should be 'keep' or 'drop'"):
        open_dataset("webdataset", roots["webdataset"], unboxed="error")


def test_broken_picture_in_a_shard_is_named(tree):
    root = tree("webdataset")
    with tarfile.open(root / "imagenet-train-000002.tar", "w") as archive:
        add_to_tar(archive, "b/9.cls", b"0\n")
        add_to_tar(archive, "b/9.jpg", jpeg()[:200])
    dataset = opened("webdataset", root)
    assert list(broken_images(dataset, progress=False)) == [3]
    with pytest.raises(ImageError, match=r"train-000002\.tar/b/9\.jpg: cannot be read"):
        dataset[3]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x.jpg": b""}, r": label in \.json, or \.cls, is None"),
        ({"x.cls": b"0"}, r"x has \.cls, it should have one image"),
        ({"x.cls": b"0", "x.jpg": b"", "x.png": b""}, "it should have one image"),
        ({"x.cls": b"cat", "x.jpg": b""}, r"x\.cls is 'cat', it should be a number from 0 on"),
        ({"x.cls": b"-1", "x.jpg": b""}, r"x\.cls is '-1'"),
        ({"x.cls": b"999999999", "x.jpg": b""}, r"x\.cls is 999999999"),
        ({"x.cls": b"5", "x.jpg": b""}, "has 2 classes, num_classes is None and the highest label"),
        ({"x.cls": b"0", "x.jpg": b"", "x.json": b"[1"}, r"x\.json: is no JSON"),
        ({"x.cls": b"0", "x.jpg": b"", "x.json": b'{"boxes": 3}'}, "boxes is 3, it should be"),
        ({"x.cls": b"0", "x.jpg": b"", "x.json": b'{"boxes": [[1, 2, 3]]}'}, r"boxes\[0\] is"),
        ({"x.cls": b"0", "x.jpg": b"", "x.json": b'{"boxes": [[3, 2, 1, 4]]}'}, "x1 >= x0"),
    ],
)
def test_sample_that_makes_no_sense_is_named(tree, members, message):
    root = tree("webdataset")
    with tarfile.open(root / "train-1.tar", "w") as archive:
        for name, content in members.items():
            add_to_tar(archive, name, content)
    with pytest.raises(AnnotationError, match=message):
        open_dataset("webdataset", root)


def test_shard_that_is_none_cut_off_or_compressed_is_named(tree):
    root = tree("webdataset")
    shard = root / "imagenet-train-000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:2000])
    with pytest.raises(AnnotationError, match=r"train-000001\.tar: is cut off within 0003\.jpg"):
        open_dataset("webdataset", root)
    shard.write_bytes(b"<html>" * 200)
    with pytest.raises(AnnotationError, match=r"train-000001\.tar: cannot be read as a tar file"):
        open_dataset("webdataset", root)
    shard.rename(root / "imagenet-train-000001.tar.gz")
    with pytest.raises(AnnotationError, match=r"tar\.gz: is compressed"):
        open_dataset("webdataset", root)
    with pytest.raises(FileNotFoundError, match="has no tar file of test"):
        open_dataset("webdataset", root, "test")


@pytest.mark.parametrize(
    ("name", "split", "file"),
    [
        ("aircraft", "train", "data/variants.txt"),
        ("aircraft", "train", "data/images_variant_train.txt"),
        ("aircraft", "train", "data/images_box.txt"),
        ("cars", "train", "devkit/cars_meta.mat"),
        ("cars", "train", "devkit/cars_train_annos.mat"),
        ("cars", "test", "cars_test_annos_withlabels.mat"),
        ("clsloc", "val", "ImageSets/CLS-LOC/val.txt"),
        ("clsloc", "val", "Annotations/CLS-LOC/val/ILSVRC2012_val_00000002.xml"),
        ("clsloc", "train", "../LOC_synset_mapping.txt"),
        ("dogs", "train", "test_list.mat"),
        ("dogs", "test", "Annotation/n02085782-Japanese_spaniel/n02085782_1058"),
        ("voc", "train", "ImageSets/Main/train.txt"),
        ("voc", "train", "Annotations/2008_000015.xml"),
        ("cubv2", "val", "metadata/CUB/val/image_ids.txt"),
    ],
)
def test_missing_file_is_named_with_what_should_be_in_it(tree, name, split, file):
    root = tree(name)
    (root / file).unlink()
    last = re.escape(file.rpartition("/")[2])
    with pytest.raises(FileNotFoundError, match=rf"{last}: no such file.*(should|of class names)"):
        open_dataset(name, root, split)


def test_root_that_is_the_folder_above_says_so(roots, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds VOC2012; the folder should be one of them"):
        open_dataset("voc", roots["voc"].parent)
    with pytest.raises(FileNotFoundError, match=r"metadata/CUB: no such folder; .* the lists"):
        open_dataset("cubv2", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no XML"),
        ("<annotation><object>", "is no XML"),
        (voc_xml([("horse", "a", 1, 2, 3)]), "object 1: its box has xmin a, ymin 1,"),
        (voc_xml([("horse", "nan", 1, 2, 3)]), "object 1: its box has xmin nan"),
        (voc_xml([("horse", 1, 1, 2, 3), ("", 1, 1, 2, 3)]), "object 2 has no name"),
        (voc_xml([("horse", 5, 1, 2, 3)]), r"object 1: the box is .*5, 1, 2, 3.* x1 >= x0"),
        (
            "<annotation><object><name>cow</name></object></annotation>",
            "object 1: its box has xmin None",
        ),
    ],
)
def test_xml_that_makes_no_sense_is_named(tree, content, message):
    root = tree("voc")
    text(root / "Annotations" / "2008_000015.xml", content)
    with pytest.raises(AnnotationError, match=rf"2008_000015\.xml: {message}"):
        open_dataset("voc", root)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_that_unpacks_itself_is_refused(tree, encoding):
    root = tree("voc")
    entities = '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    bomb = f"<!DOCTYPE x [{entities}]><annotation><filename>&b;</filename></annotation>"
    (root / "Annotations" / "2008_000015.xml").write_bytes(bomb.encode(encoding))
    with pytest.raises(AnnotationError, match=r"2008_000015\.xml: declares entities"):
        open_dataset("voc", root)


def test_classes_that_voc_does_not_have_are_those_of_all_annotations(tree):
    root = tree("voc")
    text(root / "Annotations" / "2008_000019.xml", voc_xml([("lion", 1, 1, 2, 2)]))
    assert open_dataset("voc", root).class_names == ["bottle", "horse", "lion", "person"]
    with pytest.raises(AnnotationError, match=r"000019\.xml: the class 'lion' is none of class_na"):
        open_dataset("voc", root, class_names=["horse", "bottle"])


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


def test_matlab_file_that_makes_no_sense_is_named(tree):
    root = tree("cars")
    path = root / "devkit" / "cars_train_annos.mat"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(AnnotationError, match=r"cars_train_annos\.mat: cannot be read as a MATLAB"):
        open_dataset("cars", root)
    savemat(path, {"other": [1]})
    with pytest.raises(AnnotationError, match=r"has no variable annotations, it has other"):
        open_dataset("cars", root)
    path.write_bytes((root / "devkit" / "cars_test_annos.mat").read_bytes())
    with pytest.raises(AnnotationError, match=r"annotations\(1\) has no field class"):
        open_dataset("cars", root)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("class", 9, r"annotations\(2\)\.class is 9, it should be 1 to 2"),
        ("class", 1.5, r"annotations\(2\)\.class is 1\.5, it should be a whole number"),
        ("fname", "00001.jpg", r"annotations\(2\): 00001\.jpg is listed already"),
        ("bbox_x1", 200, r"annotations\(2\): the box is .*199, 0, 20, 16"),
    ],
)
def test_row_of_cars_that_makes_no_sense_is_named(tree, field, value, message):
    root = tree("cars")
    path = root / "devkit" / "cars_train_annos.mat"
    rows = loadmat(path)["annotations"]
    rows[0, 1][field] = value
    savemat(path, {"annotations": rows})
    with pytest.raises(AnnotationError, match=rf"cars_train_annos\.mat: {message}"):
        open_dataset("cars", root)


def test_labels_of_dogs_that_contradict_the_folders_are_named(tree):
    root = tree("dogs")
    path = root / "train_list.mat"
    files = loadmat(path)["file_list"]
    savemat(path, {"file_list": files, "labels": np.array([[1.0], [1.0]])})
    with pytest.raises(AnnotationError, match=r"number 2: .* label 1.0, which n02085620-Chihuahua"):
        open_dataset("dogs", root)
    (root / "lists").mkdir()
    for split in ("train", "test"):
        (root / f"{split}_list.mat").rename(root / "lists" / f"{split}_list.mat")
    with pytest.raises(AnnotationError, match=r"lists/train_list\.mat: number 2"):
        open_dataset("dogs", root)


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_variables_are_those_that_scipy_wrote(tmp_path, compressed):
    path = tmp_path / "any.mat"
    cells = np.array(["one", "Ærø 鳥", "", "x" * 300], object)
    structs = np.array([(1.5, "a"), (np.array([1, 2, 3]), "bc")], [("n", object), ("t", object)])
    savemat(
        path,
        {
            "numbers": np.array([[1, 2], [3, -400]], np.int16),
            "small": np.uint8(7),
            "cells": cells[:, None],
            "structs": structs[None],
            "nothing": np.zeros((0, 0)),
            "line": "text",
        },
        do_compression=compressed,
    )
    assert read_mat(path, "numbers") == [1, 3, 2, -400]  # column after column
    assert read_mat(path, "small") == [7]
    assert read_mat(path, "cells") == cells.tolist()
    assert read_mat(path, "structs") == [{"n": 1.5, "t": "a"}, {"n": [1, 2, 3], "t": "bc"}]
    assert (read_mat(path, "nothing"), read_mat(path, "line")) == ([], ["text"])
    with pytest.raises(AnnotationError, match="has no variable other, it has numbers, small, "):
        read_mat(path, "other")
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(126) + b"IM" + b"\x89HDF")
    with pytest.raises(AnnotationError, match="it is of version 7.3; save it with -v7"):
        read_mat(path, "numbers")
    path.write_text("<html>")
    with pytest.raises(AnnotationError, match="it has not the header of versions 5 to 7"):
        read_mat(path, "numbers")


def test_validation_image_of_two_classes_or_none_is_named(tree):
    root = tree("clsloc")
    path = root / "Annotations" / "CLS-LOC" / "val" / "ILSVRC2012_val_00000001.xml"
    text(path, voc_xml([("n01440764", 1, 1, 2, 2), ("n01443537", 1, 1, 2, 2)]))
    with pytest.raises(AnnotationError, match=r"001\.xml: has objects of n01440764, n01443537"):
        open_dataset("clsloc", root, "val")
    text(path, voc_xml([]))
    with pytest.raises(AnnotationError, match=r"001\.xml: has no object"):
        open_dataset("clsloc", root, "val")
    text(path, voc_xml([("n09", 1, 1, 2, 2)]))
    with pytest.raises(AnnotationError, match=r"001\.xml: its class is 'n09', which is not in"):
        open_dataset("clsloc", root, "val")


LISTS = {
    "aircraft": "data/images_variant_train.txt",
    "clsloc": "ImageSets/CLS-LOC/train_cls.txt",
    "voc": "ImageSets/Main/train.txt",
    "cubv2": "metadata/CUB/train/image_ids.txt",
}


def _as_written(content, form):
    return {
        "CRLF": content.replace("\n", "\r\n").encode(),
        "BOM": b"\xef\xbb\xbf" + content.encode(),
        "no last line end": content.rstrip("\n").encode(),
        "empty lines": f"\n{content}\n \n".replace("\n", "\n\n").encode(),
        "blanks at the ends": content.replace("\n", " \t\n").encode(),
    }[form]


@pytest.mark.parametrize(
    "form", ["CRLF", "BOM", "no last line end", "empty lines", "blanks at the ends"]
)
@pytest.mark.parametrize("name", LISTS)
def test_list_in_another_programs_form_says_the_same(tree, name, form):
    root = tree(name)
    path = root / LISTS[name]
    plain = opened(name, root)
    path.write_bytes(_as_written(path.read_text(), form))
    dataset = opened(name, root)
    assert dataset.image_names == plain.image_names
    assert dataset.labels == plain.labels


@pytest.mark.parametrize("name", LISTS)
def test_list_that_makes_no_sense_is_named(tree, name):
    root = tree(name)
    path = root / LISTS[name]
    lines = path.read_text().splitlines(keepends=True)
    for content, message in (
        ("".join([*lines, lines[0]]), rf":{len(lines) + 1}: .* has a line already, at 1"),
        ("".join(lines).encode("utf-16"), ": is no UTF-8 text"),
    ):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(AnnotationError, match=re.escape(path.name) + message):
            open_dataset(name, root)
    path.write_text("")
    with pytest.raises(ValueError, match="image"):  # none, or none of those that others have
        open_dataset(name, root)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("aircraft", "0034309;F/A-18", "it should be image id, class"),
        ("aircraft", '0034309 "F/A-18"', "the class is '\"F/A-18\"', which variants.txt does not"),
        ("aircraft", "0034309", "it should be image id, class"),
        ("clsloc", "n01440764/n01440764_10026;1", "it should be image, number"),
        ("clsloc", "n09/n09_1 1", "n09/n09_1 is in the folder of no class, 'n09'"),
    ],
)
def test_line_of_another_form_is_named(tree, name, line, message):
    root = tree(name)
    path = root / LISTS[name]
    path.write_text(line + "\n")
    with pytest.raises(AnnotationError, match=rf"{re.escape(path.name)}:1: .*{message}"):
        open_dataset(name, root)


def test_aircraft_without_a_box_are_named(tree):
    root = tree("aircraft")
    (root / "data" / "images_box.txt").write_text("1025794 1 1 20 16\n1 1 1 2 2\n")
    with pytest.raises(AnnotationError, match=r"train\.txt:1: 0034309 has no line in .*images_box"):
        open_dataset("aircraft", root)


def test_names_with_blanks_and_of_other_scripts_are_names(tree):
    root = tree("voc")
    name = "ein Vogel, 鳥 'a'"
    picture(root / "JPEGImages" / f"{name}.jpg")
    text(root / "Annotations" / f"{name}.xml", voc_xml([("bird", 1, 1, 9, 9)]))
    text(root / "ImageSets" / "Main" / "val.txt", f"{name}\n")
    dataset = open_dataset("voc", root, "val")
    assert dataset.image_names == [f"{name}.jpg"]
    assert dataset[0]["boxes"].tolist() == [[0, 0, 9, 9]]


def test_orientation_of_published_pictures_is_left_alone(tree):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, file, size in (
        ("aircraft", "data/images/0034309.jpg", [20, 16]),
        ("coco", "train2017/000000000009.jpg", [16, 20]),
    ):
        root = tree(name)
        Image.new("RGB", (20, 16)).save(root / file, exif=exif)
        assert opened(name, root).picture_size(0) == tuple(size)
