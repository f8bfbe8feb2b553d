"""Whether two lists name the same classes, though one has numbers before the names, or in their place."""

from collections.abc import Sequence


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
