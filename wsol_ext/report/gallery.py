"""Which pictures a report shows, and what it says of each."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from wsol_ext._names import printable
from wsol_ext.data.base import LocalizationDataset, boxes_within
from wsol_ext.data.images import ImageError
from wsol_ext.data.tables import AnnotationError
from wsol_ext.evaluation.breakdown import read_columns
from wsol_ext.evaluation.journal import box_threshold
from wsol_ext.evaluation.runs import Run
from wsol_ext.metrics import OUTCOMES, TopLoc
from wsol_ext.report.drawing import fit
from wsol_ext.report.heat_maps import heat_png, read_heat_maps

__all__ = ["Card", "Gallery", "Kind", "make_gallery"]

_SIDE, _QUALITY = 224, 80  # of thumbnails: pixels of the longest side, and of JPEG
_ROW = 6  # pictures in a row of best or worst ones
_RIGHT = 0.5  # the IoU from which, or above which, a box is right
_COLUMNS = ("label", "predicted", "probability", "size", "box", "iou", "truth", "outcome")
_OUTCOME_TEXTS = {
    "right": "The class is right and the box has IoU > 0.5.",
    "class_wrong": "Another class was predicted; the map and the box are the true class's.",
    "multi_instance": "The class is right; one box covers several objects.",
    "part": "The class is right; the box lies mostly inside of the object's.",
    "more": "The class is right; the box holds the object and too much around it.",
    "other": "The class is right; the box lies elsewhere.",
}


@dataclass(frozen=True)
class Kind:
    """What pictures are filtered by.

    Attributes:
        title: on the button.
        text: what it means.
        count: of all images, shown or not.
    """

    title: str
    text: str
    count: int


@dataclass(frozen=True)
class Card:
    """One picture.

    Attributes:
        name: the image's.
        kind: its key in `Gallery.kinds`.
        label: its class.
        class_name: that one's name.
        width: of the original, pixels.
        height: likewise.
        truths: (x0, y0, x1, y1) of each true box, pixels of the original.
        boxes: likewise of each run's.
        ious: likewise.
        taken_for: by run the class that was predicted in place of the true one, "" where it was right or none was.
        probability: of the first run's predicted class; None without one.
        picture: a `data:` URI; "" where there is none.
        heat: likewise, of the map to lay over it.
    """

    name: str
    kind: str
    label: int
    class_name: str
    width: int
    height: int
    truths: list[tuple[float, ...]]
    boxes: list[tuple[float, ...]]
    ious: list[float]
    taken_for: list[str]
    probability: float | None
    picture: str = ""
    heat: str = ""

    @property
    def gap(self) -> float:
        """By how much the runs' IoUs differ: of two, the second's less the first's."""
        if len(self.ious) == 2:
            return self.ious[1] - self.ious[0]
        return max(self.ious) - min(self.ious)

    @property
    def mistakes(self) -> dict[str, int | None]:
        """By the class that was predicted in place of the true one, the run that did; None where all did."""
        if len(set(self.taken_for)) == 1:
            return {name: None for name in self.taken_for if name}
        return {name: run for run, name in enumerate(self.taken_for) if name}


@dataclass
class Gallery:
    """The pictures of a page.

    Attributes:
        images: how many there are of which these were chosen.
        cards: the pictures, best first; of several runs those first whose boxes differ most.
        rows: pictures by title, the best and the worst ones of all.
        kinds: by key.
        threshold: where the maps of a single run were cut for its boxes; None where there are none, or it is not known.
        reason: why there are no pictures, or only boxes; "" where all is there.
    """

    images: int = 0
    cards: list[Card] = field(default_factory=list)
    rows: dict[str, list[Card]] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    threshold: float | None = None
    reason: str = ""

    @property
    def classes(self) -> dict[int, str]:
        """The names of the classes that the cards are of, by label."""
        return dict(sorted({card.label: card.class_name for card in self.cards}.items()))

    @property
    def has_heat(self) -> bool:
        """Whether a picture has a heat map."""
        return any(card.heat for card in self.cards)


def make_gallery(runs: Sequence[Run], dataset: LocalizationDataset | None, count: int) -> Gallery:
    """Choose pictures of what all runs were evaluated on, always the same ones.

    Args:
        runs: evaluated runs, with the verdicts of each image.
        dataset: the first run's, whose pictures are shown; None: boxes alone are.
        count: how many pictures, beside the rows of the best and the worst.

    Raises:
        ValueError: the data set has other images, or a file is damaged.
    """
    if not count:
        return Gallery()
    tables, reason = _common(runs)
    if reason:
        return Gallery(reason=reason)
    first = tables[0]
    if dataset is not None:
        _require_same_images(first, dataset)
    ious = np.stack([table["iou"].astype(float) for table in tables], axis=1)
    keys, kinds = _kinds(tables, ious, [run.name for run in runs])
    gap = _gaps(ious)
    heat = read_heat_maps(runs[0].folder) if len(runs) == 1 else {}
    has_heat = np.isin(first["index"], list(heat))
    shown = _chosen(ious[:, 0], gap, keys, first["label"], has_heat, count)
    of_rows = _best_and_worst(ious[:, 0], gap, first["label"], [run.name for run in runs])
    names = _class_names(runs[0], first["label"], dataset)
    made: dict[int, Card] = {}

    def card(row: int) -> Card:
        if row not in made:
            made[row] = _card(tables, row, keys[row], names, dataset, heat)
        return made[row]

    order = sorted(shown, key=lambda row: (-gap[row] if len(runs) > 1 else -ious[row, 0], row))
    cards = [card(row) for row in order]
    missing = dataset is not None and any(not each.picture for each in cards)
    reason = "" if dataset is not None else "no data set is named: boxes are shown without pictures"
    return Gallery(
        len(keys),
        cards,
        {title: [card(row) for row in rows] for title, rows in of_rows.items() if rows},
        kinds,
        box_threshold(runs[0].verdicts) if len(runs) == 1 else None,
        "some pictures could not be read" if missing else reason,
    )


def _common(runs: Sequence[Run]) -> tuple[list[dict[str, NDArray[Any]]], str]:
    """The columns of the images that all runs have, in the first one's order; or why there are none."""
    tables = []
    for run in runs:
        columns = read_columns(run.verdicts, ("index", "image", *_COLUMNS))
        if columns is None:
            return [], f"{run.name} keeps no box of each image"
        if len(columns["index"]) != run.evaluation.images:
            return [], f"{run.name} keeps the boxes of another evaluation"
        tables.append(columns)
    if len(tables) == 1:
        return tables, ""
    common = tables[0]["image"]
    for table in tables[1:]:
        common = common[np.isin(common, table["image"])]
    if not len(common) or any(len(np.unique(t["image"])) < len(t["image"]) for t in tables):
        return [], "the runs have no image in common, by name"
    paired = []
    for table in tables:
        order = np.argsort(table["image"])
        places = order[np.searchsorted(table["image"], common, sorter=order)]
        paired.append({name: values[places] for name, values in table.items()})
    return paired, ""


def _require_same_images(table: Mapping[str, NDArray[Any]], dataset: LocalizationDataset) -> None:
    for index, name in zip(table["index"].tolist(), table["image"].tolist(), strict=True):
        if index >= len(dataset) or dataset.image_names[index] != name:
            raise ValueError(
                f"the data set has no image {printable(name)} at its place {index}: it should be the first run's, as "
                "--data, --root and --split name it"
            )


def _gaps(ious: NDArray[Any]) -> NDArray[Any]:
    if ious.shape[1] == 2:
        return ious[:, 1] - ious[:, 0]
    return ious.max(axis=1) - ious.min(axis=1)


def _kinds(
    tables: Sequence[Mapping[str, NDArray[Any]]], ious: NDArray[Any], names: Sequence[str]
) -> tuple[NDArray[np.str_], dict[str, Kind]]:
    """What each image is filtered by, and what those are."""
    outcomes = tables[0]["outcome"]
    # Where classes were predicted a box is right as toploc has it, else as the other protocols do.
    by_toploc = all(all(table["outcome"]) for table in tables)
    right, rule = (ious > _RIGHT, "above 0.5") if by_toploc else (ious >= _RIGHT, "of 0.5 or more")
    if len(tables) == 1 and all(outcomes):
        titles = {
            name: (TopLoc.labels[name].capitalize(), _OUTCOME_TEXTS[name]) for name in OUTCOMES
        }
        keys = outcomes
    elif len(tables) == 1:
        titles = {
            "right": ("Right", f"The box has an IoU {rule}."),
            "wrong": ("Wrong", "It has less."),
        }
        keys = np.where(right[:, 0], "right", "wrong")
    else:
        some, every = right.any(axis=1), right.all(axis=1)
        keys = np.where(every, "all", np.where(some, "some", "none"))
        whose, text = "All", f"The boxes of all runs have an IoU {rule}."
        partly = {"some": ("Some right", f"The boxes of some runs have an IoU {rule}.")}
        if len(tables) == 2:
            keys = np.where(keys == "some", np.where(right[:, 0], "first", "second"), keys)
            whose, text = "Both", f"The boxes of both runs have an IoU {rule}."
            partly = {
                key: (f"Only {name}", f"Only the box of {name} has an IoU {rule}.")
                for key, name in zip(("first", "second"), names, strict=True)
            }
        titles = {"all": (f"{whose} right", text), **partly}
        titles["none"] = ("None right", f"No run's box has an IoU {rule}.")
    counts = {key: int((keys == key).sum()) for key in titles}
    return keys, {key: Kind(*titles[key], counts[key]) for key in titles if counts[key]}


def _class_names(
    run: Run, labels: NDArray[Any], dataset: LocalizationDataset | None
) -> Callable[[int], str]:
    """A function of a label that gives its class's name: as by_class.csv has it, else the data set."""
    known = {} if dataset is None else dict(enumerate(dataset.class_names))
    # The table has the classes that there are images of, in their order.
    kinds = [str(row["kind"]) for row in run.evaluation.by_class]
    present = np.unique(labels).tolist()
    if len(kinds) == len(present):
        known |= dict(zip(present, kinds, strict=True))
    return lambda label: printable(known.get(label, f"class {label}"))


def _spread(order: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Rows in an order, where the first of every class comes before the second of any."""
    ordered = labels[order]
    by_class = np.argsort(ordered, kind="stable")
    sorted_labels = ordered[by_class]
    starts = np.searchsorted(sorted_labels, sorted_labels)
    rank = np.empty(len(order), np.int64)
    rank[by_class] = np.arange(len(order)) - starts
    return order[np.argsort(rank, kind="stable")]


def _chosen(
    ious: NDArray[Any],
    gap: NDArray[Any],
    keys: NDArray[Any],
    labels: NDArray[Any],
    wanted: NDArray[np.bool_],
    count: int,
) -> list[int]:
    """Rows: those that are wanted, then in turn of each kind the best, the worst and any, spread over the classes."""
    any_order = np.random.default_rng(0).permutation(len(ious))
    orders = [np.argsort(-ious, kind="stable"), np.argsort(ious, kind="stable"), any_order]
    if gap.any():
        orders += [np.argsort(-gap, kind="stable"), np.argsort(gap, kind="stable")]
    queues = [np.flatnonzero(wanted)]
    chosen = dict.fromkeys(queues[0][:count].tolist())
    turns = [
        _spread(order[keys[order] == key], labels).tolist()
        for key in dict.fromkeys(keys.tolist())
        for order in orders
    ]
    for row in _in_turn(turns):
        if len(chosen) >= count:
            break
        chosen.setdefault(row)
    return list(chosen)


def _in_turn(queues: Sequence[Sequence[int]]) -> Iterator[int]:
    return (row for rows in zip_longest(*queues) for row in rows if row is not None)


def _best_and_worst(
    ious: NDArray[Any], gap: NDArray[Any], labels: NDArray[Any], names: Sequence[str]
) -> dict[str, list[int]]:
    """Rows of the extreme pictures, by what they are."""

    def first(values: NDArray[Any], among: NDArray[np.bool_]) -> list[int]:
        order = np.argsort(-values, kind="stable")
        return _spread(order[among[order]], labels)[:_ROW].tolist()

    everything = np.ones(len(ious), bool)
    if len(names) == 1:
        return {"Best": first(ious, everything), "Worst": first(-ious, everything)}
    if len(names) == 2:
        return {
            f"Better in {names[1]}": first(gap, gap > 0),
            f"Better in {names[0]}": first(-gap, gap < 0),
        }
    return {"Furthest apart": first(gap, gap > 0)}


def _card(
    tables: Sequence[Mapping[str, NDArray[Any]]],
    row: int,
    kind: str,
    names: Callable[[int], str],
    dataset: LocalizationDataset | None,
    heat: Mapping[int, NDArray[np.uint8]],
) -> Card:
    table = tables[0]
    index, label = int(table["index"][row]), int(table["label"][row])
    width, height = (max(1, int(side)) for side in table["size"][row])
    taken_for = []
    for each in tables:
        predicted = int(each["predicted"][row])
        taken_for.append("" if predicted in (-1, label) else names(predicted))
    probability = float(table["probability"][row])
    return Card(
        name=printable(str(table["image"][row])),
        kind=str(kind),
        label=label,
        class_name=names(label),
        width=width,
        height=height,
        truths=_truths(dataset, index, table["truth"][row], (width, height)),
        boxes=[tuple(each["box"][row].tolist()) for each in tables],
        ious=[max(0.0, float(each["iou"][row])) for each in tables],
        taken_for=taken_for,
        probability=None if np.isnan(probability) else probability,
        picture="" if dataset is None else _picture(dataset, index),
        heat=_embedded(heat_png(heat[index]), "png") if index in heat else "",
    )


def _truths(
    dataset: LocalizationDataset | None, index: int, nearest: NDArray[Any], size: tuple[int, int]
) -> list[tuple[float, ...]]:
    """The true boxes: all that the data set has, else the one that was kept."""
    if dataset is not None:
        given = dataset.boxes_as_given(index)
        try:
            boxes, _ = boxes_within(
                dataset.image_names[index], torch.tensor(given).view(-1, 4), size
            )
        except AnnotationError:
            boxes = torch.zeros(0, 4)
        if len(boxes):
            return [tuple(box) for box in boxes.tolist()]
    return [tuple(nearest.tolist())]


def _picture(dataset: LocalizationDataset, index: int) -> str:
    try:
        image = dataset.load_image(index)
    except (ImageError, OSError):
        return ""
    return _jpeg(fit(image, 1, _SIDE))


def _jpeg(image: Image.Image) -> str:
    """An image as a page holds it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return _embedded(file.getvalue(), "jpeg")


def _embedded(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
