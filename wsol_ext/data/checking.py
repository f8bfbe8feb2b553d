"""Reading a data set through, and naming everything in it that is missing, broken or makes no sense."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from wsol_ext import _progress
from wsol_ext._names import printable
from wsol_ext.data.base import LocalizationDataset, have_same_proportions
from wsol_ext.data.images import (
    ImageError,
    PictureFile,
    format_by_content,
    formats_of_suffix,
    read_grey,
    read_image,
)
from wsol_ext.data.tables import AnnotationError, Box, Mistake, mistakes_noted

__all__ = ["Finding", "Kind", "SplitReport", "check_dataset"]

Kind: TypeAlias = Literal["list", "missing", "broken", "misnamed", "size", "box", "mask"]
"""What a finding is about: a line of the annotations; a picture that is not there, cannot be read, or has the name of
another format; one of another size than the annotations say; a box; a mask."""

_AT_ONCE = 256


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a data set.

    Attributes:
        kind: what it is about.
        message: a sentence that names the file, or the image.
        image: the image's name in the data set; None of a line of the annotations, which the message names.
    """

    kind: Kind
    message: str
    image: str | None = None


@dataclass
class SplitReport:
    """What there is in a split of a data set, and what is wrong with it.

    Attributes:
        split: its name.
        images: how many there are, without those that the annotations name in mistaken lines.
        classes: likewise.
        boxes: likewise.
        masks: how many files of masks there are.
        findings: all that is wrong, what the annotations say first, then in the order of the images.
    """

    split: str
    images: int = 0
    classes: int = 0
    boxes: int = 0
    masks: int = 0
    findings: list[Finding] = field(default_factory=list)

    def counts(self) -> dict[Kind, int]:
        """How many findings there are of each kind."""
        return dict(Counter(finding.kind for finding in self.findings))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "counts": self.counts()}


def check_dataset(
    opens: Callable[[], LocalizationDataset],
    split: str,
    workers: int = 0,
    progress: bool = True,
) -> SplitReport:
    """Read a split of a data set through: every line of its annotations, every picture to its last byte, every mask.

    Args:
        opens: opens it.
        split: what the report calls it.
        workers: threads that read; 0: this one.
        progress: whether to show a bar, or lines in a log.

    Returns:
        The report. Annotations that cannot be read at all are a finding too.

    Raises:
        FileNotFoundError: there are no annotations of the split.
        ValueError: what `opens` raises otherwise, such as for an option that makes no sense.

    Example:
        >>> from wsol_ext.data import SyntheticDataset
        >>> report = check_dataset(lambda: SyntheticDataset(length=3), "train")
        >>> report.images, report.boxes, report.findings
        (3, 3, [])
    """
    report, dataset = SplitReport(split), None
    with mistakes_noted() as mistakes:
        try:
            dataset = opens()
        except AnnotationError as error:  # after which nothing can be read
            mistakes.append(Mistake("list", str(error)))
    report.findings += [Finding(mistake.kind, mistake.message) for mistake in mistakes]
    if dataset is None:
        return report
    report.images, report.classes = len(dataset), len(dataset.class_names)
    pool = ThreadPoolExecutor(workers) if workers else None
    with (
        pool or nullcontext(),
        _progress.bar(f"reading {split}", len(dataset), progress) as advance,
    ):
        look = _Looker(dataset)
        for start in range(0, len(dataset), _AT_ONCE):
            # An interruption waits for no more than these.
            indices = range(start, min(start + _AT_ONCE, len(dataset)))
            for found in (pool.map if pool else map)(look, indices):
                report.findings += found
                advance()
    for index in range(len(dataset)):
        report.boxes += len(dataset.boxes_as_given(index))
        report.masks += len(dataset.mask_paths(index))
    return report


class _Looker:
    """What is wrong with one picture of a data set and all that belongs to it."""

    def __init__(self, dataset: LocalizationDataset) -> None:
        self.dataset = dataset
        self._stems: dict[Path, dict[str, list[str]]] = {}

    def __call__(self, index: int) -> list[Finding]:
        name = self.dataset.image_names[index]
        return [
            Finding(kind, message, name)
            for look in (self._picture, self._boxes, self._masks)
            for kind, message in look(index, name)
        ]

    def _picture(self, index: int, name: str) -> Iterator[tuple[Kind, str]]:
        file = self.dataset.image_file(index)
        if file is None:
            return
        if message := self._missing(file):
            yield "missing", message
            return
        if message := _misnamed(file):
            yield "misnamed", message
        try:
            size = read_image(file, self.dataset.upright).size
        except ImageError as error:
            yield "broken", str(error)
            return
        declared = self.dataset.declared_size(index)
        if declared is None or declared == size:
            return
        # Boxes may be those of a larger original, where the data set scales them.
        scaled = self.dataset.picture_size(index) == declared
        if not scaled or not have_same_proportions(declared, size):
            yield (
                "size",
                f"{name}: is {size[0]} x {size[1]} pixels, the annotations say {declared[0]} x {declared[1]}",
            )

    def _missing(self, file: PictureFile) -> str | None:
        """What to say of a picture that is not there, or only by another spelling of its name."""
        if not isinstance(file, str | Path) or os.path.exists(file):
            return None
        path = Path(file)
        folder = path.parent
        if folder not in self._stems:
            stems: dict[str, list[str]] = {}
            for other in sorted(os.listdir(folder)) if folder.is_dir() else ():
                stems.setdefault(Path(other).stem.lower(), []).append(other)
            self._stems[folder] = stems
        alike = self._stems[folder].get(path.stem.lower())
        hint = f"; there is {', '.join(map(printable, alike))}" if alike else ""
        return f"{printable(path)}: no such image file{hint}"

    def _boxes(self, index: int, name: str) -> Iterator[tuple[Kind, str]]:
        boxes = self.dataset.boxes_as_given(index)
        if not boxes:
            return
        try:
            width, height = self.dataset.picture_size(index)
        except ImageError:  # which is told already
            return
        for box in boxes:
            if fault := _fault(box, width, height):
                numbers = ", ".join(f"{v:g}" for v in box)
                yield "box", f"{name}: the box x0, y0, x1, y1 = {numbers} {fault}"

    def _masks(self, index: int, name: str) -> Iterator[tuple[Kind, str]]:
        paths = self.dataset.mask_paths(index)
        if not paths:
            return
        try:
            mask = self.dataset.load_mask(index)
        except ImageError:  # the first of them
            for path in paths:
                try:
                    read_grey(path)
                except ImageError as error:
                    yield "mask", str(error)
            return
        if not (mask == 1).any():
            yield "mask", f"{name}: its mask has no pixel of an object"


def _misnamed(file: PictureFile) -> str | None:
    """What to say of a picture whose name is that of another format."""
    path = file.name if not isinstance(file, str | Path) else file
    by_content, suffix = format_by_content(file), os.path.splitext(path)[1]
    if by_content is None or not suffix or by_content in formats_of_suffix(suffix):
        return None
    return f"{printable(path)}: is {by_content} by its content"


def _fault(box: Box, width: int, height: int) -> str | None:
    """What is wrong with a box in a picture of that size; up to a pixel beyond is a habit of annotators."""
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return "has no area"
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        return f"lies outside of the image, which is {width} x {height} pixels"
    if min(x0, y0) < -1 or x1 > width + 1 or y1 > height + 1:
        return f"reaches beyond the image, which is {width} x {height} pixels"
    return None
