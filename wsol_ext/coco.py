"""Boxes in the COCO form, which labelling tools and pycocotools read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsol_ext._files import write_json
from wsol_ext.localize import ImageResult

__all__ = ["CocoResults"]


class CocoResults:
    """What was found, collected image by image; no map is kept, which a million images have no room for.

    Category k + 1 is class k; image ids count from 1, over the images that could not be read too, which are left out;
    boxes are x, y, width, height in pixels of the image as stored.

    Args:
        class_names: the model's classes.
        root: the folder, as an absolute path, that file names are given relative to, where they lie below it.

    Attributes:
        seen: how many images were added.
        broken: how many of them could not be read.
    """

    def __init__(self, class_names: Sequence[str], root: Path) -> None:
        self.class_names, self.root = class_names, root
        self.seen = self.broken = 0
        self._images: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def add(self, result: ImageResult) -> None:
        """Take in the next image."""
        self.seen += 1
        if result.error is not None:
            self.broken += 1
            return
        name, (width, height) = self._name(result.path), result.size
        image = {"id": self.seen, "file_name": name, "width": width, "height": height}
        self._images.append(image)
        for one in result.objects:
            x0, y0, x1, y1 = (round(float(v), 2) for v in one.box)
            self._found.append(
                {
                    "image_id": self.seen,
                    "file_name": name,
                    "category_id": one.category + 1,
                    "category": self.class_names[one.category],
                    "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                    "score": round(one.score, 6),
                }
            )

    def write(self, folder: Path) -> None:
        """Write `boxes.json`, COCO results, and `dataset.json`, the images and categories they refer to.

        `COCO("dataset.json").loadRes("boxes.json")` of pycocotools reads them.

        Raises:
            OSError: the files cannot be written.
        """
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(self.class_names)]
        dataset = {"info": {}, "images": self._images, "categories": categories, "annotations": []}
        write_json(folder / "dataset.json", dataset)
        write_json(folder / "boxes.json", self._found)

    def _name(self, path: Path) -> str:
        absolute = Path(os.path.abspath(path))  # links are not followed
        below = absolute.is_relative_to(self.root)
        return (absolute.relative_to(self.root) if below else absolute).as_posix()
