"""Files of boxes by their images' names: CSV and COCO, of people and of `wsol localize` and `wsol discover`."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from wsol_ext.data.tables import AnnotationError, Box, box_of_coco, noted, read_csv

__all__ = ["BoxRow", "BoxTable", "read_box_table"]

_PLAIN = ("image", "x0", "y0", "x1", "y1")
_FOUND = (
    "image",
    "width",
    "height",
    "class",
    "score",
    "class_probability",
    "map_mean",
    *_PLAIN[1:],
)


class BoxRow(NamedTuple):
    """A box in a file.

    Attributes:
        image: the name of its image.
        box: x0, y0, x1, y1 in pixels; None of an image that is said to have none.
        error: makes of a message an error that says where the box stands.
    """

    image: str
    box: Box | None
    error: Callable[[str], AnnotationError]


@dataclass(frozen=True)
class BoxTable:
    """The boxes of a file, read each time that they are gone through.

    Attributes:
        path: the file.
        is_found: whether a program found them, as files with scores say: then they are no ground truth.
    """

    path: Path
    is_found: bool
    _rows: Callable[[], Iterator[BoxRow]]

    def __iter__(self) -> Iterator[BoxRow]:
        return self._rows()


def read_box_table(path: str | Path) -> BoxTable:
    """The boxes of a file.

    Args:
        path: CSV, whose first line is `image,x0,y0,x1,y1` or that of the `boxes.csv` of `wsol localize` and `wsol
            discover`; or their `dataset.json`, or another COCO data set, of that suffix. Names have forward slashes.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: another first line, or a JSON file that is no COCO data set; as it is gone through, a malformed
            line or an inverted box.
    """
    path = Path(path)
    if not path.is_file():
        there = "is no file" if path.exists() else "no such file"
        raise FileNotFoundError(
            f"{path}: {there}; it should be a file of boxes, CSV or COCO's JSON"
        )
    if path.suffix.lower() == ".json":
        dataset = _read_coco(path)
        scored = any("score" in one for one in dataset["annotations"])
        return BoxTable(path, scored, lambda: _of_coco(path, dataset))
    with path.open("rb") as file:
        is_found = b"class_probability" in file.readline(1000)
    header = _FOUND if is_found else _PLAIN
    return BoxTable(path, is_found, lambda: _of_csv(path, header))


def _of_csv(path: Path, header: tuple[str, ...]) -> Iterator[BoxRow]:
    corners = header.index("x0")
    for row in read_csv(path, header):
        name = PurePosixPath(row.fields[0]).as_posix()  # without a "./"
        found = None
        with noted("box"):
            has_none = header == _FOUND and not any(row.fields[corners:])
            found = BoxRow(name, None if has_none else row.box(corners), row.error)
        if found is not None:
            yield found


def _read_coco(path: Path) -> dict[str, Any]:
    try:
        dataset = json.loads(path.read_text(encoding="utf-8-sig"))
        for one in dataset["annotations"]:
            hash(one["image_id"]), one["bbox"]
        for image in dataset["images"]:
            hash(image["id"]), image["file_name"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise AnnotationError(
            f"{path}: is no COCO data set of images and annotations, such as the dataset.json of wsol ({error!r})"
        ) from error
    return dataset


def _of_coco(path: Path, dataset: dict[str, Any]) -> Iterator[BoxRow]:
    by_image: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for number, one in enumerate(dataset["annotations"]):
        by_image.setdefault(one["image_id"], []).append((number, one))
    for number, image in enumerate(dataset["images"]):
        name = PurePosixPath(str(image["file_name"])).as_posix()
        found = by_image.pop(image["id"], [])
        crowds = 0
        for place, one in found:
            where = _Place(path, f"annotations[{place}]")
            row = None
            with noted("box"):
                try:
                    box = box_of_coco(one)
                except ValueError as error:
                    raise where(str(error)) from None
                if box is None:
                    crowds += 1
                else:
                    row = BoxRow(name, box, where)
            if row is not None:
                yield row
        if crowds == len(found):
            yield BoxRow(name, None, _Place(path, f"images[{number}]"))
    for unknown in by_image.values():
        for place, one in unknown:
            with noted():
                raise _Place(path, f"annotations[{place}]")(
                    f"there is no image {one['image_id']!r}"
                )


@dataclass(frozen=True)
class _Place:
    """A place in a JSON file, as errors name it."""

    path: Path
    place: str

    def __call__(self, message: str) -> AnnotationError:
        return AnnotationError(f"{self.path}: {self.place}: {message}")
