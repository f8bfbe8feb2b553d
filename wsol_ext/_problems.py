"""All mistakes of one command, said together: whoever mends them one by one, starts it once for each."""

from collections.abc import Iterator
from contextlib import contextmanager


class Problems:
    """Mistakes found so far.

    Example:
        >>> problems = Problems()
        >>> problems.add("--lr is -1, it should be a positive number")
        >>> with problems.collected():
        ...     raise ValueError("--root is missing")
        >>> problems.raise_any()
        Traceback (most recent call last):
        ValueError: --lr is -1, it should be a positive number
        --root is missing
    """

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        """Note a mistake, once however often it is found."""
        if text not in self._texts:
            self._texts.append(text)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Note what the block raises as ValueError or OSError, and go on behind it."""
        try:
            yield
        except OSError as error:
            known = error.filename is not None
            self.add(f"{error.filename}: {error.strerror}" if known else str(error))
        except ValueError as error:
            self.add(str(error))

    def raise_any(self) -> None:
        """Raise what was noted, if anything was.

        Raises:
            ValueError: the mistakes, one a line.
        """
        if self._texts:
            raise ValueError("\n".join(self._texts))
