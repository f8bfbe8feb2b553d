"""Which folders are splits of a data set, by their names."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from wsol_ext._files import is_results_folder

__all__ = ["check_split", "split_folders", "split_of"]

_SPELLINGS = {"train": "train(ing)?", "val": "val(id(ation)?)?", "test": "test(ing)?"}


def check_split(dataset: str, split: str, splits: Collection[str]) -> None:
    """Refuse a split that a data set does not have.

    Raises:
        ValueError: it is none of `splits`.

    Example:
        >>> check_split("CubDataset", "val", ("train", "test"))
        Traceback (most recent call last):
            ...
        ValueError: CubDataset: split is 'val', it should be 'train' or 'test'
    """
    if split not in splits:
        *others, last = map(repr, splits)
        raise ValueError(
            f"{dataset}: split is {split!r}, it should be {', '.join(others)} or {last}"
        )


def split_of(name: str) -> str | None:
    """The split that a folder's name stands for, in any case: "train", "val", "test", or None.

    Example:
        >>> [split_of(name) for name in ("Training", "valid", "test_images", "trainer")]
        ['train', 'val', 'test', None]
    """
    for split, spelling in _SPELLINGS.items():
        if re.fullmatch(rf"{spelling}([ _-]?(set|split|data|images))?", name, re.IGNORECASE):
            return split
    return None


def split_folders(root: Path, splits: Iterable[str]) -> dict[str, Path]:
    """The folders in `root` that are a data set's splits, by split; one that `wsol` made, such as a run's, is none.

    Args:
        root: the folder.
        splits: the data set's splits. A folder of exactly that name counts before one that is another spelling of it.

    Raises:
        ValueError: two folders that are other spellings of one split.
    """
    if not root.is_dir():
        return {}
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not is_results_folder(p))
    found = {}
    for split in splits:
        alike = [
            path
            for path in folders
            if path.name.lower() == split.lower() or split_of(path.name) == split
        ]
        exact = [path for path in alike if path.name == split] or alike
        if len(exact) > 1:
            names = " and ".join(path.name for path in exact)
            raise ValueError(f"{root} holds {names}, it should have one folder for {split!r}")
        if exact:
            found[split] = exact[0]
    return found
