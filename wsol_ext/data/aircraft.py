"""FGVC-Aircraft as it is published: text lists and one box a picture."""

from pathlib import Path
from typing import Literal

from wsol_ext.data.base import Transform
from wsol_ext.data.class_names import read_class_names
from wsol_ext.data.listed import Listed, ListedDataset
from wsol_ext.data.splits import check_split
from wsol_ext.data.tables import Box, Row, check_complete, noted, read_rows

__all__ = ["AircraftDataset"]

_FILES = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}


class AircraftDataset(ListedDataset):
    """FGVC-Aircraft (Maji et al., 2013): 100 variants of aircraft, one box a picture.

    The root is the folder `fgvc-aircraft-2013b`, or `data` in it: `images/0034309.jpg`, `images_variant_train.txt` of
    lines `1025794 707-320`, `variants.txt`, and `images_box.txt` of lines `0034309 3 144 998 431`. Pictures are whole:
    the 20 rows at the bottom that name the photographer stay. They are read in stored pixels.

    Corners are pixels of the aircraft, counted from 1: the box is xmin - 1, ymin - 1, xmax, ymax, from the left edge of
    its first pixel to the right edge of its last.

    Args:
        root: the folder.
        split: "train", "val", "trainval" or "test".
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
        level: what classes are: "variant" (100), "family" (70) or "manufacturer" (30).
        with_val: whether "train" is "trainval", by which the field trains.

    Raises:
        FileNotFoundError: root lacks a list.
        AnnotationError: a malformed line, an image that is listed twice, of an unknown class or without a box; named by
            file and line.
        ValueError: another split or level.
        ImageError: from `dataset[i]`: a missing or broken picture file.
    """

    upright = False

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val", "trainval", "test"] = "train",
        transform: Transform | None = None,
        level: Literal["variant", "family", "manufacturer"] = "variant",
        with_val: bool = False,
    ) -> None:
        if level not in _FILES:
            raise ValueError(
                f"AircraftDataset: level is {level!r}, it should be one of {', '.join(_FILES)}"
            )
        check_split("AircraftDataset", split, ("train", "val", "trainval", "test"))
        listed = "trainval" if split == "train" and with_val else split
        folder = Path(root) / "data" if (Path(root) / "data").is_dir() else Path(root)
        class_names = read_class_names(folder / f"{_FILES[level]}.txt")
        label_of = {name: label for label, name in enumerate(class_names)}
        rows: dict[str, Row] = {}
        for row in read_rows(folder / f"images_{level}_{listed}.txt", "image id, class"):
            with noted():
                if row.fields[0] in rows:
                    raise row.error(
                        f"{row.fields[0]} has a line already, at {rows[row.fields[0]].line}"
                    )
                if row.fields[1] not in label_of:
                    raise row.error(
                        f"the class is {row.fields[1]!r}, which {_FILES[level]}.txt does not have"
                    )
                rows[row.fields[0]] = row
        boxes: dict[str, Box] = {}
        for row in read_rows(folder / "images_box.txt", "image id, xmin, ymin, xmax, ymax"):
            with noted("box"):
                if row.fields[0] in boxes:
                    raise row.error(f"{row.fields[0]} has a line already")
                x0, y0, x1, y1 = row.box(1)
                boxes[row.fields[0]] = (x0 - 1, y0 - 1, x1, y1)
        check_complete(rows, boxes, folder / "images_box.txt")
        pictures = [
            Listed(
                folder / "images" / f"{name}.jpg",
                f"{name}.jpg",
                label_of[row.fields[1]],
                [boxes[name]] if name in boxes else [],
            )
            for name, row in rows.items()
        ]
        super().__init__(pictures, class_names, transform)
