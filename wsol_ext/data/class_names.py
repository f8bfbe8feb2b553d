"""Whether two lists name the same classes, though one has numbers before the names, or in their place."""

from collections.abc import Sequence

__all__ = ["are_numbers", "class_list_differences", "differing_classes", "without_number"]


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
    compared = zip(*_alike(names, others), names, others, strict=True)
    return [(name, other) for one, two, name, other in compared if one != two]


def class_list_differences(names: Sequence[str], others: Sequence[str]) -> str:
    """How two lists of classes differ, in words, with three names of each kind; "" where they do not.

    Numbers before names, or in their place, count for nothing, as in `differing_classes`.

    Example:
        >>> class_list_differences(["auk", "bat", "cat"], ["auk", "cow"])
        "3 classes against 2: only the first has 'bat', 'cat'; only the second has 'cow'"
        >>> class_list_differences(["auk", "bat"], ["bat", "auk"])
        "2 of 2 in another order: 'auk' is 'bat', 'bat' is 'auk'"
    """
    same_length = len(names) == len(others)
    differing = differing_classes(names, others) if same_length else []
    if same_length and not differing:
        return ""
    counts = f"{len(names)} classes against {len(others)}"
    if are_numbers(names) or are_numbers(others):
        return counts
    one, two = _alike(names, others)
    kinds = {
        "only the first has": _lacking(names, one, two),
        "only the second has": _lacking(others, two, one),
    }
    found = "; ".join(f"{kind} {_first(each)}" for kind, each in kinds.items() if each)
    if found or not same_length:
        return f"{counts}: {found}" if found else counts
    pairs = [f"{name!r} is {other!r}" for name, other in differing]
    return f"{len(pairs)} of {len(names)} in another order: {_first(pairs)}"


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


def _alike(names: Sequence[str], others: Sequence[str]) -> tuple[list[str], list[str]]:
    """Both lists without the numbers that only one of them has before its names."""
    alike = _without_numbers if _are_numbered(names) != _are_numbered(others) else list
    return alike(names), alike(others)


def _lacking(names: Sequence[str], alike: Sequence[str], others: Sequence[str]) -> list[str]:
    """Of the names, quoted, those that are `alike` none of the others."""
    known = set(others)
    return [repr(name) for name, each in zip(names, alike, strict=True) if each not in known]


def _first(texts: Sequence[str], count: int = 3) -> str:
    more = f" and {len(texts) - count} more" if len(texts) > count else ""
    return ", ".join(texts[:count]) + more
