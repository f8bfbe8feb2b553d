"""A bar over what takes its time, where someone watches."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import length_hint
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

T = TypeVar("T")


@contextmanager
def bar(description: str, total: int, show: bool = True) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if that is a terminal; gives what moves it on by one.

    Args:
        description: what is being done, in front of the bar.
        total: of how many steps.
        show: whether a bar is wanted.
    """
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=not (show and console.is_terminal)
    ) as progress:
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
