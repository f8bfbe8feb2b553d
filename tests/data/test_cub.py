import warnings

import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from wsol_ext.data import AnnotationError, CubDataset, collate, eval_transform

FILES = {
    "images.txt": "1 003.Ani/a.jpg\n2 003.Ani/b.jpg\n5 007.Wren/c.jpg\n",
    # More ids than images.txt: a subset of the data set keeps the files that it does not need to shorten.
    "image_class_labels.txt": "1 3\n2 3\n3 4\n4 4\n5 7\n",
    "train_test_split.txt": "1 1\n2 0\n3 0\n4 1\n5 0\n",
    "classes.txt": "3 003.Ani\n4 004.Auk\n7 007.Wren\n",
    "bounding_boxes.txt": "1 1.0 2.0 3.0 4.0\n2 0.0 0.0 8.0 6.0\n5 2.5 1.0 2.0 3.0\n",
}


@pytest.fixture
def root(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    for name in ("003.Ani/a.jpg", "003.Ani/b.jpg", "007.Wren/c.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(path)
    return tmp_path


def test_files_are_joined_by_image_id(root):
    train, test = CubDataset(root, "train"), CubDataset(root, "test")
    assert train.image_names == ["003.Ani/a.jpg"]
    assert test.image_names == ["003.Ani/b.jpg", "007.Wren/c.jpg"]
    assert train[0]["boxes"].tolist() == [[1, 2, 4, 6 - 1]]  # y1 = 6 is beyond the last row, 5


def test_labels_are_consecutive_and_the_same_in_both_splits(root):
    train, test = CubDataset(root, "train"), CubDataset(root, "test")
    assert train.class_names == test.class_names == ["Ani", "Wren"]
    assert (train.labels, test.labels) == ([0], [0, 1])


def test_the_first_classes_alone_are_taken_by_their_ids(root):
    few = CubDataset(root, "test", first_classes=3)
    assert (few.class_names, few.image_names) == (["Ani"], ["003.Ani/b.jpg"])
    assert len(CubDataset(root, "test", first_classes=7)) == 2
    with pytest.raises(ValueError, match="first_classes is 0, it should be at least 1"):
        CubDataset(root, first_classes=0)


def test_box_at_the_border_ends_at_the_last_pixel_without_a_warning(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CubDataset(root, "test")[0]["boxes"].tolist() == [[0, 0, 7, 5]]


@pytest.mark.parametrize(
    "file", ["image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"]
)
def test_image_without_a_line_is_named(root, file):
    lines = (root / file).read_text().splitlines(keepends=True)
    (root / file).write_text("".join(line for line in lines if not line.startswith("2 ")))
    with pytest.raises(
        AnnotationError,
        match=rf"images\.txt:2: 003\.Ani/b\.jpg has no line in .*{file}",
    ):
        CubDataset(root)


def test_class_without_a_name_is_named(root):
    (root / "classes.txt").write_text("3 003.Ani\n")
    with pytest.raises(AnnotationError, match=r"classes\.txt: has no line for class id 7"):
        CubDataset(root)


@pytest.mark.parametrize("file", FILES)
def test_missing_file_is_named(root, file):
    (root / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file}: no such file"):
        CubDataset(root)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("images.txt", "6", "it should be image id, path"),
        ("images.txt", "x 003.Ani/d.jpg", "image id is 'x', it should be an integer"),
        ("images.txt", "5 003.Ani/d.jpg", "id 5 has a line already, at 3"),
        ("images.txt", "3 007.Wren/c.jpg", r"007\.Wren/c\.jpg has a line already, at 3"),
        ("image_class_labels.txt", "6 wren", "the class id is 'wren', it should be an integer"),
        ("train_test_split.txt", "6 2", "the split is 2, it should be 0 or 1"),
        (
            "image_class_labels.txt",
            "6 9999999999",
            "the class id is 9999999999, it should be below",
        ),
        ("train_test_split.txt", "6 1 1", "the split is '1 1', it should be an integer"),
        ("bounding_boxes.txt", "6 1.0 2.0 3.0", "it should be image id, x, y, width, height"),
    ],
)
def test_malformed_line_is_named_by_file_and_number(root, file, line, message):
    number = FILES[file].count("\n") + 1
    (root / file).write_text(FILES[file] + line + "\n")
    with pytest.raises(AnnotationError, match=rf"{file}:{number}: .*{message}"):
        CubDataset(root)


@pytest.mark.parametrize(
    ("box", "message"),
    [("1 2 nan 4", "width is 'nan'"), ("1 2 0 4", "0 x 4 pixels"), ("1 2 3 -4", "3 x -4 pixels")],
)
def test_impossible_box_is_named_by_file_and_number(root, box, message):
    (root / "bounding_boxes.txt").write_text(
        FILES["bounding_boxes.txt"].replace("1 1.0 2.0 3.0 4.0", f"1 {box}")
    )
    with pytest.raises(AnnotationError, match=rf"bounding_boxes\.txt:1: .*{message}"):
        CubDataset(root)


def test_several_images_without_a_line_are_counted(root):
    (root / "bounding_boxes.txt").write_text("9 1 2 3 4\n")
    with pytest.raises(
        AnnotationError, match=r"003\.Ani/a\.jpg, 003\.Ani/b\.jpg, 007\.Wren/c\.jpg have"
    ):
        CubDataset(root)


def test_labels_that_contradict_the_folders_are_counted_and_named(root):
    (root / "image_class_labels.txt").write_text("1 7\n2 3\n5 3\n")
    with pytest.raises(
        AnnotationError,
        match=r"image_class_labels\.txt: 2 images .* folder: 003\.Ani/a\.jpg \(007\.Wren\), 007",
    ):
        CubDataset(root)


def test_boxes_that_are_fractions_are_refused(root):
    (root / "bounding_boxes.txt").write_text("1 0.1 0.2 0.5 0.5\n2 0 0 1 1\n5 0.3 0 0.5 0.7\n")
    with pytest.raises(
        AnnotationError, match=r"bounding_boxes\.txt: all boxes lie between 0 and 1"
    ):
        CubDataset(root)


def test_pictures_are_read_as_they_are_stored(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(root / "images/003.Ani/a.jpg", exif=exif)
    assert CubDataset(root, "train")[0]["size"].tolist() == [8, 6]


def test_other_split_is_an_error(root):
    with pytest.raises(ValueError, match="split is 'val', it should be 'train' or 'test'"):
        CubDataset(root, "val")


def test_boxes_of_the_bird_photographs_are_those_of_the_published_split_files(shared_data):
    for split, count in (("train", 300), ("test", 243)):
        dataset = CubDataset(shared_data / "CUB_200_2011", split)
        lines = (
            (shared_data / "wsol_metadata" / "CUB" / split / "localization.txt").read_text().split()
        )
        published = {
            name: [float(v) for v in box] for name, *box in (line.split(",") for line in lines)
        }
        assert len(dataset) == count
        # Every tenth, and all that end at a border, where the published files stop at the last pixel.
        at_border = [
            k for k, box in enumerate(dataset._boxes) if (box % 1 == 0).all() and box.max() >= 300
        ]
        for index in sorted({*range(0, count, 10), *at_border[:40]}):
            assert dataset[index]["boxes"].tolist() == [published[dataset.image_names[index]]]


def test_centred_square_of_the_bird_photographs_fits_as_often_as_known(shared_data):
    dataset = CubDataset(shared_data / "CUB_200_2011", "test", eval_transform(8))
    batch = collate([dataset[index] for index in range(len(dataset))])
    relative = torch.cat(batch["boxes"]) / batch["sizes"].repeat(1, 2)
    square = torch.tensor([[0.175, 0.175, 0.825, 0.825]])
    fits = box_iou(relative, square) >= 0.5
    assert (int(fits.sum()), len(fits)) == (154, 243)  # 63.4%
