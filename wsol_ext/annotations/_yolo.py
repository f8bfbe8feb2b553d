"""YOLO, in ultralytics' layout: pictures and labels in twin folders, and `data.yaml`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from wsol_ext.annotations._pictures import About, Picture, clipped, free_name, place, shown

# In a picture's path the last folder of this name is what ultralytics looks for labels beside.
_RENAMED = {"images": "images_"}


def write(
    paths: Sequence[Path], pictures: Iterable[Picture], classes: Sequence[str], about: About
) -> None:
    """Write `images/train/`, `labels/train/` and `data.yaml`.

    A label is a line: the class from 0, then the box's centre, width and height as shares of the picture's. Scores have
    no place there: a sixth number would be refused.
    """
    (folder,) = paths
    images, labels = folder / "images" / "train", folder / "labels" / "train"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for picture in shown(pictures):
        name = free_name(picture, labels, ".txt", _RENAMED)
        place(picture, images / name, about.pictures)
        path = labels / name.with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(_line(picture, *one[:3]) for one in picture.objects))
    names = dict(enumerate(classes))
    # No `path`: pictures are then looked for beside this file, wherever the folder goes.
    data = {"train": "images/train", "val": "images/train", "names": names}
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def _line(
    picture: Picture, category: int, score: float, box: tuple[float, float, float, float]
) -> str:
    x0, y0, x1, y1 = clipped(picture, box)
    numbers = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
    return f"{category} {' '.join(f'{number:.6f}' for number in numbers)}\n"
