"""MaxBoxAcc and MaxBoxAccV2: the share of images whose box fits, at the best threshold of all."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsol_ext import ops
from wsol_ext.metrics.ground_truth import Boxes, ground_truth
from wsol_ext.metrics.verdicts import SumOfVerdicts

__all__ = [
    "BoxAccCurve",
    "MaxBoxAcc",
    "MaxBoxAccV2",
    "count_right_boxes",
    "right_boxes",
    "score_thresholds",
]


class BoxAccCurve(NamedTuple):
    """Accuracy over thresholds: what MaxBoxAcc takes the maximum of."""

    thresholds: Tensor
    """(T,) float64: where the score maps were cut."""
    iou_thresholds: Tensor
    """(D,) float64: from which IoU on a box is right."""
    accuracy: Tensor
    """(D, T) float64: the share of right images."""


def score_thresholds(interval: float, device: torch.device | None = None) -> Tensor:
    """The thresholds at which the evaluators cut a score map: 0, interval, 2 interval … below 1.

    Args:
        interval: the step, in (0, 1); part of a result's name, since finer steps give higher maxima.
        device: where the tensor lies.

    Returns:
        (T,) float64, equal to `numpy.arange(0, 1, interval)`.

    Raises:
        ValueError: an interval outside (0, 1).

    Example:
        >>> score_thresholds(0.25)
        tensor([0.0000, 0.2500, 0.5000, 0.7500], dtype=torch.float64)
    """
    if not 0 < interval < 1:
        raise ValueError(f"score_thresholds: interval is {interval}, it should lie between 0 and 1")
    # Not torch.arange, whose multiples differ in the last bit: a threshold times the maximum may be an integer.
    return torch.from_numpy(np.arange(0, 1, interval)).to(device)


def right_boxes(
    score_maps: Tensor,
    gt_boxes: Boxes,
    thresholds: Tensor,
    iou_thresholds: Sequence[float],
    contours: Literal["largest", "all"] = "largest",
) -> Tensor:
    """Whether each image has a box that fits, at every threshold and IoU.

    An image is right where the best IoU of its boxes (`ops.best_box_iou`) with any ground-truth box is at least the
    asked one.

    Args:
        score_maps: (B, h, w) in [0, 1].
        gt_boxes: B tensors (G_i, 4), or (B, G, 4) with rows of -1 as padding, in pixels of the score maps.
        thresholds: (T,) float64 in [0, 1).
        iou_thresholds: D numbers in (0, 1].
        contours: "largest" for MaxBoxAcc, "all" for MaxBoxAccV2.

    Returns:
        (B, D, T) bool.

    Raises:
        ValueError: shapes that do not fit, scores that are NaN or outside of [0, 1], or an image without a box.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:5, 1:6] = 1.0
        >>> right_boxes(score_map, [torch.tensor([[1, 2, 6, 5]])], score_thresholds(0.5), [0.5, 1.0])
        tensor([[[True, True],
                 [True, True]]])
    """
    name = "right_boxes"
    if score_maps.dim() != 3:
        raise ValueError(
            f"{name}: score_maps has shape {tuple(score_maps.shape)}, it should be (B, h, w)"
        )
    truth = ground_truth(name, gt_boxes, score_maps)
    thresholds = thresholds.to(score_maps.device)
    best_iou = ops.best_box_iou(score_maps, thresholds, truth, contours=contours)
    # IoUs are ratios of small integers: in float32 as in float64 they compare alike with 0.3, 0.5 and 0.7.
    return torch.stack([best_iou >= iou for iou in iou_thresholds], dim=1)


def count_right_boxes(
    score_maps: Tensor,
    gt_boxes: Boxes,
    thresholds: Tensor,
    iou_thresholds: Sequence[float],
    contours: Literal["largest", "all"] = "largest",
) -> Tensor:
    """How many images have a box that fits, (D, T) int64: the sum of `right_boxes`, which says more."""
    return right_boxes(score_maps, gt_boxes, thresholds, iou_thresholds, contours).sum(dim=0)


class _BoxAccuracy(SumOfVerdicts):
    """Counts of right images at every threshold and IoU: a verdict is (D, T)."""

    def __init__(
        self,
        interval: float,
        iou_thresholds: Sequence[float],
        contours: Literal["largest", "all"],
        **options: Any,
    ) -> None:
        super().__init__((len(iou_thresholds), len(score_thresholds(interval))), **options)
        bad = [iou for iou in iou_thresholds if not 0 < iou <= 1]
        if bad or len(iou_thresholds) == 0:
            raise ValueError(
                f"{type(self).__name__}: IoU thresholds are {iou_thresholds}, they should be in (0, 1]"
            )
        self.interval, self.iou_thresholds, self.contours = (
            interval,
            tuple(iou_thresholds),
            contours,
        )

    def judge(self, score_maps: Tensor, gt_boxes: Boxes) -> Tensor:
        """At which IoUs and thresholds each image of a batch is right.

        Args:
            score_maps: (B, h, w) in [0, 1], such as `to_score_maps` gives: 224 x 224 in the published protocol.
            gt_boxes: B tensors (G_i, 4), or (B, G, 4) with rows of -1 as padding, in pixels of the score maps:
                `scale_boxes(boxes, sizes, "maxboxacc")`.

        Returns:
            (B, D, T) bool.

        Raises:
            ValueError: shapes that do not fit, scores that are NaN or outside of [0, 1], or an image without a box.
        """
        thresholds = score_thresholds(self.interval, score_maps.device)
        return right_boxes(score_maps, gt_boxes, thresholds, self.iou_thresholds, self.contours)

    def of_sums(self, sums: Tensor, images: Tensor | int, at: Tensor | None = None) -> Tensor:
        """The mean over IoUs of `shares_of`, float64: see `SumOfVerdicts.of_sums`."""
        return self.shares_of(sums, images, at).mean(dim=-1)

    def shares_of(self, sums: Tensor, images: Tensor | int, at: Tensor | None = None) -> Tensor:
        """The share of right images in [0, 1] at each IoU's threshold, by default the best: (..., D) float64."""
        at = self.best_of(sums) if at is None else at.expand(sums.shape[:-1])
        right = sums.gather(-1, at[..., None])[..., 0]
        return right.double() / torch.as_tensor(images)[..., None]

    def best_of(self, sums: Tensor) -> Tensor:
        """At each IoU the place of the best threshold by sums (..., D, T), the lowest of equals: (..., D) int64."""
        return sums.argmax(dim=-1)

    def curve(self) -> BoxAccCurve:
        """Accuracy at every threshold and IoU. With many processes, all must call it."""
        right, images = self.totals()
        return BoxAccCurve(
            score_thresholds(self.interval, right.device),
            torch.tensor(self.iou_thresholds, dtype=torch.float64, device=right.device),
            right.double() / images,
        )

    def best_thresholds(self) -> Tensor:
        """The threshold of highest accuracy at each IoU, the lowest of equals: (D,) float64. See `curve`."""
        right, _ = self.totals()
        return score_thresholds(self.interval, right.device)[self.best_of(right)]


class MaxBoxAcc(_BoxAccuracy):
    """MaxBoxAcc (Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020).

    The share of images whose one box, that of the largest contour, has IoU >= `iou_threshold` with any ground-truth
    box, at the threshold where that share is highest. Sums counts: N processes give exactly what one gives, provided
    no sample is repeated (`wsol_ext.data.UnpaddedDistributedSampler`).

    Args:
        interval: step of the thresholds; the published program's is 0.001, papers also use 0.01.
        iou_threshold: from which IoU on a box is right.
        options: those of `torchmetrics.Metric`.

    Raises:
        ValueError: an interval outside of (0, 1) or an IoU outside of (0, 1].

    Example:
        >>> metric = MaxBoxAcc()
        >>> score_map = torch.zeros(1, 224, 224)
        >>> score_map[0, 20:100, 30:90] = 1.0
        >>> metric.update(score_map, [torch.tensor([[30, 20, 90, 100]])])
        >>> metric.compute().item()
        1.0
    """

    def __init__(self, interval: float = 0.001, iou_threshold: float = 0.5, **options: Any) -> None:
        super().__init__(interval, (iou_threshold,), "largest", **options)


class MaxBoxAccV2(_BoxAccuracy):
    """MaxBoxAccV2 (Choe et al., TPAMI 2022): all contours' boxes, averaged over IoU thresholds.

    As `MaxBoxAcc`, but an image is right if any contour's box fits, and the result is the mean over `iou_thresholds`
    of each one's highest share.

    Args:
        interval: step of the thresholds; the published program's is 0.001, papers also use 0.01.
        iou_thresholds: the IoUs that are averaged over.
        options: those of `torchmetrics.Metric`.

    Raises:
        ValueError: an interval outside of (0, 1) or an IoU outside of (0, 1].

    Example:
        >>> metric = MaxBoxAccV2(interval=0.01)
        >>> score_map = torch.zeros(1, 224, 224)
        >>> score_map[0, 20:100, 30:90] = 1.0
        >>> metric.update(score_map, [torch.tensor([[30, 20, 90, 59]])])  # IoU 0.499
        >>> round(metric.compute().item(), 4)
        0.3333
    """

    def __init__(
        self,
        interval: float = 0.001,
        iou_thresholds: Sequence[float] = (0.3, 0.5, 0.7),
        **options: Any,
    ) -> None:
        super().__init__(interval, iou_thresholds, "all", **options)
