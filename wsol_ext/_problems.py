"""All that is wrong with a request, said at once: who has several mistakes does not want to hear of them one by one."""

from collections.abc import Iterator
from contextlib import contextmanager


class Mistakes(ValueError):
    """One or more mistakes in a request; the message has a line for each."""


class Problems:
    """Mistakes, collected.

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
        self._first: Exception | None = None

    def add(self, text: str) -> None:
        """Take in one, unless it is there already."""
        if text not in self.found:
            self.found.append(text)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Take in the mistake that ends this block, and go on after it."""
        try:
            yield
        except Mistakes as error:
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
            self.add(text)

    def raise_any(self) -> None:
        """End here, if there is a mistake.

        Raises:
            Mistakes: all of them.
        """
        if self.found:
            raise Mistakes("\n".join(self.found)) from self._first
