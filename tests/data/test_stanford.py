"""Stanford's cars and dogs: what makes no sense in their lists is named."""

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from wsol_ext.data import AnnotationError, open_dataset


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
