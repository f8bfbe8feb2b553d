"""Top-1, Top-5 and GT-known localization at one threshold, and what kind of error each image is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wsol_ext import ops
from wsol_ext.metrics.at_best_threshold import AtBestThreshold
from wsol_ext.metrics.ground_truth import Boxes, ground_truth
from wsol_ext.metrics.maps import distinct_maps, to_score_maps
from wsol_ext.ops.boxes import shared_area

__all__ = [
    "OUTCOMES",
    "SHARES",
    "LocalizationAccuracy",
    "cut_maps",
    "localization_outcomes",
    "single_boxes",
    "true_class_maps",
    "true_class_ranks",
]

OUTCOMES = ("right", "class_wrong", "multi_instance", "part", "more", "other")
"""The kinds of a top-1 prediction; each image's is exactly one of them."""
SHARES = ("cls_top1", "cls_top5", "loc_top1", "loc_top5", "gt_known", *OUTCOMES)
"""What `LocalizationAccuracy` reports."""


def single_boxes(score_maps: Tensor, threshold: float | Tensor) -> Tensor:
    """The one box of each score map, as TS-CAM's program (Gao et al., ICCV 2021) cuts it.

    Args:
        score_maps: (B, h, w) in [0, 1].
        threshold: share of the quantized map's maximum above which a pixel is foreground, in [0, 1); or (B,) float64,
            each map's own, such as `otsu_thresholds` gives.

    Returns:
        (B, 4) int32: x0, y0, x1, y1 of the largest contour, x1 and y1 one past its last pixel and not clipped; [0, 0,
        1, 1] where nothing is foreground.

    Raises:
        ValueError: scores that are NaN or outside of [0, 1], a threshold outside of [0, 1), or another number of them
            than of maps.

    Example:
        >>> score_map = torch.zeros(2, 8, 8)
        >>> score_map[0, 2:5, 1:6] = 1.0
        >>> single_boxes(score_map, 0.1).tolist()
        [[1, 2, 6, 5], [0, 0, 1, 1]]
    """
    if isinstance(threshold, Tensor):
        score_maps, threshold = cut_maps(score_maps, threshold), 0.5
    return _boxes_at(score_maps, [threshold])[:, 0]


def _boxes_at(score_maps: Tensor, thresholds: Sequence[float]) -> Tensor:
    """What `single_boxes` gives at each threshold: (B, T, 4)."""
    at = torch.tensor(thresholds, dtype=torch.float64, device=score_maps.device)
    boxes = ops.extract_boxes(score_maps, at)
    return torch.where((boxes == 0).all(dim=2, keepdim=True), boxes.new_tensor([0, 0, 1, 1]), boxes)


def cut_maps(score_maps: Tensor, thresholds: Tensor) -> Tensor:
    """What `ops.extract_boxes` takes for foreground, (B, h, w) float16 of 0 and 1, at a threshold (B,) a map."""
    name = "single_boxes"
    if thresholds.shape != score_maps.shape[:1]:
        raise ValueError(
            f"{name}: threshold has shape {tuple(thresholds.shape)}, it should be a number or ({len(score_maps)},)"
        )
    if not ((thresholds >= 0) & (thresholds < 1)).all():
        raise ValueError(f"{name}: threshold has values outside of [0, 1)")
    if not ((score_maps >= 0) & (score_maps <= 1)).all():
        raise ValueError(f"{name}: score_maps has values that are NaN or outside of [0, 1]")
    levels = (255 * score_maps.double()).floor()
    cuts = (thresholds.to(levels) * levels.amax(dim=(1, 2))).floor()
    return (levels > cuts[:, None, None]).half()


def true_class_maps(class_maps: Tensor, labels: Tensor, classes: Tensor | None = None) -> Tensor:
    """Of each image's maps, that of its true class.

    Args:
        class_maps: (B, K, h, w).
        labels: (B,) the true classes.
        classes: (B, K), which class each map is of. None: map k is class k's, or with K = 1 the map is all classes'.

    Returns:
        (B, h, w).

    Raises:
        ValueError: shapes that do not fit, or a true class that no map is of.

    Example:
        >>> class_maps = torch.arange(3.0).view(1, 3, 1, 1)
        >>> true_class_maps(class_maps, torch.tensor([7]), classes=torch.tensor([[5, 7, 9]]))
        tensor([[[1.]]])
    """
    name = "true_class_maps"
    if class_maps.dim() != 4 or labels.shape != class_maps.shape[:1]:
        raise ValueError(
            f"{name}: class_maps has shape {tuple(class_maps.shape)} and labels {tuple(labels.shape)}, "
            "they should be (B, K, h, w) and (B,)"
        )
    batch, count = class_maps.shape[:2]
    if classes is not None:
        if classes.shape != (batch, count):
            raise ValueError(
                f"{name}: classes has shape {tuple(classes.shape)}, it should be ({batch}, {count}), "
                "a class for each map"
            )
        found = classes == labels[:, None]
        missing = ~found.any(dim=1)
        if missing.any():
            first = int(missing.nonzero()[0])
            raise ValueError(
                f"{name}: classes[{first}] is {classes[first].tolist()}, it should hold the true class, {labels[first]}"
            )
        place = found.int().argmax(dim=1)
    elif count == 1:
        return class_maps[:, 0]
    else:
        place = labels
    if batch > 0 and not 0 <= int(place.min()) <= int(place.max()) < count:
        raise ValueError(
            f"{name}: labels go from {place.min()} to {place.max()}, there are {count} class maps"
        )
    return class_maps[torch.arange(batch, device=class_maps.device), place]


def true_class_ranks(name: str, logits: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Check logits (B, C) and labels (B,); whether the true class is the best, and among the five best: (B,) bool.

    Where no classes are predicted, logits being None, it is neither.
    """
    if logits is None:
        return torch.zeros_like(labels, dtype=torch.bool), torch.zeros_like(
            labels, dtype=torch.bool
        )
    if torch.isnan(logits).any():
        raise ValueError(f"{name}: logits has a NaN, it should have none")
    if len(labels) > 0 and not 0 <= int(labels.min()) <= int(labels.max()) < logits.size(1):
        raise ValueError(
            f"{name}: labels go from {labels.min()} to {labels.max()}, logits has {logits.size(1)} classes"
        )
    ranks = logits.topk(min(5, logits.size(1)), dim=1).indices == labels[:, None]
    return ranks[:, 0], ranks.any(dim=1)


def localization_outcomes(
    boxes: Tensor, logits: Tensor | None, labels: Tensor, gt_boxes: Boxes
) -> dict[str, Tensor]:
    """What TS-CAM's program (Gao et al., ICCV 2021) says of each image.

    GT-known asks for IoU >= 0.5 of the true class's box with any ground-truth box, Top-k for IoU > 0.5 and the true
    class among the k best logits. IoU counts both end pixels. A top-1 prediction is the first of these that fits:

    | outcome | when |
    | --- | --- |
    | `class_wrong` | the best logit is another class's |
    | `right` | IoU > 0.5 |
    | `multi_instance` | several ground-truth boxes, and more than one covered by more than 0.3 of its area |
    | `part` | more than half of the predicted box lies inside the best ground-truth box |
    | `more` | at least 0.7 of the best ground-truth box is covered |
    | `other` | none of these |

    Args:
        boxes: (B, 4), the true class's predicted box, such as `single_boxes` gives.
        logits: (B, C); None where no classes are predicted: none is right then.
        labels: (B,) the true classes.
        gt_boxes: B tensors (G_i, 4), or (B, G, 4) with rows of -1 as padding, in the frame of `boxes`.

    Returns:
        For each of `SHARES` a (B,) bool tensor.

    Raises:
        ValueError: shapes that do not fit, logits with a NaN, labels that are no classes, or an image without a box.

    Example:
        >>> outcomes = localization_outcomes(
        ...     torch.tensor([[0, 0, 9, 9], [0, 0, 3, 9]]),
        ...     torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        ...     torch.tensor([0, 1]),
        ...     [torch.tensor([[0, 0, 9, 8]]), torch.tensor([[0, 0, 9, 9]])],
        ... )
        >>> outcomes["right"].tolist(), outcomes["part"].tolist()
        ([True, False], [False, True])
    """
    name = "localization_outcomes"
    batch = boxes.size(0)
    classes = (batch, 0) if logits is None else logits.shape
    if (
        boxes.shape != (batch, 4)
        or len(classes) != 2
        or classes[0] != batch
        or labels.shape != (batch,)
    ):
        raise ValueError(
            f"{name}: boxes has shape {tuple(boxes.shape)}, logits {tuple(classes)} and labels "
            f"{tuple(labels.shape)}, they should be (B, 4), (B, C) and (B,)"
        )
    cls_top1, cls_top5 = true_class_ranks(name, logits, labels)
    truth = ground_truth(name, gt_boxes, boxes).to(torch.float64)
    predicted = boxes.to(torch.float64)[:, None]
    real = (truth != -1).any(dim=2)
    ious = torch.where(real, ops.box_iou(predicted, truth)[:, 0], -1)
    iou, best = ious.max(dim=1)  # the first of equals
    shared = shared_area(predicted, truth)
    covered = shared / shared_area(truth, truth)

    fits = iou > 0.5
    best_shared = shared.gather(1, best[:, None])[:, 0]
    kinds = {
        "class_wrong": ~cls_top1,
        "right": fits,
        "multi_instance": (real.sum(dim=1) > 1) & ((covered > 0.3) & real).sum(dim=1).gt(1),
        "part": best_shared / shared_area(predicted, predicted)[:, 0] > 0.5,
        "more": covered.gather(1, best[:, None])[:, 0] >= 0.7,
        "other": torch.ones_like(fits),
    }
    outcomes = {
        "cls_top1": cls_top1,
        "cls_top5": cls_top5,
        "loc_top1": cls_top1 & fits,
        "loc_top5": cls_top5 & fits,
        "gt_known": iou >= 0.5,
    }
    left = torch.ones_like(fits)
    for kind, applies in kinds.items():
        outcomes[kind] = left & applies
        left = left & ~applies
    return {key: outcomes[key] for key in SHARES}


class LocalizationAccuracy(AtBestThreshold):
    """Top-1, Top-5 and GT-known localization: the `toploc` protocol of TS-CAM's program (Gao et al., ICCV 2021).

    Of each image only the true class's map matters: `loc_top5` asks whether the true class is among the five best
    logits and *its* box fits. So `classes=labels[:, None]` with that one map an image is enough, and no method has to
    form all maps.

    Args:
        threshold: share of a map's maximum above which a pixel is foreground: 0.1 for CUB, 0.12 for ILSVRC in TS-CAM's
            program, 0.1 in TRT's. Of several, all shares are those at the one where GT-known is highest on the counted
            images themselves, the first of equals: a threshold chosen on the test set should be said to be.
        size: side of the evaluated picture in pixels, the frame of `gt_boxes`.
        options: those of `torchmetrics.Metric`.

    Raises:
        ValueError: no threshold, or one outside of [0, 1).

    Example:
        >>> metric = LocalizationAccuracy(threshold=0.1, size=8)
        >>> class_maps = torch.zeros(1, 3, 8, 8)
        >>> class_maps[0, 2, 2:5, 1:6] = 1.0
        >>> logits, labels = torch.tensor([[0.1, 0.2, 0.9]]), torch.tensor([2])
        >>> metric.update(class_maps, logits, labels, [torch.tensor([[1, 2, 6, 5]])])
        >>> shares = metric.compute()
        >>> shares["loc_top1"].item(), shares["right"].item(), shares["part"].item()
        (1.0, 1.0, 0.0)
    """

    shares = SHARES
    best_by = ("gt_known",)

    def __init__(
        self, threshold: float | Sequence[float] = 0.1, size: int = 224, **options: Any
    ) -> None:
        thresholds = tuple(threshold) if isinstance(threshold, Sequence) else (threshold,)
        if len(thresholds) == 0 or not all(0 <= each < 1 for each in thresholds):
            raise ValueError(
                f"LocalizationAccuracy: threshold is {threshold}, it should lie in [0, 1)"
            )
        super().__init__(thresholds, **options)
        self.size = size

    def judge(
        self,
        class_maps: Tensor,
        logits: Tensor | None,
        labels: Tensor,
        gt_boxes: Boxes,
        classes: Tensor | None = None,
    ) -> Tensor:
        """At which thresholds each image of a batch counts for each of `SHARES`: (B, T, 11) bool.

        Args:
            class_maps: (B, K, h, w) on any grid, with any values: upsampled (bilinear) and min-max normalized here.
            logits: (B, C); None where no classes are predicted: none is right then.
            labels: (B,) the true classes.
            gt_boxes: B tensors (G_i, 4), or (B, G, 4) with rows of -1 as padding: `scale_boxes(boxes, sizes,
                "toploc", size)`.
            classes: (B, K), which class each map is of; the true class must be among them. None: K = C, or K = 1 for a
                map that is the same for every class (SAT, TRT's first stage).

        Raises:
            ValueError: shapes that do not fit, a true class without a map, NaN logits, or an image without a box.
        """
        count = 1 if logits is None else logits.size(-1)
        if classes is None and class_maps.dim() == 4 and class_maps.size(1) not in (1, count):
            raise ValueError(
                f"LocalizationAccuracy: class_maps has {class_maps.size(1)} maps an image and logits {count} classes; "
                "classes should say which class each map is of"
            )
        maps = true_class_maps(class_maps, labels, classes)
        score_maps = to_score_maps(distinct_maps(maps), self.size, "bilinear")
        cuts = _boxes_at(score_maps, self.thresholds).expand(len(maps), -1, -1)
        verdicts = []
        for boxes in cuts.unbind(dim=1):
            outcomes = localization_outcomes(boxes, logits, labels, gt_boxes)
            verdicts.append(torch.stack([outcomes[key] for key in SHARES], dim=1))
        return torch.stack(verdicts, dim=1)
