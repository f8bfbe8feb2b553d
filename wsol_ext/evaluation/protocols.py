"""The protocols by name: which maps and boxes each metric is shown, and what it reports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from wsol_ext import metrics
from wsol_ext.data import EvalViews, Transform, eval_transform
from wsol_ext.data.transforms import ImageSize
from wsol_ext.evaluation.results import Curve

EVALUATED = 224
"""The side of the square that all of these protocols evaluate on."""


View = Literal["whole", "crops"]
"""What of each picture a protocol looks at: the whole, resized to the network's square input; or crops of a square
larger by 256 / 224, the map of the centre and class scores over ten."""
VIEWS: tuple[View, ...] = ("whole", "crops")


@dataclass
class Batch:
    """A batch as protocols see it, in the view they ask for.

    Attributes:
        maps: (B, h, w), the true class's score maps as the model gives them, on its grid.
        logits: (B, C), over ten crops the logarithm of the mean probability; None for a source that predicts no
            classes.
        labels: (B,) int64.
        boxes: for each image (G, 4), pixels of the original; on the CPU, whatever the rest is on.
        sizes: (B, 2), the originals' width and height; likewise.
        masks: (B, h, w) uint8 where the data has masks.
    """

    maps: Tensor
    logits: Tensor | None
    labels: Tensor
    boxes: list[Tensor]
    sizes: Tensor
    masks: Tensor | None


class Protocol:
    """One protocol over one source of maps: fed batches, asked for numbers at the end.

    Attributes:
        needs: "boxes" or "masks", what the data must have.
        view: what of each picture it looks at.
    """

    needs = "boxes"
    view: View = "whole"

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on beside the protocol's name."""
        raise NotImplementedError

    def update(self, batch: Batch) -> None:
        """Take in a batch."""
        raise NotImplementedError

    def to(self, device: torch.device) -> None:
        """Keep the metrics' states on a device."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """The metrics over everything seen, by all processes: shares in [0, 1]."""
        raise NotImplementedError

    def curves(self) -> dict[str, Curve]:
        """Accuracy over the threshold, by IoU; a curve's one line is named ""."""
        return {}


class BoxAccuracy(Protocol):
    """`maxboxacc` and `maxboxaccv2`: the best threshold's accuracy of the true class's map."""

    def __init__(self, name: str, interval: float) -> None:
        kinds = {"maxboxacc": metrics.MaxBoxAcc, "maxboxaccv2": metrics.MaxBoxAccV2}
        self.name, self.interval = name, interval
        self.metric = kinds[name](interval=interval)

    def settings(self) -> dict[str, Any]:
        """The interval of thresholds; the maximum is over the evaluated images themselves."""
        return {"interval": self.interval}

    def to(self, device: torch.device) -> None:
        """Keep the metric's states on a device."""
        self.metric.to(device)

    def update(self, batch: Batch) -> None:
        """Score maps of the true class, upsampled and normalized, against the boxes."""
        maps = metrics.to_score_maps(batch.maps.double(), EVALUATED)
        boxes = metrics.scale_boxes(batch.boxes, batch.sizes, protocol=self.name)
        self.metric.update(maps, boxes)

    def compute(self) -> dict[str, float]:
        """The protocol's number, each IoU's own maximum, and the threshold it is reached at."""
        values = {self.name: float(self.metric.compute())}
        curve, best = self.metric.curve(), self.metric.best_thresholds()
        for row, iou in enumerate(curve.iou_thresholds.tolist()):
            if len(curve.iou_thresholds) > 1:
                values[f"IoU {iou:g}"] = float(curve.accuracy[row].max())
            values[f"best threshold, IoU {iou:g}"] = float(best[row])
        return values

    def curves(self) -> dict[str, Curve]:
        """A curve an IoU."""
        curve = self.metric.curve()
        thresholds = curve.thresholds.tolist()
        return {
            f"IoU {iou:g}": Curve(thresholds, {"": curve.accuracy[row].tolist()})
            for row, iou in enumerate(curve.iou_thresholds.tolist())
        }


class TopLoc(Protocol):
    """`toploc`: Top-1, Top-5 and GT-known at one threshold, or at the best of several.

    Args:
        threshold: a share of each map's maximum; "best": the one of 0.05, 0.1, …, 0.95 with the
            highest GT-known on the evaluated images themselves, and `settings` says so.
    """

    def __init__(self, threshold: float | str) -> None:
        self.chosen = threshold == "best"
        candidates = [k / 20 for k in range(1, 20)] if self.chosen else [float(threshold)]
        self.metric = _Sweep(candidates)
        self.predicts_classes = True

    def settings(self) -> dict[str, Any]:
        """The threshold, and where it comes from."""
        threshold, _ = self.metric.best()
        return {
            "threshold": threshold,
            **({"chosen": "on the evaluated images"} if self.chosen else {}),
        }

    def to(self, device: torch.device) -> None:
        """Keep the metric's states on a device."""
        self.metric.to(device)

    def update(self, batch: Batch) -> None:
        """The true class's map and logits against labels and boxes."""
        logits = batch.logits
        if logits is None:
            self.predicts_classes = False
            logits = batch.maps.new_zeros(len(batch.labels), int(batch.labels.max()) + 1)
        boxes = metrics.scale_boxes(batch.boxes, batch.sizes, protocol="toploc")
        self.metric.update(batch.maps.float(), logits.float(), batch.labels, boxes)

    def compute(self) -> dict[str, float]:
        """All shares; without class predictions those that need none."""
        _, shares = self.metric.best()
        return shares if self.predicts_classes else {"gt_known": shares["gt_known"]}


class _Sweep(Metric):
    """`metrics.LocalizationAccuracy` at several thresholds, each map upsampled and traced once."""

    full_state_update = False
    counts: Tensor
    images: Tensor

    def __init__(self, thresholds: list[float]) -> None:
        super().__init__()
        self.thresholds = thresholds
        counts = torch.zeros(len(thresholds), len(metrics.SHARES), dtype=torch.int64)
        self.add_state("counts", counts, dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, maps: Tensor, logits: Tensor, labels: Tensor, gt_boxes: list[Tensor]) -> None:
        """Count a batch: maps (B, h, w) of the true class."""
        # The baseline is one map for all images: an expanded tensor.
        distinct = maps[:1] if maps.stride(0) == 0 else maps
        score_maps = metrics.to_score_maps(distinct, EVALUATED, "bilinear")
        for row, threshold in enumerate(self.thresholds):
            boxes = metrics.single_boxes(score_maps, threshold).expand(len(maps), -1)
            outcomes = metrics.localization_outcomes(boxes, logits, labels, gt_boxes)
            self.counts[row] += torch.stack([outcomes[key].sum() for key in metrics.SHARES])
        self.images += len(labels)

    def compute(self) -> Tensor:
        """(thresholds, shares) in [0, 1]."""
        return self.counts.double() / self.images

    def best(self) -> tuple[float, dict[str, float]]:
        """The threshold of highest GT-known, the lowest of equals, and the shares there."""
        shares = self.compute()
        row = int(shares[:, metrics.SHARES.index("gt_known")].argmax())
        return self.thresholds[row], dict(zip(metrics.SHARES, shares[row].tolist(), strict=True))


class SatLocalization(Protocol):
    """`sat`: Top-1, Top-5 and GT-known on crops, at the one of four thresholds that is best for the source."""

    view = "crops"

    def __init__(self) -> None:
        self.metric = metrics.SatLocalizationAccuracy(size=EVALUATED)
        self.predicts_classes = True

    def settings(self) -> dict[str, Any]:
        """The threshold, and that it was chosen on the evaluated images themselves, as the protocol has it."""
        candidates = ", ".join(f"{threshold:g}" for threshold in self.metric.thresholds)
        return {
            "threshold": float(self.metric.best_threshold()),
            "chosen": f"from {candidates} on the evaluated images",
        }

    def to(self, device: torch.device) -> None:
        """Keep the metric's states on a device."""
        self.metric.to(device)

    def update(self, batch: Batch) -> None:
        """The true class's map of the centre crop and the ten-crop class scores against labels and boxes."""
        self.predicts_classes = batch.logits is not None
        boxes = metrics.scale_boxes(batch.boxes, batch.sizes, protocol="sat", size=EVALUATED)
        self.metric.update(batch.maps.float(), batch.logits, batch.labels, boxes)

    def compute(self) -> dict[str, float]:
        """All shares; without class predictions those that need none."""
        shares = {name: float(share) for name, share in self.metric.compute().items()}
        return shares if self.predicts_classes else {"gt_known": shares["gt_known"]}


class PixelPrecision(Protocol):
    """`pxap`: average precision of the true class's map over pixels, against masks."""

    needs = "masks"

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.metric = metrics.PxAP(interval=interval)

    def settings(self) -> dict[str, Any]:
        """The width of the score bins."""
        return {"interval": self.interval}

    def to(self, device: torch.device) -> None:
        """Keep the metric's states on a device."""
        self.metric.to(device)

    def update(self, batch: Batch) -> None:
        """Score maps of the true class against masks, both on the protocol's square."""
        maps = metrics.to_score_maps(batch.maps.float(), EVALUATED)
        assert batch.masks is not None  # evaluate() has checked the data
        masks = F.interpolate(batch.masks[:, None].float(), EVALUATED, mode="nearest")[:, 0]
        self.metric.update(maps, masks.to(torch.uint8))

    def compute(self) -> dict[str, float]:
        """The average precision."""
        return {"pxap": float(self.metric.compute())}


PROTOCOLS: dict[str, Callable[[float, float | str], Protocol]] = {
    "maxboxacc": lambda interval, threshold: BoxAccuracy("maxboxacc", interval),
    "maxboxaccv2": lambda interval, threshold: BoxAccuracy("maxboxaccv2", interval),
    "toploc": lambda interval, threshold: TopLoc(threshold),
    "sat": lambda interval, threshold: SatLocalization(),
    "pxap": lambda interval, threshold: PixelPrecision(interval),
}
"""For each protocol's name, what makes one from the interval and the threshold."""


def transform_for(protocols: Sequence[str], img_size: ImageSize = 224) -> Transform:
    """The transform that a data set needs for these protocols.

    Args:
        protocols: names out of `PROTOCOLS`; others are left to `evaluate` to refuse.
        img_size: side of the network's input, in pixels, or (height, width).

    Returns:
        `wsol_ext.data.EvalViews` where one of them looks at crops (`sat`), else `wsol_ext.data.eval_transform`.

    Example:
        >>> transform_for(["toploc", "sat"])(torch.zeros(3, 90, 120, dtype=torch.uint8)).keys()
        dict_keys(['image', 'uncropped'])
    """
    known = [PROTOCOLS[name](0.5, 0.5) for name in protocols if name in PROTOCOLS]
    crops = any(protocol.view == "crops" for protocol in known)
    return EvalViews(img_size) if crops else eval_transform(img_size)
