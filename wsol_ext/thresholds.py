"""The best threshold of a run: `wsol evaluate` stores it beside the model, and `wsol localize` cuts there."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsol_ext._files import sha256_of, write_json
from wsol_ext._stored import is_number, is_whole, read_stored

if TYPE_CHECKING:
    from wsol_ext.evaluation import Evaluation

__all__ = ["StoredThreshold", "best_threshold", "run_folder", "store_threshold", "stored_threshold"]

_NAME = "threshold.json"
_IOU = 0.5
# By protocol, best first, which contours its boxes are of, and its accuracy at that IoU. `wsol localize` draws the
# largest contour's box at one threshold: what maxboxacc counts.
_PROTOCOLS: Mapping[str, tuple[str, str]] = {
    "maxboxacc": ("largest", "maxboxacc"),
    "maxboxaccv2": ("all", f"IoU {_IOU:g}"),
}


@dataclass(frozen=True)
class StoredThreshold:
    """The best threshold of a model, and what it was chosen by.

    Attributes:
        threshold: a share of each map's maximum, in [0, 1).
        protocol: whose best it is, `maxboxacc` or `maxboxaccv2`.
        iou: from which IoU on a box was right.
        contours: whose boxes counted, the "largest" contour's or those of "all".
        interval: between the thresholds that were tried.
        accuracy: the share of pictures that were right there.
        data: the data set.
        split: the split of it.
        images: how many pictures it was chosen on.
        checkpoint: the SHA-256 of the model's file.
        version: that of `wsol_ext`.
    """

    threshold: float
    protocol: str
    iou: float
    contours: str
    interval: float
    accuracy: float
    data: str
    split: str
    images: int
    checkpoint: str
    version: str

    def __str__(self) -> str:
        """What a sentence says of where it comes from."""
        return (
            f"the best of {self.images} pictures ({self.data}, {self.split}) by {self.protocol}, "
            f"{100 * self.accuracy:.1f}% right at IoU {self.iou:g}"
        )


def run_folder(checkpoint: str | Path) -> Path | None:
    """The folder of the run whose trained model a file is; None where it is no run's, or an earlier stage's.

    Args:
        checkpoint: a run's folder, or a file.
    """
    path = Path(checkpoint).expanduser()
    folder = path if path.is_dir() else path.parent
    is_model = path.is_dir() or path.name == "model.safetensors"
    return folder if is_model and (folder / "config.yaml").is_file() else None


def best_threshold(evaluation: "Evaluation", checkpoint: str | Path) -> StoredThreshold | None:
    """The threshold at which a model's one box is right most often, as an evaluation found it.

    Args:
        evaluation: by `maxboxacc`, or else `maxboxaccv2`, whose boxes at IoU 0.5 are those of all contours; `about`
            says of which `data` and `split`.
        checkpoint: the file of the model that was evaluated.

    Returns:
        None where neither protocol was asked for, or no box was right at any threshold.
    """
    import wsol_ext

    found = {result.name: result for result in evaluation.protocols}
    for protocol, (contours, share) in _PROTOCOLS.items():
        if protocol not in found:
            continue
        metrics = found[protocol].metrics[evaluation.method]
        if metrics[share] == 0:
            return None
        return StoredThreshold(
            threshold=metrics[f"best threshold, IoU {_IOU:g}"],
            protocol=protocol,
            iou=_IOU,
            contours=contours,
            interval=found[protocol].settings["interval"],
            accuracy=metrics[share],
            data=evaluation.about["data"],
            split=evaluation.about["split"],
            images=evaluation.images,
            checkpoint=sha256_of(checkpoint),
            version=wsol_ext.__version__,
        )
    return None


def store_threshold(run: str | Path, threshold: StoredThreshold) -> Path:
    """Write `threshold.json` of a run, whole or not at all, in place of an earlier one.

    Returns:
        the file.

    Raises:
        OSError: it cannot be written; the message names it.
    """
    path = Path(run) / _NAME
    write_json(path, asdict(threshold))
    return path


def stored_threshold(run: str | Path) -> StoredThreshold | None:
    """The threshold that `wsol evaluate` stored for a run.

    Args:
        run: its folder, or its `model.safetensors`.

    Returns:
        None where there is none: the run was not evaluated with boxes, or the file is no run's model.

    Raises:
        ValueError: `threshold.json` is damaged; the message names it and says what is wrong.
        OSError: it cannot be read.

    Example:
        >>> import tempfile
        >>> stored_threshold(tempfile.mkdtemp()) is None
        True
    """
    folder = run_folder(run)
    if folder is None or not (folder / _NAME).exists():
        return None
    by = "wsol evaluate"
    return StoredThreshold(**read_stored(folder / _NAME, StoredThreshold, _RULES, by))


_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "threshold": ("a number in [0, 1)", lambda value: is_number(value) and 0 <= value < 1),
    "iou": ("a number in (0, 1]", lambda value: is_number(value) and 0 < value <= 1),
    "interval": ("a number between 0 and 1", lambda value: is_number(value) and 0 < value < 1),
    "accuracy": ("a number in [0, 1]", lambda value: is_number(value) and 0 <= value <= 1),
    "images": ("a whole number of at least 1", is_whole),
}
