"""Overlay pictures of what was found, drawn by processes of their own."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from wsol_ext._files import (
    again_if_removed,
    atomic_path,
    make_results_folder,
    mark_results_folder,
)
from wsol_ext.data.images import ImageError, read_image
from wsol_ext.localize import ImageResult
from wsol_ext.report import drawing

__all__ = ["OverlayFolders", "drawn"]

_SMALLEST, _LARGEST = 400, 1024  # of the longest side, in pixels


@dataclass(frozen=True)
class OverlayFolders:
    """Where overlays go, `overlays`, and of a method that has parts the pictures of those, `parts`.

    Args:
        out: the folder of these folders.
        suffix: of the pictures; "": there are none.
        class_names: the model's classes.
        has_parts: whether its maps are made of others.

    Raises:
        OSError: the folders cannot be made.
    """

    out: Path
    suffix: str
    class_names: Sequence[str]
    has_parts: bool = False

    def __post_init__(self) -> None:
        for kind in ("overlays", "parts") if self.has_parts else ("overlays",):
            if self.suffix:
                make_results_folder(self.out / kind)

    def save(self, picture: Any, kind: str, name: str) -> None:
        """Save a picture in a folder of the kind, whole or not at all."""
        with atomic_path(mark_results_folder(self.out / kind) / name) as temporary:
            picture.save(temporary, quality=90)


class _Task(NamedTuple):
    """What is to be drawn of an image; arrays in place of tensors, which would go through shared memory."""

    place: int
    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    texts: list[str]
    score_map: np.ndarray
    parts: dict[str, np.ndarray]
    segments: np.ndarray | None


def drawn(
    results: Iterator[ImageResult], folders: OverlayFolders, workers: int
) -> Iterator[tuple[int, str | None]]:
    """Draw the overlays of results, as they come, and give the place of each that is drawn, in their order.

    Pictures are read again: to hand over what was read would take longer in the process that runs the model.

    Args:
        results: of image files, without those that have an error. They are taken when there is room for more: a few for
            each worker are under way.
        folders: where to.
        workers: processes that draw; 0: this one.

    Returns:
        an iterator over the place of each, and None, or why the picture could not be read a second time.

    Raises:
        OSError: from the iterator: a picture cannot be written.
    """
    loader = DataLoader(
        _Drawing(folders),
        batch_size=None,
        collate_fn=tuple,
        sampler=_Tasks(results, folders.class_names),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    for index, error in loader:
        if isinstance(error, OSError):  # a loader would raise another one, without the file's name
            raise error
        yield index, error


@dataclass(frozen=True)
class _Tasks:
    """What a loader hands to its workers in place of numbers, when they have room for it."""

    results: Iterator[ImageResult]
    class_names: Sequence[str]

    def __iter__(self) -> Iterator[_Task]:
        for result in self.results:
            assert result.path is not None
            yield _Task(
                result.index,
                result.path,
                result.size,
                torch.stack([one.box for one in result.objects]).numpy(),
                [f"{self.class_names[one.category]} {one.score:.0%}" for one in result.objects],
                result.objects[0].score_map.numpy(),
                {name: part.numpy() for name, part in result.parts.items()},
                None if result.segments is None else result.segments.numpy(),
            )


@dataclass(frozen=True)
class _Drawing(Dataset[tuple[int, Any]]):
    """What workers do: a "sample" is a picture drawn."""

    folders: OverlayFolders

    def __getitem__(self, task: Any) -> tuple[int, Any]:
        try:
            again_if_removed(lambda: _draw(task, self.folders))
        except ImageError as error:
            return task.place, f"no overlay is drawn: {error}"
        except OSError as error:
            return task.place, error
        return task.place, None


def _draw(task: _Task, folders: OverlayFolders) -> None:
    image = read_image(task.path, upright=True, at_least=_LARGEST)
    image = drawing.fit(image, smallest=_SMALLEST, largest=_LARGEST)
    score_map, boxes = torch.from_numpy(task.score_map), torch.from_numpy(task.boxes)
    overlay = drawing.overlay(image, score_map)
    overlay = drawing.draw_boxes(overlay, boxes, drawing.RED, task.size)
    overlay = drawing.caption(overlay, task.texts, boxes, task.size)
    name = f"{_picture_name(task.place + 1, task.path)}.{folders.suffix}"
    folders.save(overlay, "overlays", name)
    if task.parts:
        parts = {part: torch.from_numpy(values) for part, values in task.parts.items()}
        segments = None if task.segments is None else torch.from_numpy(task.segments)
        sheet = drawing.parts_sheet(image, parts, segments, score_map, overlay)
        folders.save(sheet, "parts", name)


def _picture_name(number: int, path: Path) -> str:
    """A name that sorts in the images' order, no longer than file systems and temporary names allow."""
    stem = os.fsencode(path.stem)[:150].decode("utf-8", errors="ignore")
    return f"{number:06d}_{stem}"
