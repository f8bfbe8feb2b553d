"""The published protocols: which maps and boxes each metric is shown, and what it reports."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from wsol_ext.metrics.corloc import CorLoc
from wsol_ext.metrics.ground_truth import first_boxes
from wsol_ext.metrics.maps import distinct_maps, to_score_maps
from wsol_ext.metrics.max_box_acc import MaxBoxAcc, MaxBoxAccV2, score_thresholds
from wsol_ext.metrics.pxap import PxAP
from wsol_ext.metrics.registry import (
    EVALUATED,
    Batch,
    Curve,
    Protocol,
    register_protocol,
    scale_boxes,
)
from wsol_ext.metrics.sat import SatLocalizationAccuracy
from wsol_ext.metrics.toploc import LocalizationAccuracy, single_boxes

__all__ = [
    "CANDIDATES",
    "CorLocProtocol",
    "MaxBoxAccProtocol",
    "MaxBoxAccV2Protocol",
    "PixelPrecision",
    "SatLocalization",
    "TopLoc",
]

_LOCALIZATION_LABELS: Mapping[str, str] = {
    "cls_top1": "Top-1 classification",
    "cls_top5": "Top-5 classification",
    "loc_top1": "Top-1 localization",
    "loc_top5": "Top-5 localization",
    "gt_known": "GT-known localization",
}
CANDIDATES = tuple(k / 20 for k in range(1, 20))
"""The thresholds, 0.05 to 0.95, that the best one for `toploc` and `corloc` is chosen from."""


class _BoxAccuracy(Protocol):
    """The best threshold's accuracy of the true class's map."""

    metric: MaxBoxAcc | MaxBoxAccV2
    upsampling = "bicubic"

    def settings(self) -> dict[str, Any]:
        """The interval of thresholds, and by which images one of them was chosen."""
        return {
            "upsampling": self.upsampling,
            "interval": self.metric.interval,
            "chosen": self.chosen,
        }

    def candidates(self) -> dict[str, Sequence[float]]:
        """All thresholds, for each IoU."""
        tried = score_thresholds(self.metric.interval).tolist()
        return {f"IoU {iou:g}": tried for iou in self.metric.iou_thresholds}

    def judge(self, batch: Batch) -> Tensor:
        """Score maps of the true class, upsampled and normalized, against the boxes."""
        maps = distinct_maps(batch.maps).double()
        score_maps = to_score_maps(maps, EVALUATED).expand(len(batch.labels), -1, -1)
        return self.metric.judge(score_maps, scale_boxes(batch.boxes, batch.sizes, self.name))

    def numbers(
        self, sums: Tensor, images: Tensor | int, at: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The protocol's number, each IoU's own maximum, and the threshold it is reached at."""
        at = self.metric.best_of(sums) if at is None else at
        shares = self.metric.shares_of(sums, images, at)
        thresholds = score_thresholds(self.metric.interval, sums.device)[at]
        values = {self.name: shares.mean(dim=-1)}
        for row, iou in enumerate(self.metric.iou_thresholds):
            if len(self.metric.iou_thresholds) > 1:
                values[f"IoU {iou:g}"] = shares[..., row]
            values[f"best threshold, IoU {iou:g}"] = thresholds[..., row]
        return values

    def curves(self) -> dict[str, Curve]:
        """A curve an IoU."""
        curve = self.metric.curve()
        thresholds = curve.thresholds.tolist()
        return {
            f"IoU {iou:g}": Curve(thresholds, curve.accuracy[row].tolist())
            for row, iou in enumerate(curve.iou_thresholds.tolist())
        }


@register_protocol("maxboxacc")
class MaxBoxAccProtocol(_BoxAccuracy):
    """`maxboxacc`: the largest contour's box, at IoU 0.5."""

    headlines = best_by = ("maxboxacc",)
    labels: ClassVar[Mapping[str, str]] = {"maxboxacc": "MaxBoxAcc"}

    def __init__(self, interval: float) -> None:
        super().__init__(MaxBoxAcc(interval))


@register_protocol("maxboxaccv2")
class MaxBoxAccV2Protocol(_BoxAccuracy):
    """`maxboxaccv2`: all contours' boxes, the mean over IoU 0.3, 0.5 and 0.7."""

    headlines = best_by = ("maxboxaccv2",)
    labels: ClassVar[Mapping[str, str]] = {"maxboxaccv2": "MaxBoxAccV2"}

    def __init__(self, interval: float) -> None:
        super().__init__(MaxBoxAccV2(interval))


class _Localization(Protocol):
    """Top-1, Top-5 and GT-known; of a source without class predictions, what needs none."""

    metric: LocalizationAccuracy | SatLocalizationAccuracy
    upsampling = "bilinear"
    headlines = ("cls_top1", "loc_top1", "loc_top5", "gt_known")
    best_by: ClassVar[tuple[str, ...]] = ("gt_known",)
    labels: ClassVar[Mapping[str, str]] = _LOCALIZATION_LABELS
    traits = ("predicts_classes",)
    predicts_classes = True

    def judge(self, batch: Batch) -> Tensor:
        """The true class's map and the class scores against labels and boxes."""
        self.predicts_classes = batch.logits is not None
        boxes = scale_boxes(batch.boxes, batch.sizes, self.name)
        return self._judge(batch.maps.float(), batch.logits, batch.labels, boxes)

    def _judge(
        self, maps: Tensor, logits: Tensor | None, labels: Tensor, boxes: list[Tensor]
    ) -> Tensor:
        return self.metric.judge(maps, logits, labels, boxes)

    def numbers(
        self, sums: Tensor, images: Tensor | int, at: Tensor | None = None
    ) -> dict[str, Tensor]:
        """All shares; without class predictions those that need none."""
        shares = self.metric.of_sums(sums, images, at)
        return shares if self.predicts_classes else {"gt_known": shares["gt_known"]}


@register_protocol("toploc")
class TopLoc(_Localization):
    """`toploc`: at one threshold, or at the best of several, which `settings` says then.

    Args:
        threshold: a share of each map's maximum; "best": the one of `CANDIDATES` with the highest GT-known on the
            evaluated images themselves.
    """

    metric: LocalizationAccuracy
    labels: ClassVar[Mapping[str, str]] = {
        **_LOCALIZATION_LABELS,
        "right": "right",
        "class_wrong": "wrong class",
        "multi_instance": "several objects in one box",
        "part": "part of the object only",
        "more": "object and much more",
        "other": "elsewhere",
    }
    columns: ClassVar[Mapping[str, str]] = {
        "cls_top1": "top-1 class",
        "loc_top1": "toploc Top-1",
        "gt_known": "toploc GT-known",
    }

    def __init__(self, threshold: float | str) -> None:
        self.chooses = threshold == "best"
        super().__init__(LocalizationAccuracy(CANDIDATES if self.chooses else float(threshold)))

    @staticmethod
    def frame(boxes: Tensor, sides: Tensor, size: int) -> Tensor:
        """TS-CAM's program: limited to the square."""
        return _limited(boxes / sides * size, size)

    def settings(self) -> dict[str, Any]:
        """The threshold, and where it comes from."""
        return _cut_at(self)

    def candidates(self) -> dict[str, Sequence[float]]:
        """Where nobody gave a threshold, all of them."""
        return {"threshold": self.metric.thresholds} if self.chooses else {}

    def _judge(
        self, maps: Tensor, logits: Tensor | None, labels: Tensor, boxes: list[Tensor]
    ) -> Tensor:
        # In float32 whatever the network computed in; one map for each image, the true class's.
        logits = None if logits is None else logits.float()
        return self.metric.judge(maps.unsqueeze(1), logits, labels, boxes)


@register_protocol("sat")
class SatLocalization(_Localization):
    """`sat`: on crops, at the one of four thresholds that is best for the source."""

    metric: SatLocalizationAccuracy
    view = "crops"
    best_by = ("gt_known", "loc_top1")
    chooses = True
    columns: ClassVar[Mapping[str, str]] = {"loc_top1": "sat Top-1", "gt_known": "sat GT-known"}

    def __init__(self) -> None:
        super().__init__(SatLocalizationAccuracy(size=EVALUATED))

    @staticmethod
    def frame(boxes: Tensor, sides: Tensor, size: int) -> Tensor:
        """SAT's program: resized to more than the square, whose centre is cut out."""
        resize = round(size * 256 / 224)
        return _limited(boxes / sides * resize - (resize - size) // 2, size)

    def settings(self) -> dict[str, Any]:
        """The threshold, and that it was chosen on the evaluated images, as the protocol has it, or on others."""
        candidates = ", ".join(f"{threshold:g}" for threshold in self.metric.thresholds)
        return {**_cut_at(self), "chosen": f"from {candidates} {self.chosen}"}

    def candidates(self) -> dict[str, Sequence[float]]:
        """The four."""
        return {"threshold": self.metric.thresholds}


@register_protocol("pxap")
class PixelPrecision(Protocol):
    """`pxap`: average precision of the true class's map over pixels, against masks."""

    metric: PxAP
    needs = "masks"
    upsampling = "bicubic"
    headlines = ("pxap",)
    labels: ClassVar[Mapping[str, str]] = {"pxap": "PxAP"}
    columns: ClassVar[Mapping[str, str]] = {}  # few data sets have masks

    def __init__(self, interval: float) -> None:
        super().__init__(PxAP(interval))

    def settings(self) -> dict[str, Any]:
        """The width of the score bins."""
        return {"upsampling": self.upsampling, "interval": self.metric.interval}

    def judge(self, batch: Batch) -> Tensor:
        """Score maps of the true class against masks, both on the protocol's square."""
        maps = to_score_maps(batch.maps.float(), EVALUATED)
        assert batch.masks is not None  # evaluate() has checked the data
        masks = F.interpolate(batch.masks[:, None].float(), EVALUATED, mode="nearest")[:, 0]
        return self.metric.judge(maps, masks.to(torch.uint8))

    def numbers(
        self, sums: Tensor, images: Tensor | int, at: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The average precision."""
        return {"pxap": self.metric.of_sums(sums, images)}


@register_protocol("corloc")
class CorLocProtocol(Protocol):
    """`corloc`: one box an image at IoU 0.5, in pixels of the image: the source's own, or its map's largest contour's.

    Args:
        threshold: as of `toploc`; boxes that are given have none.
    """

    metric: CorLoc
    takes_boxes = True
    upsampling = "bilinear"
    headlines = best_by = ("corloc",)
    labels: ClassVar[Mapping[str, str]] = {"corloc": "CorLoc"}
    traits = ("cuts_maps",)

    def __init__(self, threshold: float | str) -> None:
        self.chooses, self.cuts_maps = threshold == "best", True
        super().__init__(CorLoc(CANDIDATES if self.chooses else [float(threshold)]))

    def settings(self) -> dict[str, Any]:
        """The threshold, and where it comes from."""
        return _cut_at(self) if self.cuts_maps else {}

    def candidates(self) -> dict[str, Sequence[float]]:
        """Where maps are cut and nobody gave a threshold, all of them."""
        return {"threshold": self.metric.thresholds} if self.chooses and self.cuts_maps else {}

    def judge(self, batch: Batch) -> Tensor:
        """The best box of each image against its true ones."""
        if batch.found is not None:
            self.cuts_maps = False
            best = first_boxes(batch.found)
            return self.metric.judge(best.to(self.metric.device), batch.boxes)
        score_maps = to_score_maps(distinct_maps(batch.maps).float(), EVALUATED, "bilinear")
        cut = torch.stack([single_boxes(score_maps, at) for at in self.metric.thresholds], dim=1)
        sides = batch.sizes.to(cut.device, torch.float64).repeat(1, 2)[:, None]
        return self.metric.judge(cut * sides / EVALUATED, batch.boxes)

    def numbers(
        self, sums: Tensor, images: Tensor | int, at: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The share."""
        return self.metric.of_sums(sums, images, at)


def _cut_at(protocol: TopLoc | SatLocalization | CorLocProtocol) -> dict[str, Any]:
    """The settings of a protocol of one threshold."""
    given = not protocol.chooses
    threshold = protocol.metric.thresholds[0] if given else protocol.thresholds()["threshold"]
    return {
        "upsampling": protocol.upsampling,
        "threshold": float(threshold),
        "chosen": "beforehand" if given else protocol.chosen,
    }


def _limited(boxes: Tensor, size: int) -> Tensor:
    """Boxes (G, 4): x0, y0 at least 0, x1, y1 at most size - 1."""
    return torch.cat([boxes[:, :2].clamp(min=0), boxes[:, 2:].clamp(max=size - 1)], dim=1)
