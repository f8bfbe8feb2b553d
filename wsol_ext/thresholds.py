"""Where a run's maps are cut: `wsol evaluate` stores the threshold beside the model, and `wsol localize` cuts there."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wsol_ext._files import sha256_of, write_json
from wsol_ext._names import unknown
from wsol_ext._stored import is_number, is_whole, read_stored

if TYPE_CHECKING:
    from wsol_ext.evaluation import Evaluation, ProtocolResult
    from wsol_ext.localize import Threshold
    from wsol_ext.models import LocalizationModel

__all__ = [
    "OF_EACH_MAP",
    "WAYS",
    "StoredThreshold",
    "asked_threshold",
    "best_threshold",
    "choose_threshold",
    "doubt_about",
    "find_evaluation",
    "run_folder",
    "store_threshold",
    "stored_threshold",
    "threshold_of_best_box",
]

OF_EACH_MAP: Mapping[str, str] = {
    "otsu": "what separates each map's pixels best",
    "mean": "the mean of each map",
}
"""Thresholds that are chosen from each map alone, and what they are: `wsol_ext.metrics.MAP_THRESHOLDS`."""
WAYS = ("best", "auto", *OF_EACH_MAP)
"""What may be asked for in place of a number: see `choose_threshold`."""

_NAME = "threshold.json"
_RESULTS = "evaluation.json"
_IOU = 0.5
_AT_IOU = f"IoU {_IOU:g}"
# By protocol, best first, which contours its boxes are of, and its accuracy at that IoU. `wsol localize` draws the
# largest contour's box at one threshold: what maxboxacc counts.
_PROTOCOLS: Mapping[str, tuple[str, str]] = {
    "maxboxacc": ("largest", "maxboxacc"),
    "maxboxaccv2": ("all", _AT_IOU),
}


@dataclass(frozen=True)
class StoredThreshold:
    """The threshold of a model, and what it was chosen by.

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
        source: by what of other pictures than the measured ones it was chosen, as `wsol evaluate --threshold-from` was
            told; "" where it is the best of those that were measured.
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
    source: str = ""

    def __str__(self) -> str:
        """What a sentence says of where it comes from."""
        best = (
            f"the best of {self.images} pictures ({self.data}, {self.split}) by {self.protocol}, "
            f"{100 * self.accuracy:.1f}% right at IoU {self.iou:g}"
        )
        return f"{best}, from {self.source}" if self.source else best

    def outranks(self, other: "StoredThreshold") -> bool:
        """Whether it is to stay where the other one, of the same model, was found: it alone is of other pictures."""
        return bool(self.source) and not other.source and self.checkpoint == other.checkpoint


def run_folder(checkpoint: str | Path) -> Path | None:
    """The folder of the run whose trained model a file is; None where it is no run's, or an earlier stage's.

    A folder that `save_pretrained` wrote counts as one.

    Args:
        checkpoint: a run's folder, or a file.
    """
    path = Path(checkpoint).expanduser()
    folder = path if path.is_dir() else path.parent
    is_model = path.is_dir() or path.name == "model.safetensors"
    described = any((folder / name).is_file() for name in ("config.yaml", "config.json"))
    return folder if is_model and described else None


def find_evaluation(place: str | Path, name: str = "place") -> Path:
    """The file of results that `wsol evaluate` wrote.

    Args:
        place: a run's folder, a folder of results, or the file.
        name: what `place` is called, as messages start.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(place).expanduser()
    for file in (path, path / _RESULTS, path / "evaluation" / _RESULTS):
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"{name} is {place}, which has no {_RESULTS}: `wsol evaluate RUN` writes it, with --threshold best for toploc"
    )


def best_threshold(evaluation: "Evaluation", checkpoint: str | Path) -> StoredThreshold | None:
    """Where a model's maps are to be cut, as an evaluation found it: where its one box is right most often.

    Args:
        evaluation: by `maxboxacc`, or else `maxboxaccv2`, whose boxes at IoU 0.5 are those of all contours; `about`
            says of which `data` and `split`. Thresholds that other pictures chose are those of their evaluation.
        checkpoint: the file of the model that was evaluated.

    Returns:
        None where neither protocol was asked for, or no box was right at any threshold.
    """
    import wsol_ext

    result, others = _choosing(evaluation), evaluation.chosen
    if result is None:
        return None
    contours, share = _PROTOCOLS[result.name]
    by = evaluation if others is None else others.evaluation
    measured = next(each for each in evaluation.protocols if each.name == result.name)
    return StoredThreshold(
        threshold=result.thresholds[by.method][_AT_IOU],
        protocol=result.name,
        iou=_IOU,
        contours=contours,
        interval=measured.settings["interval"],
        accuracy=result.metrics[by.method][share],
        data=by.about.get("data", "unnamed"),
        split=by.about.get("split", "unnamed"),
        images=by.images,
        checkpoint=sha256_of(checkpoint),
        version=wsol_ext.__version__,
        source="" if others is None else others.source,
    )


def doubt_about(threshold: float, interval: float) -> str:
    """What to say, in the end of a sentence, of a best threshold at an edge of all that were tried.

    Example:
        >>> doubt_about(0.3, 0.001)
        ''
        >>> print("threshold 0 is the best" + doubt_about(0.0, 0.001))
        threshold 0 is the best; at 0 boxes are nearly whole pictures: these are too few, or maps that tell little
    """
    if threshold < 2 * interval:
        return f"; at {threshold:g} boxes are nearly whole pictures: these are too few, or maps that tell little"
    if threshold > 1 - 2 * interval:
        return f"; at {threshold:g} boxes are single points: these are too few, or maps that tell little"
    return ""


def threshold_of_best_box(evaluation: "Evaluation") -> float | None:
    """The threshold of `best_threshold`, of whatever was evaluated; None where there is none."""
    result, others = _choosing(evaluation), evaluation.chosen
    by = evaluation if others is None else others.evaluation
    return None if result is None else result.thresholds[by.method][_AT_IOU]


def _choosing(evaluation: "Evaluation") -> "ProtocolResult | None":
    """The result that chooses the threshold, where any box was right: of those of the pictures that choose."""
    others = evaluation.chosen
    by = evaluation if others is None else others.evaluation
    asked = {result.name for result in evaluation.protocols}
    found = {result.name: result for result in by.protocols if result.name in asked}
    for protocol, (_, share) in _PROTOCOLS.items():
        if protocol in found:
            right = found[protocol].metrics[by.method].get(share, 0)
            return found[protocol] if right > 0 else None
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


def asked_threshold(
    asked: float | str, checkpoint: str | Path, name: str = "threshold"
) -> StoredThreshold | None:
    """What is stored for a model, where "auto" or "best" asks for it; whether it is this model's is not looked at.

    Args:
        asked: a number, or one of `WAYS`.
        checkpoint: the run's folder or the model's file.
        name: what `asked` is called, as messages start.

    Raises:
        ValueError: "best" is asked for and nothing is stored, or what is stored is damaged.
    """
    if asked not in ("auto", "best"):
        return None
    stored = stored_threshold(checkpoint)
    if stored is None and asked == "best":
        raise ValueError(
            f"{name} is best, but none is stored for {checkpoint}: `wsol evaluate RUN`, of the folder of its run and "
            "with boxes, stores it"
        )
    return stored


def choose_threshold(
    asked: float | str,
    model: "LocalizationModel",
    checkpoint: str | Path,
    digest: str,
    name: str = "threshold",
) -> tuple["Threshold", str]:
    """Where a model's maps are cut, and why there.

    Args:
        asked: a share of each map's maximum, in [0, 1); "otsu": what separates each map's pixels best; "mean": the mean
            of each map; "best": what `wsol evaluate` stored for the model; "auto": that, else the method's published
            one, else "otsu".
        model: the model.
        checkpoint: the run's folder or the file that it is from.
        digest: the SHA-256 of that file.
        name: what `asked` is called, as messages start.

    Returns:
        the threshold as `localize_images` takes it, and a sentence's end on where it comes from.

    Raises:
        ValueError: another word; or the best is asked for, and none is stored, or that of another model.
    """
    from wsol_ext.localize import default_threshold

    if not isinstance(asked, str):
        return asked, "as given"
    if asked not in WAYS:
        raise ValueError(unknown(name, asked, ["a number in [0, 1)", *WAYS]))
    if asked in OF_EACH_MAP:
        return cast("Threshold", asked), f"{OF_EACH_MAP[asked]}, as given"
    stored = asked_threshold(asked, checkpoint, name)
    if stored is not None and stored.checkpoint == digest:
        return stored.threshold, str(stored)
    if stored is not None:
        other = "was chosen for another model: evaluate this one"
        text = f"the threshold stored for {checkpoint} {other}"
        if asked == "best":
            raise ValueError(f"{name} is best, but {text}")
        warnings.warn(text, stacklevel=2)
    threshold, method = default_threshold(model), model.config["method"]
    why = OF_EACH_MAP.get(str(threshold), f"{method}'s published one")
    return (
        threshold,
        f"{why}; none was measured for this model, `wsol evaluate` does where boxes are known",
    )


_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "threshold": ("a number in [0, 1)", lambda value: is_number(value) and 0 <= value < 1),
    "iou": ("a number in (0, 1]", lambda value: is_number(value) and 0 < value <= 1),
    "interval": ("a number between 0 and 1", lambda value: is_number(value) and 0 < value < 1),
    "accuracy": ("a number in [0, 1]", lambda value: is_number(value) and 0 <= value <= 1),
    "images": ("a whole number of at least 1", is_whole),
    "source": (
        "a line of text or none",
        lambda value: isinstance(value, str) and value.isprintable(),
    ),
}
