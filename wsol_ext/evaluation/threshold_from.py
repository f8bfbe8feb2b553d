"""Thresholds that are chosen on other pictures than those that are measured, and used there unchanged."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from wsol_ext._names import Spellings, in_short, printable, some
from wsol_ext._stored import is_number, is_text, is_whole
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.data.box_tables import read_box_table
from wsol_ext.data.tables import AnnotationError
from wsol_ext.evaluation.results import CENTER, Evaluation, ProtocolResult
from wsol_ext.metrics import PROTOCOLS
from wsol_ext.thresholds import find_evaluation

__all__ = [
    "ChosenThresholds",
    "OtherPictures",
    "ThresholdsFrom",
    "boxes_by_image",
    "chosen_by",
    "names_of_others",
    "read_evaluation",
    "shown_threshold",
    "with_boxes_of",
]


@dataclass(frozen=True)
class ChosenThresholds:
    """What an evaluation of other pictures found to be best.

    Attributes:
        evaluation: of those pictures.
        source: by what of them it chose, as reports say it: "the boxes of val".
    """

    evaluation: Evaluation
    source: str

    def __str__(self) -> str:
        """What a report says."""
        about = self.evaluation.about
        which = ", ".join(str(about[name]) for name in ("data", "split") if name in about)
        return f"{self.source} ({', '.join(filter(None, [f'{self.evaluation.images} pictures', which]))})"

    def of(self, protocol: str, method: str, source: str, interval: float) -> dict[str, float]:
        """The thresholds of a source of maps, by what is reached at each; none of a protocol that cuts no maps.

        Args:
            protocol: its name.
            method: the method that is measured, to which the one that chose corresponds.
            source: the method, a part of it or the baseline. A part that the other evaluation lacks takes its method's.
            interval: between the thresholds that are tried, where the protocol has an interval.

        Raises:
            ValueError: the other evaluation chose none by this protocol, or at another interval.
        """
        if not PROTOCOLS[protocol].best_by:
            return {}
        other = self.evaluation.method
        found = {result.name: result for result in self.evaluation.protocols}.get(protocol)
        if found is None or other not in found.thresholds:
            why = "was not measured" if found is None else "had a threshold that was given"
            raise ValueError(
                f"threshold_from is {self.source}, where {protocol} {why}: there is nothing to take from it"
            )
        there = found.settings.get("interval", interval)
        if there != interval:
            raise ValueError(
                f"threshold_from is {self.source}, where the interval of {protocol} is {there:g}: it should be "
                f"{interval:g}, as here"
            )
        wanted = CENTER if source == CENTER else other + source.removeprefix(method)
        return found.thresholds.get(wanted) or found.thresholds[other]


@dataclass(frozen=True)
class OtherPictures:
    """Pictures whose boxes are to choose thresholds.

    Attributes:
        dataset: the pictures with their boxes.
        source: what reports call the boxes: "the boxes of val".
        about: the names of `data` and `split`.
    """

    dataset: LocalizationDataset
    source: str = "other pictures"
    about: Mapping[str, str] = field(default_factory=dict)


ThresholdsFrom: TypeAlias = (
    ChosenThresholds | Evaluation | OtherPictures | LocalizationDataset | str | Path
)
"""Where thresholds come from: an evaluation of other pictures, those pictures, or the place of stored results."""


def names_of_others(source: ThresholdsFrom | None) -> list[str]:
    """The names of the pictures that are to choose thresholds, if pictures are."""
    dataset = source.dataset if isinstance(source, OtherPictures) else source
    return dataset.image_names if isinstance(dataset, LocalizationDataset) else []


def chosen_by(
    source: ThresholdsFrom | None,
    protocols: Sequence[str],
    evaluate: Callable[[LocalizationDataset, list[str]], Evaluation],
) -> ChosenThresholds | None:
    """The thresholds of an evaluation, of the file that one became, or of one of other pictures that is to be made.

    Args:
        source: where thresholds come from; None: from nowhere else.
        protocols: that the thresholds are for.
        evaluate: evaluates other pictures, at the best of all thresholds, by some of the protocols.

    Returns:
        None where there is no source, or nothing for it to choose.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    if source is None or isinstance(source, ChosenThresholds):
        return source
    if isinstance(source, LocalizationDataset):
        source = OtherPictures(source)
    if isinstance(source, OtherPictures):
        names = [name for name in protocols if PROTOCOLS[name].best_by]
        if not names:
            return None
        evaluation = evaluate(source.dataset, names)
        evaluation.about = {**source.about}
        return ChosenThresholds(evaluation, source.source)
    if isinstance(source, Evaluation):
        return ChosenThresholds(source, "an evaluation of others")
    path = find_evaluation(source, "threshold_from")
    return ChosenThresholds(read_evaluation(path), f"the results in {in_short(path.parent)}")


def shown_threshold(threshold: float | str, chosen: ChosenThresholds | None) -> float:
    """Where the maps of a report's examples are cut: as `toploc` cuts them, or where that is not known yet, at 0.1."""
    if chosen is not None:
        by_protocol = {result.name: result for result in chosen.evaluation.protocols}
        found = by_protocol["toploc"].thresholds if "toploc" in by_protocol else {}
        return found.get(chosen.evaluation.method, {}).get("threshold", 0.1)
    return 0.1 if isinstance(threshold, str) else threshold


def read_evaluation(path: str | Path) -> Evaluation:
    """An `evaluation.json` as the evaluation that it is of: without curves, examples and numbers by class.

    Raises:
        ValueError: it is damaged, or of a version that stored no thresholds; the message names the file.
        OSError: it cannot be read.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        method, images = found.pop("method"), found.pop("images")
        named = {name: found[name] for name in ("data", "split") if name in found}
        if not is_whole(images) or not all(map(is_text, (method, *named.values()))):
            raise ValueError(f"method is {method!r}, images {images!r}, data and split {named}")
        protocols = [_result(each, method) for each in found.pop("protocols")]
        by_object = [_row(row) for row in found.pop("by object", [])]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{printable(path)} is damaged: {error!r}; write it anew by wsol evaluate"
        ) from error
    about = {name: value for name, value in found.items() if isinstance(value, str | int | float)}
    return Evaluation(method, images, protocols, about, by_object=by_object)


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the numbers by object."""
    for name, value in found.items():
        if not (isinstance(value, str) if name == "kind" else is_number(value)):
            raise ValueError(f"by object, {name} is {value!r}")
    return {"kind": found["kind"], "images": found["images"], **found}


def _result(found: Mapping[str, Any], method: str) -> ProtocolResult:
    """A protocol's part of the file."""
    metrics = {source: dict(numbers) for source, numbers in found["metrics"].items()}
    thresholds = {source: dict(each) for source, each in found.get("thresholds", {}).items()}
    for name, value in metrics[method].items():
        if not is_number(value):
            raise ValueError(f"{name} is {value!r}, it should be a number")
    settings = dict(found["settings"])
    # The baseline has its best where the method's were given, or it has none: boxes of elsewhere.
    given = settings.get("chosen") == "beforehand" or not thresholds.keys() - {CENTER}
    if method not in thresholds and not given:
        raise ValueError(f"{method} has no thresholds")
    for each in thresholds.values():
        for value in each.values():
            if not is_number(value) or not 0 <= value < 1:
                raise ValueError(f"a threshold is {value!r}, it should be in [0, 1)")
    if not is_number(settings.get("interval", 0.5)):
        raise ValueError(f"interval is {settings['interval']!r}, it should be a number")
    oracle = {source: dict(numbers) for source, numbers in found.get("oracle", {}).items()}
    intervals = {
        source: {name: _interval(each) for name, each in numbers.items()}
        for source, numbers in found.get("intervals", {}).items()
    }
    return ProtocolResult(
        found["protocol"],
        settings,
        metrics,
        thresholds=thresholds,
        oracle=oracle,
        intervals=intervals,
    )


def _interval(found: Any) -> tuple[float, float]:
    low, high = found
    if not is_number(low) or not is_number(high):
        raise ValueError(f"an interval is {found!r}, it should be two numbers")
    return low, high


def with_boxes_of(dataset: LocalizationDataset, path: str | Path) -> LocalizationDataset:
    """The pictures that a file has boxes of, true or found, with those boxes; the others are left out, with a warning.

    Args:
        dataset: all pictures, whose `image_names` the file has.
        path: as `wsol_ext.data.box_tables.read_box_table` takes it.

    Raises:
        FileNotFoundError: no such file.
        AnnotationError: the file is malformed, or has a box of none of the pictures.
    """
    table = boxes_by_image(path, dataset.image_names)
    boxed = [name for name in dataset.image_names if len(table.get(name, ()))]
    if not boxed:
        named = f", it names {some(list(table))}" if table else ""
        raise AnnotationError(
            f"{printable(path)}: has no box for any of {len(dataset)} images, such as {dataset.image_names[0]}{named}"
        )
    left = len(dataset) - len(boxed)
    if left:
        warnings.warn(
            f"{printable(path)}: has no box for {left} of {len(dataset)} images, left out",
            stacklevel=2,
        )
    return dataset.with_boxes(table)


def boxes_by_image(path: str | Path, image_names: Sequence[str]) -> dict[str, Tensor]:
    """The boxes (N, 4) of each image that a file names, float64; none of one in which nothing was found.

    Args:
        path: the file.
        image_names: by which images go that it may name otherwise, as `Spellings` has them; others stand as they are.

    Raises:
        FileNotFoundError, AnnotationError: as `read_box_table`.
    """
    known = Spellings(image_names)
    table: dict[str, list[tuple[float, ...]]] = {}
    for row in read_box_table(path):
        table.setdefault(known.find(row.image) or row.image, []).extend(
            [] if row.box is None else [row.box]
        )
    return {
        name: torch.tensor(boxes, dtype=torch.float64).view(-1, 4) for name, boxes in table.items()
    }
