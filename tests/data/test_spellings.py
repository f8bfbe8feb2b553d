"""Names in lists fit files whose letters and accents lie apart, as macOS hands them over."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from wsol_ext._names import Spellings
from wsol_ext.data import FolderDataset, ScoreMaps
from wsol_ext.data.coco_json import CocoDataset
from wsol_ext.data.labels import read_labels
from wsol_ext.data.predictions import read_predictions
from wsol_ext.evaluation.threshold_from import with_boxes_of

WRITTEN = unicodedata.normalize("NFC", "müve/é.png")
STORED = unicodedata.normalize("NFD", WRITTEN)
BOXES = f"image,x0,y0,x1,y1\n{WRITTEN},1,2,5,9\n"


@pytest.fixture
def root(tmp_path):
    for name in (STORED, "auk/a.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (20, 10)).save(tmp_path / name)
    return tmp_path


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_the_same_letters_come_first_and_two_of_a_kind_are_none():
    assert WRITTEN != STORED
    assert Spellings([STORED, WRITTEN]).find(WRITTEN) == WRITTEN
    assert Spellings([STORED]).find(WRITTEN) == STORED
    assert Spellings([WRITTEN]).find(STORED) == WRITTEN
    half = unicodedata.normalize("NFD", "mü") + "ve/é.png"
    assert Spellings([STORED, half]).find(WRITTEN) is None


def test_boxes_of_a_table(root, tmp_path_factory):
    table = write(tmp_path_factory.mktemp("table") / "boxes.csv", BOXES + "auk/a.png,0,0,3,3\n")
    dataset = FolderDataset(root, boxes=table)
    assert dataset.image_names == ["auk/a.png", STORED]
    assert dataset[1]["boxes"].tolist() == [[1, 2, 5, 9]]
    boxed = with_boxes_of(FolderDataset(root), table)
    assert boxed[1]["boxes"].tolist() == [[1, 2, 5, 9]]


def test_class_predictions(tmp_path):
    file = write(tmp_path / "p.csv", f"image,class\n{WRITTEN},b\n")
    assert read_predictions(file, [STORED], ["a", "b"]).logits.argmax(dim=1).tolist() == [1]


def test_score_maps(tmp_path):
    for name in (f"{STORED}.npy", "auk/a.npy"):
        (tmp_path / name).parent.mkdir()
        np.save(tmp_path / name, np.eye(3))
    maps = ScoreMaps(tmp_path)
    assert maps.missing([WRITTEN, STORED, "auk/a.png"]) == []
    assert maps.unused([WRITTEN, "auk/a.png"]) == []
    assert maps.read(WRITTEN).shape == (3, 3)


@pytest.mark.parametrize("source", ["folder", WRITTEN, WRITTEN.partition("/")[2]])
def test_labels(root, source, tmp_path_factory):
    if source != "folder":
        table = f"image,class\n{source},{WRITTEN[:4]}\n"
        source = write(tmp_path_factory.mktemp("table") / "labels.csv", table)
    path = root / STORED
    assert read_labels(str(source), [path], ["auk", WRITTEN[:4]]) == {path: 1}


def test_pictures_of_coco(root):
    image = f'{{"id": 1, "file_name": "{WRITTEN}"}}'
    box = '{"image_id": 1, "category_id": 1, "bbox": [1, 2, 4, 7]}'
    file = write(
        root / "coco.json",
        f'{{"images": [{image}], "categories": [{{"id": 1, "name": "a"}}], "annotations": [{box}]}}',
    )
    dataset = CocoDataset(file)
    assert dataset.image_path(0) == root / STORED
    assert dataset[0]["size"].tolist() == [20, 10]
