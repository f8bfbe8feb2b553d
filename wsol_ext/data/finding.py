"""Finding the picture files below a folder, and what is said of those that are passed over."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsol_ext._files import is_results_folder
from wsol_ext._names import printable, some
from wsol_ext.data.images import heif_hint, is_like_image, is_readable_name

__all__ = ["Found", "find_images", "passed_over", "search"]


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        images: the picture files, sorted.
        passed_over: files named like pictures that are none or cannot be read here, and folders that cannot be opened.
    """

    images: list[Path] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)


def search(folder: Path) -> Found:
    """The picture files at any depth below a folder, without hidden ones and those that `wsol` drew.

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
            elif is_like_image(entry.name):
                is_image = is_readable_name(entry.name) and os.path.isfile(entry.path)
                (found.images if is_image else found.passed_over).append(here / entry.name)
    found.images.sort()
    found.passed_over.sort()
    return found


def find_images(folder: Path) -> list[Path]:
    """The picture files below a folder, as `search` finds them; with a warning of those that are passed over."""
    found = search(folder)
    if found.passed_over:
        warnings.warn(
            f"{printable(folder)}: {passed_over(found.passed_over, folder)}", stacklevel=2
        )
    return found.images


def passed_over(files: Sequence[Path], root: Path, why: str = "cannot be read here") -> str:
    """What to say of files that are passed over: their number, the first three, and what might help."""
    names = [printable(path.relative_to(root).as_posix()) for path in files]
    number = "1 file" if len(files) == 1 else f"{len(files)} files"
    hint = next(filter(None, map(heif_hint, files)), "")
    return f"{number} passed over ({why}{hint}): {some(names)}"
