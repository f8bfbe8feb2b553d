"""CorLoc: the share of images in which an object is found, whatever its class."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wsol_ext import ops
from wsol_ext.metrics.at_best_threshold import AtBestThreshold
from wsol_ext.metrics.ground_truth import Boxes, ground_truth

__all__ = ["CorLoc"]


class CorLoc(AtBestThreshold):
    """Correct localization (Deselaers et al., IJCV 2012): the share of images whose box has an IoU of at least 0.5 with
    any true box.

    As the programs of LOST and TokenCut count it: one box an image, in pixels of the image, which are not rounded, and
    a side is x1 - x0.

    Args:
        thresholds: what boxes are cut at, where they are cut from maps: the share is the one at the best of them.
        options: those of `torchmetrics.Metric`.

    Raises:
        ValueError: no threshold, or one outside of [0, 1).

    Example:
        >>> metric = CorLoc()
        >>> metric.update(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), [torch.tensor([[0.0, 0.0, 10.0, 20.0]])])
        >>> metric.compute()["corloc"].item()
        1.0
    """

    shares = ("corloc",)
    best_by = ("corloc",)

    def __init__(self, thresholds: Sequence[float] = (0.0,), **options: Any) -> None:
        if len(thresholds) == 0 or not all(0 <= threshold < 1 for threshold in thresholds):
            raise ValueError(f"CorLoc: thresholds are {thresholds}, they should lie in [0, 1)")
        super().__init__(thresholds, **options)

    def judge(self, boxes: Tensor, gt_boxes: Boxes) -> Tensor:
        """Whether each image's box is right, (B, T, 1) bool.

        Args:
            boxes: (B, 4) x0, y0, x1, y1, one an image; or (B, T, 4), one at each threshold. An empty box is none.
            gt_boxes: B tensors (G_i, 4), or (B, G, 4) with rows of -1 as padding, in the same pixels.

        Raises:
            ValueError: shapes that do not fit, or an image without a true box.
        """
        count = len(self.thresholds)
        if boxes.dim() == 2:
            boxes = boxes[:, None].expand(-1, count, -1)
        if boxes.shape != (len(boxes), count, 4):
            raise ValueError(
                f"CorLoc: boxes has shape {tuple(boxes.shape)}, it should be (B, 4) or (B, {count}, 4)"
            )
        truth = ground_truth("CorLoc", gt_boxes, boxes)
        ious = ops.box_iou(boxes, truth, inclusive=False, dtype=torch.float64)
        return (ious >= 0.5).any(dim=2, keepdim=True)
