"""What forms are made of: pictures and the objects found in them."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from wsol_ext._files import json_text
from wsol_ext._names import unknown

Placing = Literal["link", "copy", "none"]
PLACINGS: tuple[Placing, ...] = ("link", "copy", "none")


class Object(NamedTuple):
    """One object in a picture.

    Attributes:
        category: the class.
        score: how sure it is, in [0, 1].
        box: x, y, width and height in pixels of the picture as it is shown.
        probability: of the class, where the score is that times `map_mean`.
        map_mean: the mean of the score map over the object, likewise.
    """

    category: int
    score: float
    box: tuple[float, float, float, float]
    probability: float | None = None
    map_mean: float | None = None

    @property
    def apart(self) -> dict[str, float]:
        """What the score is made of, where it is made of two."""
        if self.probability is None or self.map_mean is None:
            return {}
        return {"class_probability": self.probability, "map_mean": self.map_mean}


@dataclass(frozen=True)
class Picture:
    """A picture and what was found in it.

    Attributes:
        id: its number, from 1.
        name: what results call it: `wsol_ext.coco.file_name` of it.
        path: the file.
        size: width and height as it is shown, turned by its EXIF orientation.
        objects: those found, the best first.
        error: why there are none, of one that could not be read.
        rejected: the best class and its probability, of one where that is too low.
    """

    id: int
    name: str
    path: Path
    size: tuple[int, int] = (0, 0)
    objects: tuple[Object, ...] = ()
    error: str | None = None
    rejected: tuple[int, float] | None = None

    @classmethod
    def of(cls, index: int, name: str, path: Path, found: Mapping[str, Any]) -> "Picture":
        """The picture number `index`, from 0, with what `wsol_ext.coco.found_in` has of it: a line of the journal."""
        if "error" in found:
            return cls(index + 1, name, path, error=found["error"])
        width, height = found["size"]
        objects = tuple(Object(c, s, (*box[:4],), *box[4:]) for c, s, *box in found["boxes"])
        rejected = tuple(found["rejected"]) if "rejected" in found else None
        return cls(index + 1, name, path, (width, height), objects, rejected=rejected)


@dataclass(frozen=True)
class About:
    """What forms say beside the boxes.

    Attributes:
        model: what found them, as tools that compare models show it.
        pictures: of the forms that have the pictures beside the boxes, whether those are symbolic links to them,
            copies of them, or left out.
        url: what comes before a picture's name, percent-encoded, where Label Studio is to find it.

    Raises:
        ValueError: `pictures` is none of these.
    """

    model: str = "wsol"
    pictures: Placing = "link"
    url: str = "/data/local-files/?d="

    def __post_init__(self) -> None:
        if self.pictures not in PLACINGS:
            raise ValueError(unknown("pictures", self.pictures, PLACINGS))


def shown(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Those that forms have: without those that could not be read, and without rejected ones."""
    return (p for p in pictures if p.error is None and p.rejected is None)


def clipped(picture: Picture, box: tuple[float, float, float, float]) -> tuple[float, ...]:
    """x0, y0, x1, y1 of a box as shares of the picture's sides, within [0, 1]."""
    x, y, width, height = box
    corners = (x, y, x + width, y + height)
    return tuple(
        min(max(v / side, 0.0), 1.0) for v, side in zip(corners, 2 * picture.size, strict=True)
    )


def free_name(
    picture: Picture, labels: Path, suffix: str, rename: Mapping[str, str]
) -> PurePosixPath:
    """Where a picture goes below a folder of pictures whose labels lie in another under the same names.

    `a.jpg` and `a.png` of one folder have one name for their labels: the later gets its number behind it.

    Args:
        picture: the picture.
        labels: the folder of labels so far.
        suffix: theirs.
        rename: folders that cannot keep their name, by that name.
    """
    *above, last = (p for p in PurePosixPath(picture.name).parts if p not in ("/", ".."))
    folder = PurePosixPath(*(_plain(rename.get(part, part)) for part in above))
    path = PurePosixPath(_plain(last))
    stem = _shortened(path.stem)
    while (labels / folder / f"{stem}{suffix}").exists():
        stem = f"{_shortened(stem)}_{picture.id}"
    return folder / f"{stem}{path.suffix}"


def _plain(part: str) -> str:
    """A name that is one line, which lists of names need."""
    return "".join(c if c.isprintable() else "_" for c in part)


def _shortened(stem: str) -> str:
    """As much of a name as leaves room for a number and a suffix, where that is less than all."""
    data = os.fsencode(stem)
    return stem if len(data) <= 240 else data[:240].decode("utf-8", errors="ignore")


def place(picture: Picture, target: Path, placing: Placing) -> None:
    """Put a picture beside its labels.

    Raises:
        OSError: it cannot be.
    """
    if placing == "none":
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if placing == "link":
        target.symlink_to(os.path.abspath(picture.path))
    else:
        shutil.copyfile(picture.path, target)


class Members(Mapping[str, Any]):
    """The members of a JSON object, as they come."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        self._pairs = pairs

    def items(self) -> Any:
        """The pairs."""
        return self._pairs

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._pairs)

    def __len__(self) -> int:
        return sum(1 for _ in self._pairs)

    def __getitem__(self, name: str) -> Any:
        return dict(self._pairs)[name]


def write_json(path: Path, value: Any) -> None:
    """Write JSON of which not all is in memory: iterators become arrays, `Members` objects.

    Raises:
        OSError: the disk is full; it names the file, since others may be written at the same time.
    """
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json_text(value))
            file.write("\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from error


_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """A text as XML can hold it: what it cannot, such as an escape, becomes U+FFFD."""
    return _NO_XML.sub("\ufffd", text)
