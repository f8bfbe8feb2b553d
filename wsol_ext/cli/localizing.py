"""The work of `wsol localize`: what its folder lacks is found and drawn, then written, and what came of it is said."""

import sys
import time
import warnings
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsol_ext._boxes_folder import BoxesFolder, is_full
from wsol_ext._files import again_if_removed
from wsol_ext._names import on_terminal
from wsol_ext._paths import Flagged, Paths
from wsol_ext._progress import watch
from wsol_ext.annotations import About
from wsol_ext.cli.boxes_out import REJECTED, Pictures, write_pictures
from wsol_ext.thresholds import stored_threshold

if TYPE_CHECKING:
    from wsol_ext.localize import ImageResult, Threshold
    from wsol_ext.models import LocalizationModel

__all__ = ["finish", "images_in", "localize_into", "names_of", "tell"]


def localize_into(
    folder: BoxesFolder,
    model: "LocalizationModel",
    paths: Paths,
    labels: "array[int] | None",
    threshold: "Threshold",
    device: str,
    options: Any,
) -> None:
    """Do this process's share of what the folder lacks."""
    from wsol_ext.coco import found_in
    from wsol_ext.localize import localize_images
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
        localize_images(
            model,
            paths[of_share],
            threshold=threshold,
            top_k=options.top_k,
            labels=None if labels is None else labels[of_share],
            batch_size=options.batch_size,
            workers=options.workers,
            device=device,
            skip=done,
            objects=options.objects,
            min_score=options.min_score,
            nms=options.nms,
            reject=folder.request["reject"],
            decoding=options.decoding,
        ),
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
            folder.path, overlays.partition(" ")[0], names_of(model), bool(model.parts)
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

    def __init__(self, results: Iterator["ImageResult"], total: int, show: bool) -> None:
        self._results = watch(results, "localizing", total, show)
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


def names_of(model: "LocalizationModel") -> list[str]:
    """A name for each class of a model."""
    return model.class_names or [f"class {k}" for k in range(model.num_classes)]


def finish(
    folder: BoxesFolder, pictures: Pictures, names: Sequence[str], options: Any, said: About
) -> int:
    """Write what was found, if nothing is left that other processes are to find; gives the exit status."""
    if not folder.complete():
        share = f"{len(folder.share)} of {folder.count} images are this process's share, and done"
        print(f"{share}; the last process writes {folder.boxes}")
        return 0  # a launcher ends all processes when one fails
    try:
        counts = write_pictures(folder, pictures, names, options, said)
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
        advice = _other_threshold(folder.request["threshold"], options.checkpoint)
        warnings.warn(
            f"{counts.filling} of {counts.boxes} boxes cover nearly all of their image: {advice}",
            stacklevel=2,
        )
    return tell(folder, counts.images - counts.broken - counts.rejected, counts.rejected)


def _other_threshold(threshold: "Threshold", checkpoint: str) -> str:
    """Where else maps may be cut whose boxes are too large."""
    stored = None
    with suppress(ValueError, OSError):  # damaged, it was said where it was to be used
        stored = stored_threshold(checkpoint)
    if stored is not None and stored.threshold == threshold:
        return (
            f"{threshold:g} is the best threshold on the pictures that `wsol evaluate` had, and these may be others, "
            "or the model may not find its objects"
        )
    others = {"otsu": "a number", "mean": "otsu"}.get(
        str(threshold), f"otsu, or above {threshold},"
    )
    known = "`wsol evaluate` finds the best where boxes are known"
    if stored is not None:
        known = f"best, {stored.threshold:g}, is what `wsol evaluate` stored"
    return f"as --threshold, {others} may fit this model's maps; {known}"


def images_in(dataset: Path) -> int:
    """How many images a `dataset.json` or `rejected.json` of ours has, without reading it into memory."""
    if not dataset.exists():
        return 0
    with open(dataset, encoding="utf-8") as file:
        return sum(line.startswith('      "file_name": ') for line in file)


def tell(folder: BoxesFolder, found: int, rejected: int) -> int:
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
