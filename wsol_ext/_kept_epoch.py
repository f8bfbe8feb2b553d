"""Which epoch's weights a run has kept, and by which pictures: what every number of its model depends on."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsol_ext._files import write_json
from wsol_ext._stored import is_number, is_whole, read_stored

_NAME = "selection.json"


@dataclass(frozen=True)
class KeptEpoch:
    """The epoch that `wsol train --select SPLIT` kept.

    Attributes:
        epoch: whose weights localize, counted from 1.
        classifying_epoch: whose weights classify: of a method that has such weights apart, their own best.
        epochs: how many were trained.
        split: the split that chose.
        images: how many pictures it has.
        protocol: by which the epochs were measured, `maxboxacc` or `pxap`.
        interval: between its thresholds.
        value: the protocol's number at that epoch, a share in [0, 1].
        boxes: the file that the split's boxes are from, such as pseudo boxes; "" where they are the data set's own.
    """

    epoch: int
    classifying_epoch: int
    epochs: int
    split: str
    images: int
    protocol: str
    interval: float
    value: float
    boxes: str = ""

    def __str__(self) -> str:
        """What a report says of it."""
        apart = self.classifying_epoch != self.epoch
        classifier = f", classifying weights of epoch {self.classifying_epoch}" if apart else ""
        by = f"{self.split}, by {self.boxes}" if self.boxes else self.split
        return (
            f"{self.epoch} of {self.epochs}, the best of {self.images} pictures ({by}) by {self.protocol}, interval "
            f"{self.interval:g}: {self.value:.1%}{classifier}"
        )


def store_kept_epoch(run: Path, kept: KeptEpoch) -> None:
    """Write `selection.json` of a run.

    Raises:
        OSError: it cannot be written.
    """
    write_json(run / _NAME, asdict(kept))


def kept_epoch(run: Path) -> KeptEpoch | None:
    """The epoch that was chosen for a run's model; None where nothing chose and the last one was kept.

    Args:
        run: the folder.

    Raises:
        ValueError: `selection.json` is damaged; the message names it and says what is wrong.
        OSError: it cannot be read.
    """
    path = run / _NAME
    if not path.exists():
        return None
    return KeptEpoch(**read_stored(path, KeptEpoch, _RULES, "wsol train"))


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


_WHOLE = ("a whole number of at least 1", is_whole)
_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "epoch": _WHOLE,
    "classifying_epoch": _WHOLE,
    "epochs": _WHOLE,
    "images": _WHOLE,
    "interval": ("a number between 0 and 1", lambda value: _is_share(value) and 0 < value < 1),
    "value": ("a number in [0, 1]", _is_share),
    "boxes": (
        "a line of text or none",
        lambda value: isinstance(value, str) and value.isprintable(),
    ),
}
