"""Two evaluated runs: whether they differ by more than chance, and in which images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsol_ext._names import Spellings, printable, some
from wsol_ext.evaluation.breakdown import read_columns
from wsol_ext.evaluation.results import ProtocolResult
from wsol_ext.evaluation.runs import Run, differing
from wsol_ext.evaluation.statistics import (
    DRAWS,
    draw_images,
    interval_of,
    mcnemar,
    p_value,
    protocol_of,
    weighted_numbers,
)
from wsol_ext.evaluation.verdicts import Verdicts, read_parts
from wsol_ext.metrics import PROTOCOLS
from wsol_ext.metrics.at_best_threshold import AtBestThreshold

__all__ = ["Comparison", "Difference", "Disagreement", "compare"]


@dataclass
class Difference:
    """One number of two runs over the images that both have.

    Attributes:
        protocol: with its settings.
        number: its name.
        title: its name beside those of other protocols.
        first: the first run's.
        second: the second run's.
        low: of the 95% bootstrap interval of second - first.
        high: likewise.
        p: of the paired bootstrap, two-sided.
        only_first: the images that only the first has right, where an image is right or wrong at one given threshold.
        only_second: likewise.
        mcnemar_p: of McNemar's exact test of those.
    """

    protocol: str
    number: str
    title: str
    first: float
    second: float
    low: float
    high: float
    p: float
    only_first: int | None = None
    only_second: int | None = None
    mcnemar_p: float | None = None

    @property
    def difference(self) -> float:
        """Second - first."""
        return self.second - self.first


@dataclass
class Disagreement:
    """An image whose boxes differ between two runs.

    Attributes:
        image: its name.
        index: its place in the first run's data set.
        ious: of both runs' boxes with the true box that each fits best.
        boxes: (4,) each, pixels of the picture.
    """

    image: str
    index: int
    ious: tuple[float, float]
    boxes: tuple[NDArray[Any], NDArray[Any]]


@dataclass
class Comparison:
    """Two runs over the images that both have.

    Attributes:
        first: a run.
        second: another.
        images: how many both have.
        left_out: how many only the first has, and only the second.
        differences: of each number of each protocol that both have, at the same interval.
        passed_over: sentences on what could not be compared.
        disagreements: the images whose boxes' IoUs differ most, as many better in the one as in the other.
        draws: of the bootstrap.
        seed: likewise.
    """

    first: Run
    second: Run
    images: int
    left_out: tuple[int, int]
    differences: list[Difference]
    passed_over: list[str] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    draws: int = DRAWS
    seed: int = 0

    @property
    def notes(self) -> list[str]:
        """Sentences on what the numbers of both are not alike in, and what could not be compared."""
        first, second = self.first.name, self.second.name
        notes = []
        if any(self.left_out):
            of_first, of_second = self.left_out
            notes.append(
                f"images of one alone, left out: {of_first} ({first}), {of_second} ({second})"
            )
        for what, (one, other) in differing([self.first, self.second]).items():
            notes.append(f"{what}: {one} ({first}), {other} ({second})")
        return [*notes, *(f"{each}: not compared" for each in self.passed_over)]

    def as_dict(self) -> dict[str, Any]:
        """What JSON has."""
        return {
            "first": self.first.name,
            "second": self.second.name,
            "images": self.images,
            "images of one alone": list(self.left_out),
            "draws": self.draws,
            "seed": self.seed,
            "notes": self.notes,
            "differences": self.rows(),
            "disagreements": [
                {
                    "image": each.image,
                    "IoU": list(each.ious),
                    "boxes": [box.tolist() for box in each.boxes],
                }
                for each in self.disagreements
            ],
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row a number; what McNemar's test says where it applies."""
        rows = []
        for each in self.differences:
            row: dict[str, Any] = {
                **{"protocol": each.protocol, "metric": each.number},
                **{"first": each.first, "second": each.second, "difference": each.difference},
                **{"low": each.low, "high": each.high, "p": each.p},
            }
            if each.mcnemar_p is not None:
                row |= {"only first right": each.only_first, "only second right": each.only_second}
                row["McNemar p"] = each.mcnemar_p
            rows.append(row)
        return rows


def compare(
    first: Run, second: Run, draws: int = DRAWS, seed: int = 0, pictures: int = 12
) -> Comparison:
    """Compare two runs over the images that both have, by name.

    The paired bootstrap: images are drawn again, the same for both, and each run's number is found anew, thresholds
    that it chooses on the evaluated images too. p is twice the share of draws on the other side of no difference. Where
    a threshold was given, an image is right or wrong, and McNemar's exact test says what the images that one alone has
    right come to.

    Args:
        first: a run.
        second: another; differences are second - first.
        draws: how often images are drawn.
        seed: of the draws.
        pictures: of how many images to give the boxes, at most: half of them better in each.

    Raises:
        ValueError: verdicts that are missing, damaged or unfinished, no image that both have, or images that are others
            in the second by size or true boxes.
    """
    names = [_image_names(run) for run in (first, second)]
    common = _Common(*names)
    if not len(common):
        raise ValueError(f"{first.name} and {second.name} have no image of the same name")
    _check_annotations((first, second), common)
    weights = draw_images(len(common), draws, seed)
    others = {result.name: result for result in second.evaluation.protocols}
    differences: list[Difference] = []
    passed_over = []
    for result in first.evaluation.protocols:
        other = others.get(result.name)
        if other is None:
            passed_over.append(f"{second.name} was not measured by {result.name}")
        elif result.settings.get("interval") != other.settings.get("interval"):
            passed_over.append(f"the intervals of {result.name} differ")
        else:
            differences += _differences((first, second), (result, other), common, weights)
    return Comparison(
        first,
        second,
        len(common),
        (len(names[0]) - len(common), len(names[1]) - len(common)),
        differences,
        passed_over,
        _disagreements((first, second), common, pictures),
        draws,
        seed,
    )


def _image_names(run: Run) -> NDArray[np.str_]:
    if run.unfinished:
        raise ValueError(
            f"{run.name}: the evaluation in {printable(run.verdicts)} is not finished: the same command goes on"
        )
    names = [part.image for part in read_parts(run.verdicts, ())]
    if not names:
        raise ValueError(
            f"{run.name} has no verdicts of each image beside its results: `wsol evaluate` keeps them"
        )
    together = np.concatenate(names)
    if len(together) != run.evaluation.images:
        raise ValueError(
            f"{printable(run.verdicts)} has verdicts of {len(together)} images, {run.evaluation.images} were evaluated"
        )
    if len(np.unique(together)) < len(together):
        raise ValueError(f"{run.name}: several images have one name: they cannot be paired")
    return together


class _Common:
    """The images of two runs, by their names, sorted.

    Args:
        first: the names in the one.
        second: those in the other, which `Spellings` finds where they are written otherwise.
    """

    def __init__(self, first: NDArray[np.str_], second: NDArray[np.str_]) -> None:
        alike = set(np.intersect1d(first, second).tolist())
        own = Spellings(set(first.tolist()) - alike)
        found = {name: own.find(name) for name in set(second.tolist()) - alike}
        times = Counter(found.values())
        renamed = {name: as_first for name, as_first in found.items() if times[as_first] == 1}
        self._renamed = {name: as_first for name, as_first in renamed.items() if as_first}
        self.names = np.array(sorted([*alike, *self._renamed.values()]), np.str_)

    def __len__(self) -> int:
        return len(self.names)

    def places(self, names: NDArray[np.str_]) -> NDArray[np.int64]:
        """Where images of either run stand among the common ones; -1: they are none."""
        if self._renamed:
            names = np.array([self._renamed.get(name, name) for name in names.tolist()], np.str_)
        found = np.searchsorted(self.names, names).clip(max=len(self) - 1)
        return np.where(self.names[found] == names, found, -1)

    def places_of(self, part: Verdicts) -> NDArray[np.int64]:
        """Likewise those of a part."""
        return self.places(part.image)


def _check_annotations(runs: tuple[Run, Run], common: _Common) -> None:
    """Refuse runs whose images of one name have other sizes or true boxes, as far as both say."""
    for column in ("annotation", "size"):  # older results have sizes alone
        known = [_columns(run, common, (column,)) for run in runs]
        if any(each is None for each in known):
            continue
        first, second = (each[column].reshape(len(common), -1) for each in known if each)
        others = common.names[(first != second).any(axis=1)]
        if len(others):
            raise ValueError(
                f"{runs[0].name} and {runs[1].name} cannot be compared, they are of different data: {len(others)} of "
                f"{len(common)} images of the same name have other sizes or true boxes: {some(others.tolist())}"
            )
        return


def _columns(run: Run, common: _Common, names: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """Columns of the images that both runs have, in the order of their names; None where a part lacks one."""
    columns = read_columns(run.verdicts, ("index", "image", *names))
    if columns is None:
        return None
    places = common.places(columns["image"])
    kept = np.argsort(places)[-len(common) :]
    return {name: values[kept] for name, values in columns.items()}


def _differences(
    runs: tuple[Run, Run],
    results: tuple[ProtocolResult, ProtocolResult],
    common: _Common,
    weights: NDArray[np.uint8],
) -> list[Difference]:
    """One protocol's."""
    values = [
        weighted_numbers(run.verdicts, result, run.evaluation.method, weights, common.places_of)
        for run, result in zip(runs, results, strict=True)
    ]
    right = [_right(run, result, common) for run, result in zip(runs, results, strict=True)]
    titles = list(dict.fromkeys(result.title for result in results))
    found = []
    for name in (name for name in values[0] if name in values[1] and ProtocolResult.is_share(name)):
        first, second = values[0][name], values[1][name]
        low, high = interval_of(second - first)
        difference = Difference(
            " | ".join(titles),
            name,
            PROTOCOLS[results[0].name].title(name),
            *(float(first[0]), float(second[0]), low, high, p_value(second - first)),
        )
        if name in right[0] and name in right[1]:
            difference.only_first = int((right[0][name] & ~right[1][name]).sum())
            difference.only_second = int((right[1][name] & ~right[0][name]).sum())
            difference.mcnemar_p = mcnemar(difference.only_first, difference.only_second)
        found.append(difference)
    return found


def _right(run: Run, result: ProtocolResult, common: _Common) -> dict[str, NDArray[np.bool_]]:
    """Whether each image counts for each share, (n,); none where a threshold was chosen on the images."""
    protocol = protocol_of(result, run.evaluation.method)
    metric = protocol.metric
    if not isinstance(metric, AtBestThreshold):
        return {}
    if len(metric.thresholds) > 1 and protocol.at is None:
        return {}
    at = 0 if protocol.at is None else int(protocol.at)
    key = f"{result.name}/{run.evaluation.method}"
    right = np.zeros((len(common), len(metric.shares)), bool)
    for part in read_parts(run.verdicts, (key,)):
        if key not in part.verdicts:
            return {}
        columns = common.places_of(part)
        right[columns[columns >= 0]] = part.verdicts[key][columns >= 0, at]
    return dict(zip(metric.shares, right.T, strict=True))


def _disagreements(runs: tuple[Run, Run], common: _Common, count: int) -> list[Disagreement]:
    """The images of the largest differences of IoU, both ways."""
    first, second = (_columns(run, common, ("iou", "box")) for run in runs)
    if first is None or second is None:
        return []
    change = second["iou"].astype(float) - first["iou"].astype(float)
    order = np.argsort(change, kind="stable")
    worse = [place for place in order[: count // 2] if change[place] < 0]
    better = [place for place in order[::-1][: count - count // 2] if change[place] > 0]
    return [
        Disagreement(
            str(first["image"][place]),
            int(first["index"][place]),
            (float(first["iou"][place]), float(second["iou"][place])),
            (first["box"][place], second["box"][place]),
        )
        for place in (*better, *worse)
    ]
