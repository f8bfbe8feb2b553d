"""All that is wrong with a request, said at once: who has several mistakes does not want to hear of them one by one."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from wsol_ext._files import require_writable
from wsol_ext._names import flag_of


class Mistakes(ValueError):
    """One or more mistakes in a request; the message has a line for each.

    Attributes:
        details: all of what errors among them give the first of.
    """

    details: tuple[str, ...] = ()


class Problems:
    """Mistakes, collected. One in an option starts with the option's flag, by which `about` knows it.

    Attributes:
        found: a line for each.
        origins: by flag, the file that gave its value, which is named before a mistake in it.

    Example:
        >>> problems = Problems()
        >>> problems.add("--epochs is 0, it should be at least 1")
        >>> with problems.collected():
        ...     raise ValueError("--root is missing")
        >>> problems.raise_any()
        Traceback (most recent call last):
        wsol_ext._problems.Mistakes: --epochs is 0, it should be at least 1
        --root is missing
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self.origins: dict[str, str] = {}
        self._flags: set[str] = set()
        self._first: Exception | None = None
        self._details: list[str] = []

    def add(self, text: str) -> None:
        """Take in one, unless it is there already."""
        flag = re.match(r"--[\w-]+|[A-Z]+(?=[ :])", text)
        if flag is not None:
            self._flags.add(flag[0])
            if flag[0] in self.origins:
                text = f"{self.origins[flag[0]]}: {text}"
        if text not in self.found:
            self.found.append(text)

    def about(self, *names: str) -> bool:
        """Whether there is a mistake in one of these options."""
        return any({flag_of(name), name.upper()} & self._flags for name in names)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Take in the mistake that ends this block, and go on after it."""
        try:
            yield
        except Mistakes as error:
            self._first = self._first or error
            self._details += error.details
            for line in str(error).splitlines():
                self.add(line)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.filename is not None:
                text = f"{error.filename}: {error.strerror}"
            elif isinstance(error, ValueError | FileNotFoundError | FileExistsError):
                text = " ".join(str(error).split())
            else:  # such as a broken image: no mistake in what was asked
                raise
            self._first = self._first or error
            self._details += getattr(error, "details", ())
            self.add(text)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name the files of `origins` in mistakes that end this block."""
        try:
            yield
        except Mistakes:
            with self.collected():
                raise
            self.raise_any()

    def raise_any(self) -> None:
        """End here, if there is a mistake.

        Raises:
            Mistakes: all of them.
        """
        if self.found:
            mistakes = Mistakes("\n".join(self.found))
            mistakes.details = tuple(self._details)
            raise mistakes from self._first


def check_folder(flag: str, folder: str | os.PathLike[str], problems: Problems) -> None:
    """Collect that a folder cannot be made or written to, by the flag that gives it."""
    try:
        require_writable(folder)
    except OSError as error:
        what = ", which" if error.filename == str(folder) else f": {error.filename}"
        problems.add(f"{flag} is {folder}{what} {error.strerror}")
