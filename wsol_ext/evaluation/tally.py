"""What a pass over images adds up: numbers, the candidates of a gallery, and both kept in a journal."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsol_ext import ops
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.evaluation.gallery import Candidate, Gallery
from wsol_ext.evaluation.journal import Journal, fingerprint
from wsol_ext.evaluation.measures import Measures
from wsol_ext.evaluation.results import ProtocolResult
from wsol_ext.evaluation.verdicts import Verdicts
from wsol_ext.metrics import (
    EVALUATED,
    OUTCOMES,
    Batch,
    View,
    localization_outcomes,
    pad_boxes,
    scale_boxes,
    single_boxes,
    to_score_maps,
)
from wsol_ext.metrics.ground_truth import first_boxes
from wsol_ext.metrics.maps import distinct_maps

__all__ = ["Asked", "Tally", "image_columns"]

Asked = Mapping[View, tuple[Batch, Mapping[str, Batch]]]
"""By view, what a method answers for the same images: the whole, and its parts."""


class Tally:
    """Counts images, and remembers those that were counted before an interruption.

    Args:
        measures: what counts.
        dataset: whose images they are.
        threshold: of the boxes in a gallery and in the journal.
        gallery: how many examples of each outcome are wanted.
        journal: where what is found of each image is kept; None: nowhere.
    """

    def __init__(
        self,
        measures: Measures,
        dataset: LocalizationDataset,
        threshold: float,
        gallery: int = 0,
        journal: Journal | None = None,
    ) -> None:
        self.measures, self.dataset, self.threshold = measures, dataset, threshold
        self.gallery, self.journal = Gallery(gallery), journal
        self.views: set[View] = set(measures.views)
        if gallery or (
            journal is not None and dataset.has_boxes
        ):  # boxes of whole pictures are shown, and kept
            self.views.add("whole")

    def left(self, places: Sequence[int], asked: Mapping[str, Any]) -> list[int]:
        """Of images those that are not counted yet; what an interrupted evaluation had counted is added.

        Args:
            places: of all that are to be counted.
            asked: what makes other verdicts: of a model, say, how it was made.
        """
        if self.journal is None:
            return list(places)
        if not self.measures.keeps_verdicts:  # what was counted is nowhere
            self.journal.overwrite = True
        of_images = {"images": len(places), "box threshold": self.threshold}
        of_data = {"truth": fingerprint(self.dataset)}
        done = set(
            self.journal.begin({**asked, **self.measures.asked, **of_images, **of_data}).tolist()
        )
        for part in self.journal.share():
            self.measures.recall(part.traits)
            self.measures.add({key: torch.from_numpy(each) for key, each in part.verdicts.items()})
            self.gallery.update(part.index.tolist(), part.columns)
        return [place for place in places if place not in done]

    def add(
        self,
        indices: Sequence[int],
        asked: Asked,
        columns: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Count images.

        Args:
            indices: their places.
            asked: what was answered for them, in each of `views`.
            columns: what else is known of them, to keep.
        """
        verdicts: dict[str, Tensor] = {}
        for view, (whole, parts) in asked.items():
            verdicts |= self.measures.judge(view, whole, parts)
        self.measures.add(verdicts)
        found = dict(columns or {})
        if "whole" in asked and (self.journal is not None or self.gallery.wanted):
            found |= image_columns(asked["whole"][0], self.threshold)
            self.gallery.update(indices, found)
        if self.journal is not None:
            names = np.array([self.dataset.image_names[index] for index in indices], np.str_)
            arrays = {key: each.numpy() for key, each in verdicts.items()}
            self.journal.keep(
                Verdicts(np.array(indices, np.int64), names, arrays, found, self.measures.traits())
            )

    def results(self) -> tuple[list[ProtocolResult], list[Candidate]]:
        """The numbers over all processes, and what the gallery shows."""
        if self.journal is not None:
            self.journal.flush()
        return self.measures.results(), self.gallery.chosen()


def image_columns(batch: Batch, threshold: float) -> dict[str, NDArray[Any]]:
    """What is known of each image of a batch of whole pictures beside verdicts: see `wsol_ext.evaluation.verdicts`.

    Where there are no true boxes, the classes alone.

    Args:
        batch: of the method.
        threshold: at which maps are cut, as `toploc` cuts them.
    """
    count = len(batch.labels)
    columns: dict[str, Any] = {"label": batch.labels}
    predicted, probability = torch.full((count,), -1), torch.full((count,), torch.nan)
    logits = None if batch.logits is None else batch.logits.float()
    if logits is not None:
        probability, predicted = logits.softmax(dim=1).max(dim=1)
    columns |= {"predicted": predicted, "probability": probability, "size": batch.sizes}
    if all(map(len, batch.boxes)):
        columns |= _boxes(batch, logits, threshold)
    return {
        name: values.cpu().numpy() if isinstance(values, Tensor) else values
        for name, values in columns.items()
    }


def _annotation(size: Tensor, boxes: Tensor) -> int:
    """A digest of an image's size and true boxes, to a hundredth of a pixel: files of boxes round differently."""
    rounded = sorted([round(edge, 2) for edge in box] for box in boxes.tolist())
    return zlib.crc32(repr((size.tolist(), rounded)).encode())


def _boxes(batch: Batch, logits: Tensor | None, threshold: float) -> dict[str, Any]:
    """The box of each image, its IoU with the best true one, that one, the kind of error, and a digest."""
    outcome = [""] * len(batch.labels)
    if batch.found is not None:
        box = first_boxes(batch.found)
        truth = pad_boxes(batch.boxes).double()
        ious = ops.box_iou(box[:, None], truth, inclusive=False, dtype=torch.float64)[:, 0]
    else:
        frame = scale_boxes(batch.boxes, batch.sizes, protocol="toploc", size=EVALUATED)
        maps = distinct_maps(batch.maps).float()
        cut = single_boxes(to_score_maps(maps, EVALUATED, "bilinear"), threshold)
        cut = cut.expand(len(frame), -1)
        truth = pad_boxes(frame).to(cut.device)
        ious = ops.box_iou(cut[:, None], truth)[:, 0]
        box = cut.cpu() * batch.sizes.repeat(1, 2) / EVALUATED
        if logits is not None:
            found = localization_outcomes(cut, logits, batch.labels, frame)
            kinds = torch.stack([found[kind] for kind in OUTCOMES]).int().argmax(dim=0)
            outcome = [OUTCOMES[kind] for kind in kinds.tolist()]
    iou, best = torch.where((truth != -1).any(dim=2), ious, -1).max(dim=1)
    nearest = [boxes[place] for boxes, place in zip(batch.boxes, best.tolist(), strict=True)]
    return {
        "annotation": np.array(list(map(_annotation, batch.sizes, batch.boxes)), np.int64),
        "box": box.float(),
        "iou": iou.float(),
        "truth": torch.stack(nearest).float(),
        "outcome": np.array(outcome, np.str_),
    }
