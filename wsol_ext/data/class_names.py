"""Whether two lists name the same classes, though one has numbers before the names, or in their place."""

from collections.abc import Sequence


def differing_classes(names: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """The classes, of two lists of one length, that the other list calls otherwise, with their names there.

    `017.Cardinal` and `Cardinal` are one name: the folders of CUB-200-2011 have the class's number before it. A list
    of mere numbers, as data sets give that know labels alone, names nothing and so contradicts nothing.

    Example:
        >>> differing_classes(["001.Auk", "002.Bat"], ["Auk", "Cat"])
        [('002.Bat', 'Cat')]
        >>> differing_classes(["auk", "bat"], ["0", "1"])
        []
    """
    if are_numbers(names) or are_numbers(others):
        return []
    return [
        (name, other)
        for name, other in zip(names, others, strict=True)
        if without_number(name) != without_number(other)
    ]


def are_numbers(names: Sequence[str]) -> bool:
    """Whether every class is called by its label: `["0", "1", "2"]`."""
    return all(name == str(label) for label, name in enumerate(names))


def without_number(name: str) -> str:
    """A class's name without a number before it: `017.Cardinal` is `Cardinal`."""
    number, dot, rest = name.partition(".")
    return rest if dot and number.isdigit() else name
