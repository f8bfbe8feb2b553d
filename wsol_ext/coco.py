"""Boxes in the COCO form, which labelling tools and pycocotools read."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wsol_ext._names import printable
from wsol_ext.annotations import About, Picture, write
from wsol_ext.localize import ImageResult

__all__ = ["Counts", "file_name", "found_in", "write_coco"]

_FILLING = 0.95  # of an image's area: a box of more says nothing of where


def found_in(result: ImageResult) -> dict[str, Any]:
    """What files say of an image: plain values, which JSON gives back as they were.

    Returns:
        `size`, width and height, and `boxes`, for each object its class, score, and x, y, width and height in pixels,
        then the class's probability and the mean of its map where the score is made of them; `rejected`, the best class
        and its probability, of a picture that is; or only the `error`.
    """
    if result.error is not None:
        return {"error": result.error}
    boxes = []
    for one in result.objects:
        x0, y0, x1, y1 = (round(float(v), 2) for v in one.box)
        box = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
        apart = () if one.map_mean is None else (one.probability, one.map_mean)
        boxes.append(
            [
                one.category,
                round(one.score, 6),
                *box,
                *(round(v, 6) for v in apart if v is not None),
            ]
        )
    found: dict[str, Any] = {"size": list(result.size), "boxes": boxes}
    if result.rejected is not None:
        category, probability = result.rejected
        found["rejected"] = [category, round(probability, 6)]
    return found


def file_name(path: Path, root: Path) -> str:
    """A file's name in the results: `printable`, with forward slashes, relative to a folder where it lies below it.

    Args:
        path: the file; links are not followed.
        root: the folder, as an absolute path.

    Example:
        >>> file_name(Path("/album/cats/caf\\udce9.jpg"), Path("/album"))
        'cats/caf\\\\xe9.jpg'
    """
    absolute = Path(os.path.abspath(path))
    below = absolute.is_relative_to(root)
    return printable((absolute.relative_to(root) if below else absolute).as_posix())


class Counts(NamedTuple):
    """How many there are.

    Attributes:
        images: of the images.
        broken: of those that could not be read.
        boxes: of the boxes.
        filling: of those that cover nearly all of their image.
        rejected: of the images that were rejected.
        empty: of the other images without a box.
    """

    images: int = 0
    broken: int = 0
    boxes: int = 0
    filling: int = 0
    rejected: int = 0
    empty: int = 0


def write_coco(
    folder: Path,
    class_names: Sequence[str],
    pictures: Iterable[Picture],
    about: About | None = None,
) -> Counts:
    """Write `boxes.json`, COCO results, and `dataset.json`, the data set with the same boxes as annotations.

    `COCO("dataset.json").loadRes("boxes.json")` of pycocotools reads them. `boxes.json` comes last. Category k + 1 is
    class k; image ids count from 1, over the images that are left out too, those that could not be read or were
    rejected; boxes are x, y, width, height in pixels of the picture as it is shown. They are written as they come: a
    million need no memory.

    Args:
        folder: where to.
        class_names: the model's classes.
        pictures: what was found in each image; gone through several times.
        about: what the data set says of its origin.

    Raises:
        OSError: the files cannot be written.
    """
    images = broken = boxes = filling = rejected = empty = 0
    for picture in pictures:
        images += 1
        broken += picture.error is not None
        rejected += picture.rejected is not None
        empty += picture.error is None and picture.rejected is None and not picture.objects
        width, height = picture.size
        for one in picture.objects:
            boxes += 1
            filling += one.box[2] * one.box[3] > _FILLING * width * height
    write("coco", folder, pictures, class_names, about)
    return Counts(images, broken, boxes, filling, rejected, empty)
