"""Finding the picture files below a folder, and what is said of those that are passed over."""

import functools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsol_ext._files import is_results_folder
from wsol_ext._names import Spellings, printable, some
from wsol_ext.data.images import (
    format_by_content,
    heif_hint,
    is_like_image,
    is_readable_format,
    is_readable_name,
)

__all__ = ["Found", "as_stored", "find_images", "is_image", "no_image", "passed_over", "search"]


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        images: the picture files, sorted.
        passed_over: files named like pictures that are none or cannot be read here, and folders that cannot be opened.
        misnamed: pictures by their content whose names are those of something else.
    """

    images: list[Path] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)
    misnamed: list[Path] = field(default_factory=list)

    def add(self, other: "Found") -> None:
        """Add what another folder holds."""
        self.images += other.images
        self.passed_over += other.passed_over
        self.misnamed += other.misnamed

    def news(self, root: Path) -> str:
        """What to say of the files that are no `images`, their names being those below `root`; "" without any."""
        misnamed = "images by their content, but not by their names; rename them to use them"
        said = [passed_over(self.passed_over, root)] if self.passed_over else []
        said += [passed_over(self.misnamed, root, misnamed)] if self.misnamed else []
        return "; ".join(said)


def search(folder: Path) -> Found:
    """The picture files at any depth below a folder, without hidden ones and those in folders that `wsol` made.

    A file whose name has no suffix is a picture if its first bytes are those of one.

    Linked folders are followed; what is one folder on the disk is searched once, so that links that lead back to where
    they are do not matter.
    """
    found = Found()
    searched: set[str] = set()
    folders: list[Path] = [folder]
    links: list[Path] = []
    while folders or links:
        # Links last: a picture is called by the folder that it lies in, where that is below.
        here = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(here)
        if real in searched or is_results_folder(here):
            continue
        searched.add(real)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            found.passed_over.append(here)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            linked = entry.is_symlink()
            if os.path.isdir(entry.path) if linked else entry.is_dir():
                (links if linked else folders).append(here / entry.name)
            else:
                _add_file(found, here / entry.name)
    for paths in (found.images, found.passed_over, found.misnamed):
        paths.sort()
    return found


def _add_file(found: Found, path: Path) -> None:
    if is_like_image(path.name):
        is_readable = is_readable_name(path.name) and os.path.isfile(path)
        (found.images if is_readable else found.passed_over).append(path)
    elif form := format_by_content(path):
        if os.path.splitext(path)[1]:
            found.misnamed.append(path)
        else:
            (found.images if is_readable_format(form) else found.passed_over).append(path)


def is_image(path: Path) -> bool:
    """Whether a file is named like a picture, or is one by its first bytes."""
    return is_like_image(path.name) or format_by_content(path) is not None


def find_images(folder: Path) -> list[Path]:
    """The picture files below a folder, as `search` finds them; with a warning of those that are passed over."""
    found = search(folder)
    if news := found.news(folder):
        warnings.warn(f"{printable(folder)}: {news}", stacklevel=2)
    return found.images


def as_stored(path: Path) -> Path:
    """A file that a list names, by its name on the disk, as `Spellings` finds it; else as it is named."""
    if str(path).isascii() or path.exists():
        return path
    folder = as_stored(path.parent)
    if not folder.is_dir():
        return path
    name = _spellings(folder, folder.stat().st_mtime_ns).find(path.name)
    return path if name is None else folder / name


@functools.lru_cache(maxsize=16)
def _spellings(folder: Path, changed: int) -> Spellings:
    """The names in a folder, as it was when it was changed last."""
    return Spellings(os.listdir(folder))


def no_image(folder: Path) -> str:
    """What to say of a folder in which `find_images` finds none."""
    why = ": wsol made it, and what wsol draws is passed over" if is_results_folder(folder) else ""
    return f"{printable(folder)}: the folder has no image{why}"


def passed_over(files: Sequence[Path], root: Path, why: str = "cannot be read here") -> str:
    """What to say of files that are passed over: their number, the first three, and what might help."""
    names = [printable(path.relative_to(root).as_posix()) for path in files]
    number = "1 file" if len(files) == 1 else f"{len(files)} files"
    hint = next(filter(None, map(heif_hint, files)), "")
    return f"{number} passed over ({why}{hint}): {some(names)}"
