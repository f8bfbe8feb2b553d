"""A table: a line an object, and one for a picture without any."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from wsol_ext._files import csv_field
from wsol_ext.annotations._pictures import About, Picture, shown

_COLUMNS = ("image", "width", "height", "class", "score", "class_probability", "map_mean")
_CORNERS = ("x0", "y0", "x1", "y1")


def write(
    paths: Sequence[Path], pictures: Iterable[Picture], classes: Sequence[str], about: About
) -> None:
    """Write `boxes.csv`; corners are in pixels. A picture without objects has empty fields behind its size."""
    (path,) = paths
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, *_CORNERS])
        for picture in shown(pictures):
            writer.writerows(map(csv_field, row) for row in _rows(picture, classes))


def _rows(picture: Picture, classes: Sequence[str]) -> Iterator[list[object]]:
    image = [picture.name, *picture.size]
    if not picture.objects:
        yield [*image, *[""] * (len(_COLUMNS) + len(_CORNERS) - len(image))]
    for one in picture.objects:
        x, y, width, height = one.box
        corners = (x, y, round(x + width, 2), round(y + height, 2))
        apart = [one.apart.get(name, "") for name in ("class_probability", "map_mean")]
        yield [*image, classes[one.category], one.score, *apart, *corners]
