"""The examples of a report: of each outcome the best and the worst boxes, spread over the classes."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from wsol_ext import ops
from wsol_ext.data.base import Sample
from wsol_ext.metrics import (
    EVALUATED,
    OUTCOMES,
    Batch,
    localization_outcomes,
    pad_boxes,
    scale_boxes,
    single_boxes,
    to_score_maps,
)

__all__ = ["Example", "Gallery"]


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


class Gallery:
    """Chooses a few examples of each outcome in one pass: the same ones in whatever order and process images come.

    Args:
        wanted: how many of each outcome; half of them with the highest IoU, half with the lowest.
        threshold: of the boxes.
    """

    def __init__(self, wanted: int, threshold: float) -> None:
        self.wanted = wanted
        self.threshold = threshold
        self.best: list[Example] = []
        self.worst: list[Example] = []

    def update(self, batch: Batch, raw: Sample) -> None:
        """Look at a batch of whole pictures with boxes; without class scores they have no outcome."""
        if batch.logits is None:
            return
        examples = _examples(batch, batch.logits.float(), raw, self.threshold)
        self._keep([*self.best, *examples], [*self.worst, *examples])

    def chosen(self) -> list[Example]:
        """The examples over all processes, by outcome, the highest IoU first."""
        if self.wanted and dist.is_available() and dist.is_initialized():
            found: list[tuple[list[Example], list[Example]]] = [([], [])] * dist.get_world_size()
            dist.all_gather_object(found, (self.best, self.worst))
            self._keep(
                (e for best, _ in found for e in best), (e for _, worst in found for e in worst)
            )
        return [example for outcome in OUTCOMES for example in self._of(outcome)]

    def _keep(self, best: Iterable[Example], worst: Iterable[Example]) -> None:
        self.best = _first(best, self.wanted, lambda e: (-e.iou, e.index))
        self.worst = _first(worst, self.wanted, lambda e: (e.iou, e.index))

    def _of(self, outcome: str) -> list[Example]:
        best, worst = (
            [e for e in kept if e.outcome == outcome] for kept in (self.best, self.worst)
        )
        chosen = {e.index: e for e in best[: (self.wanted + 1) // 2]}
        others = [e for e in worst if e.index not in chosen]
        chosen |= {e.index: e for e in others[: self.wanted - len(chosen)]}
        return sorted(chosen.values(), key=lambda e: (-e.iou, e.index))


def _first(
    examples: Iterable[Example], count: int, order: Callable[[Example], tuple[float, int]]
) -> list[Example]:
    """Of each outcome the first `count`, where the first of every class comes before the second of any.

    Whatever is left out has `count` others before it, and would have, whichever examples are added: the first of all
    batches are among the first of each.
    """
    ranks: Counter[tuple[str, int]] = Counter()
    ranked: list[tuple[int, Example]] = []
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


def _examples(batch: Batch, logits: Tensor, raw: Sample, threshold: float) -> list[Example]:
    """An example for each image."""
    frame = scale_boxes(batch.boxes, batch.sizes, protocol="toploc", size=EVALUATED)
    cut = single_boxes(to_score_maps(batch.maps.float(), EVALUATED, "bilinear"), threshold)
    outcomes = localization_outcomes(cut, logits, batch.labels, frame)
    ious = ops.box_iou(cut[:, None], pad_boxes(frame).to(cut.device))[:, 0].amax(dim=1).tolist()
    boxes = cut.cpu() * batch.sizes.repeat(1, 2) / EVALUATED
    probabilities, predicted = logits.softmax(dim=1).max(dim=1)
    columns = (batch.labels.tolist(), predicted.tolist(), probabilities.tolist(), ious)
    maps = batch.maps.float().cpu()
    kinds = {row: kind for kind in OUTCOMES for row in outcomes[kind].nonzero().flatten().tolist()}
    return [
        Example(
            index=int(raw["indices"][row]),
            outcome=kinds[row],
            label=label,
            predicted=top,
            probability=probability,
            iou=iou,
            score_map=maps[row].clone(),
            box=boxes[row].float(),
            gt_boxes=raw["boxes"][row],
        )
        for row, (label, top, probability, iou) in enumerate(zip(*columns, strict=True))
    ]
