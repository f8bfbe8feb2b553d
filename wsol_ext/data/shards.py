"""Pictures in tar files, in the form of the library webdataset, read at random places."""

import json
import re
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from wsol_ext._names import printable
from wsol_ext.data.base import LocalizationDataset, Transform
from wsol_ext.data.class_names import read_class_names
from wsol_ext.data.images import NamedBytes, image_suffixes
from wsol_ext.data.splits import split_folders, split_of
from wsol_ext.data.tables import (
    AnnotationError,
    Box,
    check_box,
    check_pixels,
    finite_numbers,
    noted,
)

__all__ = ["ShardDataset"]

_MOST_CLASSES = 1_000_000  # each has a name


class _Place(NamedTuple):
    """Where a member's bytes are."""

    start: int
    size: int


class _Picture(NamedTuple):
    shard: int
    place: _Place
    name: str
    label: int
    boxes: list[Box]


class ShardDataset(LocalizationDataset):
    """Tar files as webdataset has them: the files of a sample stand together, and share their name up to its first dot.

    A sample has a picture, `KEY.jpg` or of another format that is read here, and its class as `KEY.cls`, a number
    counted from 0 as text, or as `label` in `KEY.json`; boxes, where there are any, are `boxes` in `KEY.json`: a list
    of `[x0, y0, x1, y1]` in pixels of the picture as it is shown, from edge to edge. Other files are passed over.

    The root holds tar files whose names have that of the split, `train-000000.tar`, or a folder of the split that holds
    them. `classes.txt` in the root has the classes' names, a line each; without it they are numbers. All headers are
    read as the data set is opened; pictures then come by their place, in any order, so that shuffling, resuming and
    distribution are those of every other data set. Compressed files have no places, and are refused.

    Args:
        root: the folder.
        split: "train", "val" or "test", or whatever else the names have.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
        num_classes: how many classes there are; None: as many as `classes.txt` has, or else the highest label says.
        unboxed: what becomes of pictures without a box, which evaluation by boxes cannot have: "keep" them, or "drop"
            them with a warning that says how many.

    Raises:
        FileNotFoundError: there is no tar file of the split.
        AnnotationError: a file is no tar file, or cut off; a sample lacks its picture or class, or has what makes no
            sense; the file and the sample's key are named.
        ValueError: another value of `unboxed`.
        ImageError: from `dataset[i]`: a broken picture.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        num_classes: int | None = None,
        unboxed: Literal["keep", "drop"] = "keep",
    ) -> None:
        if unboxed not in ("keep", "drop"):
            raise ValueError(f"ShardDataset: unboxed is {unboxed!r}, it should be 'keep' or 'drop'")
        root = Path(root)
        self.shards = _shards(root, split)
        pictures: list[_Picture] = []
        has_boxes = False
        for number, path in enumerate(self.shards):
            with noted(), open(path, "rb") as file:
                for key, members in _samples(path, file).items():
                    with noted():
                        picture, described = _picture(number, path, file, key, members)
                        pictures.append(picture)
                        has_boxes |= described
        boxed = [picture for picture in pictures if picture.boxes]
        if unboxed == "drop" and len(boxed) < len(pictures):
            share = f"{len(pictures) - len(boxed)} of {len(pictures)} images of {split}"
            warnings.warn(f"{root}: has no box for {share}, left out", stacklevel=2)
            pictures = boxed
        check_pixels(root, (box for picture in pictures for box in picture.boxes))
        names_file = root / "classes.txt"
        highest = max((picture.label for picture in pictures), default=-1)
        if names_file.is_file():
            class_names = read_class_names(names_file)
        else:
            class_names = [str(label) for label in range(num_classes or highest + 1)]
        if highest >= len(class_names) or num_classes not in (None, len(class_names)):
            raise AnnotationError(
                f"{root}: has {len(class_names)} classes, num_classes is {num_classes} and the highest label {highest}"
            )
        super().__init__(
            [picture.name for picture in pictures],
            [picture.label for picture in pictures],
            class_names,
            transform,
            (picture.boxes for picture in pictures) if has_boxes else None,
        )
        self._pictures = [(picture.shard, picture.place) for picture in pictures]

    def image_file(self, index: int) -> NamedBytes:
        """The bytes of picture number `index`."""
        shard, place = self._pictures[index]
        with open(self.shards[shard], "rb") as file:
            return NamedBytes(_content(file, place), self.image_names[index])

    def file_bytes(self, index: int) -> int:
        """How many bytes picture number `index` has."""
        _, place = self._pictures[index]
        return place.size


def _shards(root: Path, split: str) -> list[Path]:
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; it should hold tar files")
    folder = split_folders(root, (split,)).get(split)
    named = [path for path in root.glob("*.tar*") if _is_of(path.name, split)]
    found = sorted(folder.glob("*.tar*") if folder else named)
    if not found:
        raise FileNotFoundError(
            f"{root}: has no tar file of {split}: neither {split}-000000.tar nor a folder {split} of tar files"
        )
    for path in found:
        if path.suffix != ".tar":
            raise AnnotationError(
                f"{path}: is compressed, and nothing in it can be found without reading all before; unpack it to .tar"
            )
    return found


def _is_of(name: str, split: str) -> bool:
    parts = re.split("[-_.]", name)
    return split in parts or any(split_of(part) == split for part in parts)


def _samples(path: Path, file: BinaryIO) -> dict[str, dict[str, _Place]]:
    """By key, where the bytes of a sample's files are, by what their names end with."""
    samples: dict[str, dict[str, _Place]] = {}
    size = path.stat().st_size
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, slash, name = member.name.removeprefix("./").rpartition("/")
                stem, _, end = name.partition(".")
                if member.offset_data + member.size > size:
                    raise AnnotationError(f"{path}: is cut off within {printable(member.name)}")
                files = samples.setdefault(f"{folder}{slash}{stem}", {})
                with noted():
                    if end.lower() in files:
                        raise AnnotationError(f"{path}: {printable(member.name)} is there twice")
                    files[end.lower()] = _Place(member.offset_data, member.size)
    except (tarfile.TarError, ValueError, EOFError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{path}: cannot be read as a tar file: {error}") from error
    return samples


def _picture(
    shard: int, path: Path, file: BinaryIO, key: str, members: Mapping[str, _Place]
) -> tuple[_Picture, bool]:
    """A sample, and whether it says boxes."""
    place = f"{path}: {printable(key)}"
    suffixes = image_suffixes()
    images = [end for end in members if f".{end}" in suffixes]
    if len(images) != 1:
        ends = ", ".join(f".{end}" for end in members)
        raise AnnotationError(f"{place} has {ends}, it should have one image")
    said: dict[str, Any] = {}
    if "json" in members:
        try:
            said = json.loads(_content(file, members["json"]))
        except (ValueError, RecursionError) as error:
            raise AnnotationError(f"{place}.json: is no JSON: {error}") from error
        if not isinstance(said, dict):
            raise AnnotationError(f"{place}.json is {said!r}, it should be values by name")
    label: Any = said.get("label")
    if "cls" in members:
        text = _content(file, members["cls"]).decode("utf-8", "replace").strip()
        label = int(text) if text.isdecimal() and len(text) < 10 else text
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < _MOST_CLASSES:
        where = ".cls" if "cls" in members else ": label in .json, or .cls,"
        raise AnnotationError(f"{place}{where} is {label!r}, it should be a number from 0 on")
    boxes: list[Box] = []
    listed = said.get("boxes", [])
    if not isinstance(listed, list):
        raise AnnotationError(f"{place}.json: boxes is {listed!r}, it should be a list")
    for number, box in enumerate(listed):
        with noted("box"):
            boxes.append(_box(f"{place}.json: boxes[{number}]", box))
    name = f"{path.name}/{printable(key)}.{images[0]}"
    return _Picture(shard, members[images[0]], name, label, boxes), "boxes" in said


def _box(place: str, box: Any) -> Box:
    numbers = finite_numbers(box, 4)
    if numbers is None:
        raise AnnotationError(f"{place} is {box!r}, it should be x0, y0, x1, y1 in pixels")
    x0, y0, x1, y1 = numbers
    return check_box(place, (x0, y0, x1, y1))


def _content(file: BinaryIO, place: _Place) -> bytes:
    file.seek(place.start)
    return file.read(place.size)
