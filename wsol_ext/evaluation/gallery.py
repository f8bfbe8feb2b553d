"""The examples of a report: of each outcome the best and the worst boxes, spread over the classes."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from wsol_ext.metrics import OUTCOMES

__all__ = ["Candidate", "Example", "Gallery", "gathered"]


@dataclass
class Example:
    """One image of a gallery.

    Attributes:
        index: its place in the data set.
        outcome: `right`, `class_wrong`, `multi_instance`, `part`, `more` or `other`.
        label: the true class.
        predicted: the top-1 class.
        probability: of that class.
        iou: of the box with the best ground-truth one, in [0, 1].
        score_map: (h, w), the true class's map.
        box: (4,) x0, y0, x1, y1 cut from it, pixels of the original.
        gt_boxes: (G, 4), pixels of the original.
    """

    index: int
    outcome: str
    label: int
    predicted: int
    probability: float
    iou: float
    score_map: Tensor
    box: Tensor
    gt_boxes: Tensor


@dataclass(frozen=True)
class Candidate:
    """An image that a gallery may show: as of `Example`, without what is large."""

    index: int
    outcome: str
    label: int
    predicted: int
    probability: float
    iou: float
    box: list[float]

    def example(self, score_map: Tensor, gt_boxes: Tensor) -> Example:
        """With what is large."""
        box = gt_boxes.new_tensor(self.box, dtype=torch.float32)
        return Example(**{**vars(self), "score_map": score_map, "box": box, "gt_boxes": gt_boxes})


class Gallery:
    """Chooses a few examples of each outcome in one pass: the same ones in whatever order and process images come.

    Args:
        wanted: how many of each outcome; half of them with the highest IoU, half with the lowest.
    """

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.best: list[Candidate] = []
        self.worst: list[Candidate] = []

    def update(self, indices: Sequence[int], columns: Mapping[str, NDArray[Any]]) -> None:
        """Look at images: their places, and what `image_columns` gives; without class scores they have no outcome."""
        if not self.wanted or "outcome" not in columns:
            return
        names = ("outcome", "label", "predicted", "probability", "iou", "box")
        rows = zip(indices, *(columns[name].tolist() for name in names), strict=True)
        found = [Candidate(*row) for row in rows if row[1]]
        self._keep([*self.best, *found], [*self.worst, *found])

    def chosen(self) -> list[Candidate]:
        """The examples over all processes, by outcome, the highest IoU first."""
        if self.wanted and dist.is_available() and dist.is_initialized():
            found: list[tuple[list[Candidate], list[Candidate]]] = [
                ([], [])
            ] * dist.get_world_size()
            dist.all_gather_object(found, (self.best, self.worst))
            self._keep(
                (e for best, _ in found for e in best), (e for _, worst in found for e in worst)
            )
        return [example for outcome in OUTCOMES for example in self._of(outcome)]

    def _keep(self, best: Iterable[Candidate], worst: Iterable[Candidate]) -> None:
        self.best = _first(best, self.wanted, lambda e: (-e.iou, e.index))
        self.worst = _first(worst, self.wanted, lambda e: (e.iou, e.index))

    def _of(self, outcome: str) -> list[Candidate]:
        best, worst = (
            [e for e in kept if e.outcome == outcome] for kept in (self.best, self.worst)
        )
        chosen = {e.index: e for e in best[: (self.wanted + 1) // 2]}
        others = [e for e in worst if e.index not in chosen]
        chosen |= {e.index: e for e in others[: self.wanted - len(chosen)]}
        return sorted(chosen.values(), key=lambda e: (-e.iou, e.index))


def _first(
    examples: Iterable[Candidate], count: int, order: Callable[[Candidate], tuple[float, int]]
) -> list[Candidate]:
    """Of each outcome the first `count`, where the first of every class comes before the second of any.

    Whatever is left out has `count` others before it, and would have, whichever examples are added: the first of all
    batches are among the first of each.
    """
    ranks: Counter[tuple[str, int]] = Counter()
    ranked: list[tuple[int, Candidate]] = []
    for example in sorted(examples, key=order):
        kind = (example.outcome, example.label)
        ranked.append((ranks[kind], example))
        ranks[kind] += 1
    kept: Counter[str] = Counter()
    chosen = []
    for _, example in sorted(ranked, key=lambda each: each[0]):
        if kept[example.outcome] < count:
            kept[example.outcome] += 1
            chosen.append(example)
    return chosen


def gathered(examples: list[Example], order: Sequence[int]) -> list[Example]:
    """The examples of all processes, by their images' places."""
    found = [examples]
    if dist.is_available() and dist.is_initialized():
        found = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(found, examples)
    by_place = {example.index: example for part in found for example in part}
    return [by_place[place] for place in order]
