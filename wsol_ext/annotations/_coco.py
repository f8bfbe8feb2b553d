"""COCO: a data set with annotations, and a results list over its pictures."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import wsol_ext
from wsol_ext.annotations._pictures import About, Object, Picture, shown, write_json


def write(
    paths: Sequence[Path], pictures: Iterable[Picture], classes: Sequence[str], about: About
) -> None:
    """Write `dataset.json` and `boxes.json`.

    Category k + 1 is class k, since tools take 0 for the background; a picture's id is its number.
    """
    dataset, results = paths
    categories = [
        {"id": k + 1, "name": name, "supercategory": ""} for k, name in enumerate(classes)
    ]
    info = {"description": f"boxes by {about.model}", "version": wsol_ext.__version__}
    write_json(
        dataset,
        {
            "info": info,
            "licenses": [{"id": 0, "name": "", "url": ""}],  # CVAT wants one
            "images": (_image(picture) for picture in shown(pictures)),
            "categories": categories,
            "annotations": _annotations(pictures),
        },
    )
    write_json(results, _results(pictures, classes))


def _image(picture: Picture) -> dict[str, Any]:
    width, height = picture.size
    return {"id": picture.id, "file_name": picture.name, "width": width, "height": height}


def _found(pictures: Iterable[Picture]) -> Iterator[tuple[Picture, Object]]:
    return ((picture, one) for picture in shown(pictures) for one in picture.objects)


def _annotations(pictures: Iterable[Picture]) -> Iterator[dict[str, Any]]:
    for number, (picture, one) in enumerate(_found(pictures), 1):
        yield {
            "id": number,
            "image_id": picture.id,
            "category_id": one.category + 1,
            "bbox": list(one.box),
            "area": round(one.box[2] * one.box[3], 2),
            "iscrowd": 0,
            "segmentation": [],
            "score": one.score,
            **one.apart,
        }


def _results(pictures: Iterable[Picture], classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    for picture, one in _found(pictures):
        yield {
            "image_id": picture.id,
            "file_name": picture.name,
            "category_id": one.category + 1,
            "category": classes[one.category],
            "bbox": list(one.box),
            "score": one.score,
            **one.apart,
        }
