"""Many paths in little memory."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import overload

__all__ = ["Flagged", "Paths"]


class Paths(Sequence[Path]):
    """Paths in the bytes of their letters and eight more each; a list of `Path` takes ten times as much.

    Worker processes share them too, whereas of a list's objects each gets a copy as it counts references.

    Args:
        paths: of files.

    Example:
        >>> paths = Paths([Path("photos/1.jpg"), Path("photos/2.jpg")])
        >>> len(paths), paths[-1].name, [path.stem for path in paths[:1]]
        (2, '2.jpg', ['1'])
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        letters, self._ends = bytearray(), array("q", [0])
        for path in paths:
            letters += os.fsencode(path)
            self._ends.append(len(letters))
        self._letters = bytes(letters)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> "Paths": ...

    def __getitem__(self, index: int | slice) -> "Path | Paths":
        place = range(len(self))[index]
        if isinstance(place, range):
            return Paths(self[each] for each in place)
        return Path(os.fsdecode(self._letters[self._ends[place] : self._ends[place + 1]]))


class Flagged(Set[int]):
    """A set of numbers below some number, in a byte for each of those.

    Args:
        flags: for each number from 0 whether it is in the set.

    Example:
        >>> few = Flagged([True, False, True])
        >>> 1 in few, 2 in few, len(few), list(few)
        (False, True, 2, [0, 2])
    """

    def __init__(self, flags: Iterable[bool]) -> None:
        self._flags = bytes(flags)

    def __contains__(self, number: object) -> bool:
        return (
            isinstance(number, int) and 0 <= number < len(self._flags) and self._flags[number] != 0
        )

    def __iter__(self) -> Iterator[int]:
        return (number for number, flag in enumerate(self._flags) if flag)

    def __len__(self) -> int:
        return len(self._flags) - self._flags.count(0)
