"""The work of `wsol localize` and `wsol discover`: what their folder lacks is found and drawn, then written, and what
came of it is said."""

import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wsol_ext._boxes_folder import BoxesFolder, is_full
from wsol_ext._files import again_if_removed
from wsol_ext._names import on_terminal
from wsol_ext._paths import Flagged
from wsol_ext._progress import watch
from wsol_ext.annotations import About
from wsol_ext.cli.boxes_out import (
    REJECTED,
    Pictures,
    StoredPictures,
    write_formats,
    write_pictures,
)

if TYPE_CHECKING:
    from wsol_ext.localize import ImageResult

__all__ = ["Work", "fill"]


class Work(NamedTuple):
    """What fills a folder.

    Attributes:
        names: of the classes.
        results: of the images in a slice of all, but for those done already, by their place in the slice.
        about: what the formats say of its origin.
        beginning: what is said before it.
        advice: what to say where most boxes cover nearly all of their image.
        if_none: likewise, where images have no object; "": nothing.
        has_parts: whether maps are made of others, which are drawn too.
        verb: what the command does, as in "nothing to localize" and "localizing".
    """

    names: Sequence[str]
    results: Callable[[slice, Collection[int]], Iterator["ImageResult"]]
    about: About
    beginning: str
    advice: Callable[[], str]
    if_none: str = ""
    has_parts: bool = False
    verb: tuple[str, str] = ("localize", "localizing")


def fill(folder: BoxesFolder, work: Work, pictures: Pictures, options: Any) -> int:
    """Do what the folder lacks, and write it; gives the exit status."""
    with folder.held(options.overwrite):
        if folder.finished:
            folder.end()
            print(f"{folder.path} is finished: nothing to {work.verb[0]}")
            stored = StoredPictures(folder, pictures.paths)
            write_formats(folder, stored, work.names, options, work.about)
            return _tell(folder, _images_in(folder.dataset), _images_in(folder.path / REJECTED))
        if folder.process == 0:
            print(f"wsol: {work.beginning}", file=sys.stderr)
        _find_into(folder, work, options)
        return _finish(folder, work, pictures, options)


def _find_into(folder: BoxesFolder, work: Work, options: Any) -> None:
    """Do this process's share of what the folder lacks."""
    from wsol_ext.coco import found_in
    from wsol_ext.report.overlays import OverlayFolders, drawn

    share, overlays = folder.share, folder.request["overlays"]
    of_share = slice(share.start, share.stop, share.step)

    def lacks_overlay(index: int) -> bool:
        return _has_overlay(index, overlays, folder.count) and not folder.has_drawn(index)

    for _, found in folder.found(share):
        _say_error(found.get("error"))
    done = Flagged(
        folder.has(index) and (not lacks_overlay(index) or not folder.has_boxes(index))
        for index in share
    )
    began = time.perf_counter()
    results = _Watched(
        work.results(of_share, done),
        work.verb[1],
        len(share) - len(done),
        options.progress,
    )

    def kept() -> Iterator["ImageResult"]:
        """The results whose overlays are to be drawn; of all, what was found is kept by then."""
        for result in results:
            result.index = share[result.index]
            if not folder.has(result.index):  # else it comes for its overlay alone
                _say_error(result.error)
                again_if_removed(partial(folder.keep, result.index, found_in(result)))
            if result.objects and lacks_overlay(result.index):
                yield result

    try:
        folder.begin()
        pictures = OverlayFolders(
            folder.path, overlays.partition(" ")[0], work.names, work.has_parts
        )
        for index, error in drawn(kept(), pictures, options.workers):
            _say_error(error)
            again_if_removed(partial(folder.mark_drawn, index))
    except BaseException as error:
        ready = sum(folder.has(index) for index in share)
        if ready:
            room = "once there is room, " if is_full(error) else ""
            print(
                f"wsol: stopped after {ready} of {len(share)} images; {room}the same command goes on from there",
                file=sys.stderr,
            )
        raise
    results.tell(time.perf_counter() - began, options.workers)


def _has_overlay(index: int, overlays: str, count: int) -> bool:
    """Whether an image of so many is one that gets an overlay; of N images, all N parts of the list have one.

    Example:
        >>> [_has_overlay(k, "jpg 2", 6) for k in range(6)]
        [True, False, False, True, False, False]
    """
    _, _, number = overlays.partition(" ")
    wanted = min(int(number or count), count)
    return bool(overlays) and index * wanted % count < wanted


class _Watched:
    """Results under a bar, counted."""

    def __init__(
        self, results: Iterator["ImageResult"], doing: str, total: int, show: bool
    ) -> None:
        self._results = watch(results, doing, total, show)
        self._images, self._reading = 0, 0.0

    def __iter__(self) -> Iterator["ImageResult"]:
        for result in self._results:
            self._images += 1
            self._reading += result.seconds
            yield result

    def tell(self, seconds: float, workers: int) -> None:
        """Say how fast it went, and whether more workers would help."""
        if self._images:
            share = self._reading / (seconds * max(1, workers))
            whose = "of the time" if workers < 2 else f"of {workers} workers' time"
            print(
                f"{self._images} images in {seconds:.1f} s, {self._images / seconds:.1f} a second; reading them took "
                f"{share:.0%} {whose}"
            )


def _finish(folder: BoxesFolder, work: Work, pictures: Pictures, options: Any) -> int:
    """Write what was found, if nothing is left that other processes are to find; gives the exit status."""
    if not folder.complete():
        share = f"{len(folder.share)} of {folder.count} images are this process's share, and done"
        print(f"{share}; the last process writes {folder.boxes}")
        return 0  # a launcher ends all processes when one fails
    try:
        counts = write_pictures(folder, pictures, work.names, options, work.about)
    except OSError as error:
        room = "make room, then " if is_full(error) else ""
        print(
            f"wsol: all {folder.count} images are done, and what was found is kept; {room}the same command writes the "
            "files, without computing anything again",
            file=sys.stderr,
        )
        raise
    folder.end()
    if 2 * counts.filling > counts.boxes:
        warnings.warn(
            f"{counts.filling} of {counts.boxes} boxes cover nearly all of their image: {work.advice()}",
            stacklevel=2,
        )
    if counts.empty and work.if_none:
        warnings.warn(
            f"{counts.empty} of {folder.count} images have no object: {work.if_none}", stacklevel=2
        )
    return _tell(folder, counts.images - counts.broken - counts.rejected, counts.rejected)


def _images_in(dataset: Path) -> int:
    """How many images a `dataset.json` or `rejected.json` of ours has, without reading it into memory."""
    if not dataset.exists():
        return 0
    with open(dataset, encoding="utf-8") as file:
        return sum(line.startswith('      "file_name": ') for line in file)


def _tell(folder: BoxesFolder, found: int, rejected: int) -> int:
    """Say what there is in the end, of how many images; gives the exit status."""
    print(f"{found} of {folder.count} images: {folder.boxes}")
    if rejected:
        print(f"{rejected} rejected: {folder.path / REJECTED}")
    if found + rejected == folder.count:
        return 0
    _say_error(f"{folder.count - found - rejected} of {folder.count} images could not be read")
    return 1


def _say_error(error: str | None) -> None:
    if error is not None:
        print(f"wsol: error: {on_terminal(error)}", file=sys.stderr)
