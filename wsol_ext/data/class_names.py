"""Whether two lists name the same classes, though one has numbers before the names, or in their place."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wsol_ext._names import some

if TYPE_CHECKING:
    from wsol_ext.data.base import LocalizationDataset

__all__ = [
    "are_numbers",
    "class_mismatch",
    "differing_classes",
    "read_class_names",
    "require_classes",
    "without_number",
]


def differing_classes(names: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """The classes, of two lists of one length, that the other list calls otherwise, with their names there.

    `017.Cardinal` is `Cardinal` where one list has numbers before all its names and the other has not: the folders of
    CUB-200-2011 have them. A list of mere numbers, as data sets give that know labels alone, names nothing and so
    contradicts nothing.

    Example:
        >>> differing_classes(["001.Auk", "002.Bat"], ["Auk", "Cat"])
        [('002.Bat', 'Cat')]
        >>> differing_classes(["auk", "bat"], ["0", "1"])
        []
    """
    if are_numbers(names) or are_numbers(others):
        return []
    alike = _without_numbers if _are_numbered(names) != _are_numbered(others) else list
    compared = zip(alike(names), alike(others), names, others, strict=True)
    return [(name, other) for one, two, name, other in compared if one != two]


def class_mismatch(
    names: Sequence[str], others: Sequence[str], whose: str, whose_others: str
) -> str | None:
    """What to say of two lists that do not name the same classes in the same order; None of lists that do.

    Args:
        names: the classes' names.
        others: what should be the same.
        whose: who has `names`, in the plural.
        whose_others: who has `others`, in the plural.

    Example:
        >>> class_mismatch(["auk", "bat"], ["auk"], "the test images", "the training images")
        'the test images have 2 classes, the training images 1: only the test images have bat'
        >>> class_mismatch(["auk", "bat"], ["bat", "auk"], "the test images", "the training images")
        "the test images order their classes differently from the training images: 'auk' is 'bat' there"
    """
    if len(names) == len(others) and not differing_classes(names, others):
        return None
    news = []
    if not (are_numbers(names) or are_numbers(others)):
        alike = _without_numbers if _are_numbered(names) != _are_numbered(others) else list
        for some_names, rest, holder in ((names, others, whose), (others, names, whose_others)):
            known = set(alike(rest))
            only = [n for n, a in zip(some_names, alike(some_names), strict=True) if a not in known]
            news += [f"only {holder} have {some(only)}"] if only else []
    if not news and len(names) == len(others):
        name, other = differing_classes(names, others)[0]
        return f"{whose} order their classes differently from {whose_others}: {name!r} is {other!r} there"
    counts = f"{whose} have {len(names)} classes, {whose_others} {len(others)}"
    return ": ".join([counts, "; ".join(news)]) if news else counts


def require_classes(dataset: "LocalizationDataset", root: str | Path | None) -> None:
    """Refuse to train on a data set of one class, which there is nothing to tell from.

    Args:
        dataset: the training images.
        root: the folder that they were opened in, named in the error.

    Raises:
        ValueError: the data set has fewer than two classes.
    """
    if len(dataset.class_names) < 2:
        raise ValueError(
            f"--root {root} has one class of {len(dataset)} images, {some(dataset.class_names)}; training takes two "
            "or more, of a folder each: ROOT/CLASS/picture.jpg"
        )


def read_class_names(path: str | Path) -> list[str]:
    r"""The names in a text file, a class a line, in the order of the labels.

    Numbers before all of them, counted from 0 or 1 and parted by a space, are left out: CUB-200-2011's `classes.txt`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no UTF-8, or a line is empty or repeats a name; file and line are named.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "classes.txt"
        >>> _ = path.write_text("1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
        >>> read_class_names(path)
        ['001.Black_footed_Albatross', '002.Laysan_Albatross']
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of class names")
    try:
        names = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except ValueError as error:
        raise ValueError(f"{path}: is no UTF-8 text: {error}") from error
    names = _without_counts([name.strip() for name in names])
    lines: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise ValueError(f"{path}:{number}: is empty, there should be a class's name")
        if name in lines:
            raise ValueError(
                f"{path}:{number}: {name!r} stands there again, after line {lines[name]}"
            )
        lines[name] = number
    return names


def _without_counts(lines: list[str]) -> list[str]:
    counted = [line.split(maxsplit=1) for line in lines]
    for first in (0, 1):
        if all(len(c) == 2 and c[0] == str(k) for k, c in enumerate(counted, first)):
            return [name for _, name in counted]
    return lines


def are_numbers(names: Sequence[str]) -> bool:
    """Whether every class is called by its label: `["0", "1", "2"]`."""
    return all(name == str(label) for label, name in enumerate(names))


def without_number(name: str) -> str:
    """A class's name without a number before it: `017.Cardinal` is `Cardinal`."""
    number, dot, rest = name.partition(".")
    return rest if dot and number.isdigit() else name


def _are_numbered(names: Sequence[str]) -> bool:
    return all(without_number(name) != name for name in names)


def _without_numbers(names: Sequence[str]) -> list[str]:
    return [without_number(name) for name in names]
