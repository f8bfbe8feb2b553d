"""CUB-200-2011 in the layout it is published in."""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from wsol_ext._names import some
from wsol_ext.data.base import LocalizationDataset, Transform
from wsol_ext.data.class_names import without_number
from wsol_ext.data.splits import check_split
from wsol_ext.data.tables import (
    AnnotationError,
    Box,
    Row,
    check_complete,
    check_pixels,
    noted,
    read_rows,
)

__all__ = ["CubDataset"]

_SPLITS = {"train": 1, "test": 0}


class CubDataset(LocalizationDataset):
    """Caltech-UCSD Birds-200-2011 (Wah et al., 2011): one bird and one box a picture.

    The folder is read as published: `images.txt`, `image_class_labels.txt`, `train_test_split.txt`, `classes.txt` and
    `bounding_boxes.txt`, joined by image id, and the pictures below `images/`. What `images.txt` lists counts; the
    other files may list more, so that a subset needs no edited files. Labels are consecutive over the classes that
    occur in either split, in the order of their ids: 0 to 199 for the whole data set. A class is called as in
    `classes.txt` without its number: `Black_footed_Albatross`.

    Boxes x, y, width, height become x, y, x + width, y + height, as in the split files of the public WSOL evaluator
    (Choe et al., CVPR 2020): image 1 is `60.0 27.0 325.0 304.0` here and `60,27,385,331` there. As there, x1 and y1 end
    at the last pixel, width - 1 and height - 1, in the few pictures whose box reaches the border.

    Pictures are read in stored pixels, which the boxes are given for.

    Args:
        root: the folder `CUB_200_2011`.
        split: "train" or "test".
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
        first_classes: take the first so many classes alone, by their ids: a small data set of the large one.

    Raises:
        FileNotFoundError: root lacks one of its files.
        AnnotationError: a malformed line, an image that is listed twice or has no label, split or box, named by file
            and line; or images whose folder is that of another class than their label.
        ValueError: another split, or less than one class.
        ImageError: from `dataset[i]`: a missing or broken picture file.

    Example::

        dataset = CubDataset("CUB_200_2011", split="test")
        dataset.class_names[0], dataset[0]["boxes"]
        # ('Black_footed_Albatross', tensor([[ 60.,  27., 385., 331.]]))
    """

    upright = False

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "test"] = "train",
        transform: Transform | None = None,
        first_classes: int | None = None,
    ) -> None:
        if first_classes is not None and first_classes < 1:
            raise ValueError(
                f"CubDataset: first_classes is {first_classes}, it should be at least 1"
            )
        check_split("CubDataset", split, _SPLITS)
        self.root = Path(root)
        images = self._by_id("images.txt", "image id, path")
        _check_paths(images)
        class_ids: dict[int, int] = {}
        for key, row in self._by_id("image_class_labels.txt", "image id, class id").items():
            with noted():
                class_ids[key] = row.integer(1, "the class id")
        splits: dict[int, int] = {}
        for key, row in self._by_id("train_test_split.txt", "image id, is training image").items():
            with noted():
                value = row.integer(1, "the split")
                if value not in _SPLITS.values():
                    raise row.error(f"the split is {value}, it should be 0 or 1")
                splits[key] = value
        names = {
            key: row.fields[1] for key, row in self._by_id("classes.txt", "class id, name").items()
        }
        box_rows = self._by_id("bounding_boxes.txt", "image id, x, y, width, height")
        tables: dict[str, Container[int]] = {
            "image_class_labels.txt": class_ids,
            "train_test_split.txt": splits,
            "bounding_boxes.txt": box_rows,
        }
        for file, table in tables.items():
            check_complete(images, table, self.root / file)
        images = {key: row for key, row in images.items() if key in class_ids and key in splits}
        if first_classes is not None:
            images = {key: row for key, row in images.items() if class_ids[key] <= first_classes}
        present = sorted({class_ids[key] for key in images})
        unnamed = [key for key in present if key not in names]
        if unnamed:
            raise AnnotationError(
                f"{self.root / 'classes.txt'}: has no line for class id {unnamed[0]}"
            )
        self._check_folders(images, class_ids, names)
        label_of = {class_id: label for label, class_id in enumerate(present)}
        chosen = [key for key in images if splits[key] == _SPLITS[split]]
        boxes: dict[int, Box] = {}
        for key in chosen:
            if key in box_rows:
                with noted("box"):
                    boxes[key] = _corners(box_rows[key])
        check_pixels(self.root / "bounding_boxes.txt", boxes.values())
        super().__init__(
            image_names=[images[key].fields[1] for key in chosen],
            labels=[label_of[class_ids[key]] for key in chosen],
            class_names=[without_number(names[class_id]) for class_id in present],
            transform=transform,
            boxes=([boxes[key]] if key in boxes else [] for key in chosen),
        )

    def image_path(self, index: int) -> Path:
        """The file of picture number `index`."""
        return self.root / "images" / self.image_names[index]

    def _boxes_within(self, index: int, size: tuple[int, int]) -> Tensor:
        boxes = super()._boxes_within(index, size)
        last = torch.tensor([*size, *size], dtype=boxes.dtype) - 1
        return torch.minimum(boxes, last)

    def _by_id(self, file: str, columns: str) -> dict[int, Row]:
        table: dict[int, Row] = {}
        for row in read_rows(self.root / file, columns):
            with noted():
                key = row.integer(0, columns.split(",")[0])
                if key in table:
                    raise row.error(f"id {key} has a line already, at {table[key].line}")
                table[key] = row
        return table

    def _check_folders(
        self, images: Mapping[int, Row], class_ids: Mapping[int, int], names: Mapping[int, str]
    ) -> None:
        """Refuse labels that contradict the folders, which are called as the classes are."""
        known = set(names.values())
        contradicted = []
        for key, row in images.items():
            path, name = row.fields[1], names[class_ids[key]]
            folder = path.split("/")[0]
            if folder in known and folder != name:
                contradicted.append(f"{path} ({name})")
        with noted():
            if contradicted:
                raise AnnotationError(
                    f"{self.root / 'image_class_labels.txt'}: {len(contradicted)} images have another class than their "
                    f"folder: {some(contradicted)}"
                )


def _check_paths(images: Mapping[int, Row]) -> None:
    seen: dict[str, Row] = {}
    for row in images.values():
        path = row.fields[1]
        with noted():
            if seen.setdefault(path, row) is not row:
                raise row.error(f"{path} has a line already, at {seen[path].line}")


def _corners(row: Row) -> Box:
    x, y, width, height = (
        row.number(k, name) for k, name in enumerate(("x", "y", "width", "height"), start=1)
    )
    if width <= 0 or height <= 0:
        raise row.error(
            f"the box is {width:g} x {height:g} pixels, it should be larger than nothing"
        )
    return x, y, x + width, y + height
