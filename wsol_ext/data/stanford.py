"""Stanford Dogs and Stanford Cars as they are published: lists of MATLAB's."""

from pathlib import Path
from typing import Any, Literal

from wsol_ext.data.base import Transform
from wsol_ext.data.listed import Listed, ListedDataset
from wsol_ext.data.matlab import read_mat, whole_number
from wsol_ext.data.splits import check_split
from wsol_ext.data.tables import AnnotationError, Box, check_box, noted
from wsol_ext.data.voc import read_voc_xml

__all__ = ["CarsDataset", "DogsDataset"]

_CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


class DogsDataset(ListedDataset):
    """Stanford Dogs (Khosla et al., 2011): 120 breeds, with the boxes of all dogs of a picture.

    The root holds what the three archives hold: `Images/n02085620-Chihuahua/n02085620_5927.jpg`,
    `Annotation/n02085620-Chihuahua/n02085620_5927`, which is XML, and `train_list.mat` and `test_list.mat`, which may
    lie in a folder `lists` too. Labels are those of the lists, counted from 0; a class is called as its folder without
    the number, `Chihuahua`. Pictures are read in stored pixels.

    The pictures and boxes are of ImageNet: corners are taken as they are, both pixels of the dog, counted from 0.

    Args:
        root: the folder.
        split: "train" or "test".
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.

    Raises:
        FileNotFoundError: root lacks a list, or an annotation that it names.
        AnnotationError: a list or annotation that cannot be read, a picture that is listed twice, or labels that
            contradict the folders; named by file.
        ValueError: another split.
        ImageError: from `dataset[i]`: a missing or broken picture file.
    """

    upright = False

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "test"] = "train",
        transform: Transform | None = None,
    ) -> None:
        check_split("DogsDataset", split, ("train", "test"))
        root = Path(root)
        names: dict[int, str] = {}
        pictures: list[Listed] = []
        for each in ("train", "test"):  # both, so that they agree on the classes
            path = root / f"{each}_list.mat"
            if not path.is_file() and (root / "lists").is_dir():
                path = root / "lists" / path.name
            files, labels = read_mat(path, "file_list"), read_mat(path, "labels")
            if len(files) != len(labels):
                raise AnnotationError(
                    f"{path}: has {len(files)} files and {len(labels)} labels, it should have as many"
                )
            seen: set[str] = set()
            for number, (file, value) in enumerate(zip(files, labels, strict=True), 1):
                place = f"{path}: number {number}"
                with noted():
                    label = whole_number(value, f"{place}: the label") - 1
                    folder, _, rest = str(file).partition("/")
                    if label < 0 or not rest:
                        raise AnnotationError(
                            f"{place} is {str(file)!r} of label {value}, it should be FOLDER/FILE of one from 1 on"
                        )
                    if names.setdefault(label, folder) != folder:
                        raise AnnotationError(
                            f"{place}: {file} has the label {value}, which {names[label]} has too"
                        )
                    if file in seen:
                        raise AnnotationError(f"{place}: {file} is listed already")
                    seen.add(str(file))
                    if each == split:
                        pictures.append(_dog(root, str(file), label))
        lacking = next((k for k in range(len(names)) if k not in names), None)
        if lacking is not None:
            raise AnnotationError(f"{root}: the lists have no image of label {lacking + 1}")
        class_names = [names[k].partition("-")[2] or names[k] for k in range(len(names))]
        super().__init__(pictures, class_names, transform)


def _dog(root: Path, file: str, label: int) -> Listed:
    objects, size, _ = read_voc_xml(root / "Annotation" / Path(file).with_suffix(""))
    return Listed(root / "Images" / file, file, label, [one.corners for one in objects], size)


class CarsDataset(ListedDataset):
    """Stanford Cars (Krause et al., 2013): 196 models of cars, and one box a picture.

    The root holds `cars_train/00001.jpg`, `cars_test/00001.jpg`, and in `devkit` the tables `cars_meta.mat`,
    `cars_train_annos.mat` and `cars_test_annos_withlabels.mat`, which may lie in the root too; `cars_test_annos.mat`,
    of the devkit itself, has no classes. Pictures are read in stored pixels.

    Corners are pixels of the car, counted from 1: the box is x1 - 1, y1 - 1, x2, y2, from the left edge of its first
    pixel to the right edge of its last.

    Args:
        root: the folder.
        split: "train" or "test".
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.

    Raises:
        FileNotFoundError: root lacks a table.
        AnnotationError: a table that cannot be read, a picture that is listed twice or of an unknown class, or a box
            that is none; named by file and number.
        ValueError: another split.
        ImageError: from `dataset[i]`: a missing or broken picture file.
    """

    upright = False

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "test"] = "train",
        transform: Transform | None = None,
    ) -> None:
        check_split("CarsDataset", split, ("train", "test"))
        root = Path(root)
        class_names = [str(n) for n in read_mat(root / "devkit" / "cars_meta.mat", "class_names")]
        file = "cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        path = root / file if (root / file).is_file() else root / "devkit" / file
        pictures: dict[str, Listed] = {}
        for number, row in enumerate(
            read_mat(path, "annotations", (*_CORNERS, "class", "fname")), 1
        ):
            place = f"{path}: annotations({number})"
            with noted():
                name, label = str(row["fname"]), whole_number(row["class"], f"{place}.class") - 1
                if name in pictures:
                    raise AnnotationError(f"{place}: {name} is listed already")
                if not 0 <= label < len(class_names):
                    raise AnnotationError(
                        f"{place}.class is {label + 1}, it should be 1 to {len(class_names)}"
                    )
                boxes: list[Box] = []
                with noted("box"):
                    boxes.append(_car(place, row))
                image = root / f"cars_{split}" / name
                pictures[name] = Listed(image, f"cars_{split}/{name}", label, boxes)
        super().__init__(list(pictures.values()), class_names, transform)


def _car(place: str, row: dict[str, Any]) -> Box:
    x0, y0, x1, y1 = (float(whole_number(row[c], f"{place}.{c}")) for c in _CORNERS)
    return check_box(place, (x0 - 1, y0 - 1, x1, y1))
