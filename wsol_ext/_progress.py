"""A bar over what takes its time, where someone watches; in a log, a line now and then."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from operator import length_hint
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

T = TypeVar("T")

_SECONDS_APART, _SHARE_APART = 30, 0.1


class LogLines:
    """Lines that say how far a thing is: each a tenth of it, and half a minute, after the one before at least.

    Args:
        description: what is being done, in front of each line.
        total: of how many steps; 0: nobody knows.
        console: where to print.
        clock: gives seconds.
    """

    def __init__(
        self,
        description: str,
        total: int,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.description = description
        self.total = total
        self.console = console
        self._clock = clock
        self._done = self._said = 0
        self._started = self._said_at = clock()

    def advance(self) -> None:
        """Count a step, and print a line where one is due."""
        self._done += 1
        now = self._clock()
        if (
            self._done == self.total  # what follows says so
            or now - self._said_at < _SECONDS_APART
            or self._done - self._said < _SHARE_APART * self.total
        ):
            return
        self._said, self._said_at = self._done, now
        self.console.out(f"{self.description}: {self._text(now - self._started)}", highlight=False)

    def _text(self, passed: float) -> str:
        if not self.total:
            return f"{self._done} done"
        left = timedelta(seconds=round(passed / self._done * (self.total - self._done)))
        return f"{self._done} of {self.total} ({self._done / self.total:.0%}), about {left} left"


@contextmanager
def bar(
    description: str,
    total: int,
    show: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[], None]]:
    """A bar on standard error, or `LogLines` if that is no terminal; gives what moves it on by one.

    Args:
        description: what is being done, in front of the bar.
        total: of how many steps.
        show: whether a bar is wanted.
        clock: of the lines, gives seconds.
    """
    console = Console(stderr=True, quiet=not show)
    if not console.is_terminal:
        yield LogLines(description, total, console, clock).advance
        return
    with Progress(console=console, transient=True, disable=not show) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)


def watch(
    things: Iterable[T], description: str, total: int | None = None, show: bool = True
) -> Iterator[T]:
    """The things, one after the other, under a `bar`.

    Args:
        things: what is gone through.
        description: what is being done.
        total: how many things there are; None: their length.
        show: whether a bar is wanted.

    Example:
        >>> list(watch("abc", "spelling"))
        ['a', 'b', 'c']
    """
    with bar(description, length_hint(things) if total is None else total, show) as advance:
        for thing in things:
            yield thing
            advance()
