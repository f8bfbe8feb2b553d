"""An evaluation's numbers by kinds of images: sizes and shapes of objects, and classes.

Sizes and shapes have fixed edges, so that tables of different models and data compare:

| | |
| --- | --- |
| size: the true box's share of the picture | small below 0.2, medium below 0.5, else large |
| shape: its width / height | tall below 2 / 3, square below 3 / 2, else wide |

Of several true boxes it is the one that the predicted box fits best. Thresholds are those of the whole evaluation: a
kind has none of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsol_ext.evaluation.results import Evaluation, ProtocolResult
from wsol_ext.evaluation.statistics import (
    Places,
    places_of,
    protocol_of,
    weighted_numbers,
    weighted_sums,
)
from wsol_ext.evaluation.verdicts import read_parts
from wsol_ext.metrics import PROTOCOLS

__all__ = ["SHAPES", "SIZES", "by_class", "by_object", "read_columns", "shown_columns"]

SIZES: Mapping[str, float] = {"small": 0.2, "medium": 0.5, "large": np.inf}
"""By the name of a size below which share of the picture it is."""
SHAPES: Mapping[str, float] = {"tall": 2 / 3, "square": 3 / 2, "wide": np.inf}
"""By the name of a shape below which width / height it is."""

_Row = dict[str, Any]


def shown_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns where there is room for few: of each protocol the number that its threshold is chosen by."""
    chosen = [kind.title(number) for kind in PROTOCOLS.values() for number in kind.best_by[:1]]
    shown = ("kind", "images", *chosen, "mean IoU", "taken for")
    return [name for name in shown if rows and name in rows[0]]


def read_columns(folder: Path, names: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """Columns of the images in a folder of verdicts, `index` and `image` too, in the order of the data set.

    None where a part lacks one.

    Raises:
        ValueError: a part is damaged.
    """
    parts = [
        {"index": part.index, "image": part.image, **part.columns}
        for part in read_parts(folder, ())
    ]
    if not parts or any(name not in part for part in parts for name in names):
        return None
    order = np.argsort(np.concatenate([part["index"] for part in parts]))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in names}


def by_object(evaluation: Evaluation, folder: Path) -> list[_Row]:
    """The method's main numbers by size and by shape of the objects, a row each; none where boxes were not kept.

    Args:
        evaluation: what the verdicts are of.
        folder: the verdicts, with the columns `truth` and `size`.

    Returns:
        rows of `kind`, `images` and a number by each protocol's title for it.

    Raises:
        ValueError: a part is damaged.
    """
    columns = read_columns(folder, ("truth", "size"))
    if columns is None:
        return []
    width, height = np.maximum(columns["truth"][:, 2:] - columns["truth"][:, :2], 1e-6).T.astype(
        float
    )
    areas = {"object": width * height / columns["size"].prod(axis=1), "shape": width / height}
    kinds: dict[str, NDArray[np.bool_]] = {}
    for of, edges in (("object", SIZES), ("shape", SHAPES)):
        bins = np.searchsorted(list(edges.values())[:-1], areas[of], side="right")
        kinds |= {f"{name} {of}": bins == row for row, name in enumerate(edges)}
    return _rows(evaluation, folder, kinds)


def by_class(evaluation: Evaluation, folder: Path, class_names: Sequence[str]) -> list[_Row]:
    """The method's main numbers by class, a row each; none where labels were not kept.

    Args:
        evaluation: what the verdicts are of.
        folder: the verdicts, with the columns `label`, and `predicted` and `iou` for what rests on those.
        class_names: of the data set.

    Returns:
        rows as `by_object` gives them, `kind` being the class; `mean IoU` of the boxes, and `taken for`, the wrong
        class that is predicted most often.

    Raises:
        ValueError: a part is damaged.
    """
    columns = read_columns(folder, ("label",))
    if columns is None:
        return []
    labels = columns["label"]
    present = np.unique(labels)
    kinds = {class_names[label]: labels == label for label in present}
    rows = _rows(evaluation, folder, kinds)
    boxes, predictions = read_columns(folder, ("iou",)), read_columns(folder, ("predicted",))
    for row, label in zip(rows, present, strict=True):
        of_class = labels == label
        if boxes is not None:
            row["mean IoU"] = float(boxes["iou"][of_class].mean())
        if predictions is not None:
            found = predictions["predicted"][of_class]
            wrong = Counter(found[(found != label) & (found >= 0)].tolist())
            row["taken for"] = class_names[wrong.most_common(1)[0][0]] if wrong else ""
    return rows


def _rows(
    evaluation: Evaluation, folder: Path, kinds: Mapping[str, NDArray[np.bool_]]
) -> list[_Row]:
    """The numbers of each kind that there are images of."""
    images, places = places_of(folder)
    kinds = {name: chosen for name, chosen in kinds.items() if chosen.any()}
    weights = np.stack(list(kinds.values())).astype(np.uint8)
    rows: list[_Row] = [
        {"kind": name, "images": int(chosen.sum())} for name, chosen in kinds.items()
    ]
    everything = np.ones((1, images), np.uint8)
    for result in evaluation.protocols:
        if PROTOCOLS[result.name].needs != "boxes":
            continue  # pixels of a few images may have no object
        for name, values in _at_one_threshold(
            folder, result, evaluation.method, weights, everything, places
        ).items():
            if name in PROTOCOLS[result.name].headlines:
                title = PROTOCOLS[result.name].title(name)
                for row, value in zip(rows, values, strict=True):
                    row[title] = float(value)
    return rows


def _at_one_threshold(
    folder: Path,
    result: ProtocolResult,
    method: str,
    weights: NDArray[np.uint8],
    everything: NDArray[np.uint8],
    places: Places,
) -> dict[str, NDArray[np.float64]]:
    """A protocol's numbers, for all rows of weights at the threshold that is used for everything."""
    sums = weighted_sums(folder, f"{result.name}/{method}", everything, places)
    if sums is None:
        return {}
    protocol = protocol_of(result, method)
    at = protocol.at
    if at is None:
        at = protocol.metric.best_of(sums)[0]  # type: ignore[operator]
    return weighted_numbers(folder, result, method, weights, places, at)
