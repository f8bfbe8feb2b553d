"""Boxes in the COCO form, which labelling tools and pycocotools read."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsol_ext._files import write_json
from wsol_ext._names import printable
from wsol_ext.localize import ImageResult

__all__ = ["CocoResults", "file_name", "found_in"]

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


class CocoResults:
    """What was found, collected image by image; no map is kept, which a million images have no room for.

    Category k + 1 is class k; image ids count from 1, over the images that could not be read too, which are left out;
    boxes are x, y, width, height in pixels of the picture as it is shown.

    Args:
        class_names: the model's classes.
        root: the folder, as an absolute path, that file names are given relative to, where they lie below it.

    Attributes:
        seen: how many images were added.
        broken: how many of them could not be read.
        filling: how many of the boxes cover nearly all of their image.
    """

    def __init__(self, class_names: Sequence[str], root: Path) -> None:
        self.class_names, self.root = class_names, root
        self.seen = self.broken = self.filling = 0
        self._images: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    @property
    def boxes(self) -> int:
        """How many boxes there are."""
        return len(self._found)

    def add(self, result: ImageResult) -> None:
        """Take in the next image; one that is no file is called by its place."""
        path = result.path
        name = f"{result.index}" if path is None else file_name(path, self.root)
        self.add_found(name, found_in(result))

    def add_found(self, name: str, found: Mapping[str, Any]) -> None:
        """Take in the next image by its `file_name`, as `found_in` has it."""
        self.seen += 1
        if "error" in found:
            self.broken += 1
            return
        width, height = found["size"]
        image = {"id": self.seen, "file_name": name, "width": width, "height": height}
        self._images.append(image)
        for category, score, *box in found["boxes"]:
            self.filling += box[2] * box[3] > _FILLING * width * height
            self._found.append(
                {
                    "image_id": self.seen,
                    "file_name": name,
                    "category_id": category + 1,
                    "category": self.class_names[category],
                    "bbox": box,
                    "score": score,
                }
            )

    def write(self, folder: Path) -> None:
        """Write `boxes.json`, COCO results, and `dataset.json`, the images and categories they refer to.

        `COCO("dataset.json").loadRes("boxes.json")` of pycocotools reads them. `boxes.json` comes last.

        Raises:
            OSError: the files cannot be written.
        """
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(self.class_names)]
        dataset = {"info": {}, "images": self._images, "categories": categories, "annotations": []}
        write_json(folder / "dataset.json", dataset)
        write_json(folder / "boxes.json", self._found)
