"""Files of boxes, of people and of wsol, as `FolderDataset` takes them."""

import json
import warnings

import pytest
from PIL import Image

from wsol_ext.annotations import Object, Picture, write
from wsol_ext.data import AnnotationError, FolderDataset
from wsol_ext.data.box_tables import read_box_table

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # which are looked for where they matter


@pytest.fixture
def root(tmp_path):
    for name in ("cats/a.png", "cats/b.png", "dogs/c.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def found(root, tmp_path):
    """What `wsol discover` writes: two objects in the first picture, none in the second."""
    objects = [(Object(0, 0.9, (1, 2, 3, 4)), Object(0, 0.4, (5.5, 6, 7, 8))), ()]
    objects.append((Object(0, 0.7, (0, 0, 30, 20)),))
    names = ("cats/a.png", "cats/b.png", "dogs/c.png")
    pictures = [
        Picture(k + 1, name, root / name, (30, 20), objects[k]) for k, name in enumerate(names)
    ]
    for name in ("csv", "coco"):
        write(name, tmp_path, pictures, ["object"])
    return tmp_path


@pytest.mark.parametrize("name", ["boxes.csv", "dataset.json"])
def test_found_boxes_are_pseudo_labels(root, found, name):
    with pytest.warns(UserWarning, match="a program found these boxes") as said:
        dataset = FolderDataset(root, found / name, unboxed="drop")
    others = [str(each.message) for each in said[1:]]
    assert others == [f"{found / name}: has no box for 1 of 3 images, such as cats/b.png, left out"]
    assert dataset.image_names == ["cats/a.png", "dogs/c.png"]
    assert dataset[0]["boxes"].tolist() == [[1, 2, 4, 6], [5.5, 6, 12.5, 14]]
    with pytest.raises(AnnotationError, match="cats/b.png; unboxed"):
        FolderDataset(root, found / name)


def test_a_coco_data_set_of_people_has_no_warning(root, found):
    dataset = json.loads((found / "dataset.json").read_text())
    for one in dataset["annotations"]:
        del one["score"]
    (found / "true.json").write_text(json.dumps(dataset))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        FolderDataset(root, found / "true.json", unboxed="drop")
    assert len(said) == 1  # of the picture without a box
    assert [row.box is None for row in read_box_table(found / "true.json")] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("images"), "is no COCO data set"),
        (lambda d: d["annotations"][0].update(image_id=[1]), "is no COCO data set"),
        (
            lambda d: d["annotations"][1].update(bbox=[1, 2, 3]),
            r"annotations\[1\]: bbox is \[1, 2, 3\]",
        ),
        (
            lambda d: d["annotations"][2].update(bbox=[1, 2, "x", 4]),
            "should be x, y, width and height, finite numbers",
        ),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, -3, 4]), "should not be negative"),
        (
            lambda d: d["annotations"][0].update(image_id=77),
            r"annotations\[0\]: there is no image 77",
        ),
        (lambda d: d["annotations"][1].update(iscrowd="no"), r"annotations\[1\]: iscrowd is 'no'"),
        (lambda d: d["images"][0].update(file_name="x.png"), "there is no image 'x.png' below"),
    ],
)
def test_mistakes_are_named_by_their_place(root, found, change, message):
    dataset = json.loads((found / "dataset.json").read_text())
    change(dataset)
    (found / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(AnnotationError, match=message):
        FolderDataset(root, found / "dataset.json", unboxed="drop")


def test_crowds_are_no_objects(root, found):
    dataset = json.loads((found / "dataset.json").read_text())
    for one, crowd in zip(dataset["annotations"], (0, 1, 1), strict=True):
        one["iscrowd"] = crowd
    (found / "dataset.json").write_text(json.dumps(dataset))
    with pytest.warns(UserWarning, match="has no box for 2 of 3 images"):
        boxed = FolderDataset(root, found / "dataset.json", unboxed="drop")
    assert boxed.image_names == ["cats/a.png"]
    assert boxed[0]["boxes"].tolist() == [[1, 2, 4, 6]]


def test_a_line_of_found_boxes_is_named_too(root, found):
    text = (found / "boxes.csv").read_text().replace(",5.5,", ",left,")
    (found / "boxes.csv").write_text(text)
    with pytest.raises(AnnotationError, match=r"boxes.csv:3: x0 is 'left'"):
        FolderDataset(root, found / "boxes.csv", unboxed="drop")


@pytest.mark.parametrize("unboxed", ["drop", "error"])
def test_a_table_without_any_box_is_named(root, tmp_path, unboxed):
    (tmp_path / "empty.csv").write_text("image,x0,y0,x1,y1\n")
    with pytest.raises(AnnotationError, match="empty.csv: has no box for any of the 3 images"):
        FolderDataset(root, tmp_path / "empty.csv", unboxed=unboxed)
