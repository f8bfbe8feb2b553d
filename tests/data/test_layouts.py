"""Published data sets, each in a made-up tree of its layout: what is read, and the boxes by hand."""

import re
from itertools import pairwise

import pytest
import torch
from data.layouts import LAYOUTS, opened, picture
from PIL import Image

from wsol_ext.annotations import About, Object, Picture, write
from wsol_ext.data import DATASETS, AnnotationError, broken_images, open_dataset

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
