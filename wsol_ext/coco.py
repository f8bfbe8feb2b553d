"""Boxes in the COCO form, which labelling tools and pycocotools read."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wsol_ext._files import write_json
from wsol_ext._names import printable
from wsol_ext.localize import ImageResult

__all__ = ["Counts", "file_name", "found_in", "write_coco"]

_FILLING = 0.95  # of an image's area: a box of more says nothing of where


def found_in(result: ImageResult) -> dict[str, Any]:
    """What files say of an image: plain values, which JSON gives back as they were.

    Returns:
        `size`, width and height, and `boxes`, for each object its class, score, and x, y, width and height in pixels;
        or the `error`.
    """
    if result.error is not None:
        return {"error": result.error}
    boxes = []
    for one in result.objects:
        x0, y0, x1, y1 = (round(float(v), 2) for v in one.box)
        box = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
        boxes.append([one.category, round(one.score, 6), *box])
    return {"size": list(result.size), "boxes": boxes}


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
    """

    images: int = 0
    broken: int = 0
    boxes: int = 0
    filling: int = 0


def write_coco(
    folder: Path,
    class_names: Sequence[str],
    records: Iterable[tuple[str, Mapping[str, Any]]],
) -> Counts:
    """Write `boxes.json`, COCO results, and `dataset.json`, the images and categories they refer to.

    `COCO("dataset.json").loadRes("boxes.json")` of pycocotools reads them. `boxes.json` comes last. Category k + 1 is
    class k; image ids count from 1, over the images that could not be read too, which are left out; boxes are x, y,
    width, height in pixels of the picture as it is shown. Records are written as they come: a million need no memory.

    Args:
        folder: where to.
        class_names: the model's classes.
        records: for each image its `file_name` and what `found_in` says of it; gone through twice.

    Raises:
        OSError: the files cannot be written.
    """
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(class_names)]
    images = broken = boxes = filling = 0

    def all_images() -> Iterator[dict[str, Any]]:
        nonlocal images, broken
        for images, (name, found) in enumerate(records, start=1):
            if "error" in found:
                broken += 1
                continue
            width, height = found["size"]
            yield {"id": images, "file_name": name, "width": width, "height": height}

    def all_boxes() -> Iterator[dict[str, Any]]:
        nonlocal boxes, filling
        for number, (name, found) in enumerate(records, start=1):
            for category, score, *box in found.get("boxes", ()):
                width, height = found["size"]
                boxes += 1
                filling += box[2] * box[3] > _FILLING * width * height
                yield {
                    "image_id": number,
                    "file_name": name,
                    "category_id": category + 1,
                    "category": class_names[category],
                    "bbox": box,
                    "score": score,
                }

    dataset = {"info": {}, "images": all_images(), "categories": categories, "annotations": []}
    write_json(folder / "dataset.json", dataset)
    write_json(folder / "boxes.json", all_boxes())
    return Counts(images, broken, boxes, filling)
