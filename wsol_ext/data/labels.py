"""Known classes of one's own images: by their folders, or by a CSV file."""

import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from wsol_ext._names import Spellings, printable, some
from wsol_ext.data.tables import Row, read_csv

__all__ = ["NOTHING", "read_labels"]


NOTHING = "nothing"
"""What stands for a class where an image has none of them."""


def read_labels(
    source: str, paths: Sequence[Path], class_names: Sequence[str], nothing: bool = False
) -> dict[Path, int]:
    """The known class of each image.

    Args:
        source: "folder", where each image lies in a folder named as its class; or a CSV file whose first
            line is `image,class`, classes by name. Images are named by their path, or by so much of its end,
            with forward slashes, as tells them apart: `jay/001.jpg`, or `001.jpg` where no other image is called so.
        paths: the images.
        class_names: the model's classes.
        nothing: whether an image may have none of them, -1: one whose class is `NOTHING`. Where a class is called so,
            images of that class have it, and a warning says so.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: a malformed line, an unknown class, a name that several images have, or two lines that
            contradict each other; file and line are named.
        ValueError: an image without a line or, by "folder", in a folder that is no class.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    if nothing and NOTHING in numbers:
        warnings.warn(
            f"the model has a class that is called {NOTHING!r}: pictures labelled so count as that class, not as "
            "pictures of none; rename it in the model's class_names where those are meant",
            stacklevel=2,
        )
    elif nothing:
        numbers[NOTHING] = -1
    if source == "folder":
        known, classes = Spellings(numbers), {}
        for path in paths:
            name = known.find(printable(path.parent.name))
            if name is None:
                raise ValueError(
                    f"{printable(path)}: its folder {printable(path.parent.name)!r} is no class of the model, "
                    f"which knows {some(class_names, 5)}"
                )
            classes[path] = numbers[name]
        return classes
    lines = _lines_of_images(_read_label_file(Path(source), numbers), paths)
    lacking = [printable(path) for path in paths if path not in lines]
    if lacking:
        raise ValueError(f"{source}: has no line for {some(lacking)}")
    return {path: numbers[lines[path].fields[1]] for path in paths}


def _read_label_file(path: Path, numbers: Mapping[str, int]) -> list[Row]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such label file")
    rows = list(read_csv(path, ("image", "class")))
    for row in rows:
        if row.fields[1] not in numbers:
            raise row.error(
                f"{row.fields[1]!r} is no class of the model, which knows {some(list(numbers), 5)}"
            )
    return rows


def _lines_of_images(rows: Sequence[Row], paths: Sequence[Path]) -> dict[Path, Row]:
    """The line of each image that has one."""
    named = [PurePosixPath(row.fields[0]).parts for row in rows]
    by_ends = _by_ends(paths, {len(parts) for parts in named})
    by_name = {"/".join(parts): images for parts, images in by_ends.items()}
    known = Spellings(by_name)
    lines: dict[Path, Row] = {}
    for row, parts in zip(rows, named, strict=True):
        name = known.find("/".join(parts))
        images = [] if name is None else by_name[name]
        if len({os.path.abspath(image) for image in images}) > 1:
            raise row.error(
                f"{row.fields[0]!r} is the name of {len(images)} images, {some(sorted(map(printable, images)))}: "
                "put the folders before it that tell them apart"
            )
        for image in images:
            other = lines.setdefault(image, row)
            if other.fields[1] != row.fields[1]:
                raise row.error(
                    f"{row.fields[0]!r} is of class {row.fields[1]!r}, line {other.line} says {other.fields[1]!r}"
                )
    return lines


def _by_ends(paths: Sequence[Path], lengths: set[int]) -> Mapping[tuple[str, ...], Sequence[Path]]:
    """The images by the last parts of their paths, as many parts as the lengths say, and by whole names.

    A whole name is the path, or what of it is below the folder that all images lie in: it is that image's alone.
    """
    ends: defaultdict[tuple[str, ...], list[Path]] = defaultdict(list)
    whole: defaultdict[tuple[str, ...], list[Path]] = defaultdict(list)
    folders = [os.path.abspath(path.parent) for path in paths]
    shared = printable(os.path.commonpath(folders)) if folders else ""
    for path in paths:
        full = Path(printable(os.path.abspath(path)))
        for length in lengths:
            if length <= len(full.parts):
                ends[full.parts[-length:]].append(path)
        below = full.relative_to(shared).parts
        for parts in {full.parts, Path(printable(path)).parts, below}:
            whole[parts].append(path)
    return {**ends, **whole}
