"""Top-1, Top-5 and GT-known localization as SAT's program has them, at the best of a few thresholds."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wsol_ext import ops
from wsol_ext.metrics.at_best_threshold import AtBestThreshold
from wsol_ext.metrics.ground_truth import Boxes, ground_truth
from wsol_ext.metrics.maps import normalize_maps, resize_maps
from wsol_ext.metrics.toploc import true_class_ranks

__all__ = ["SAT_SHARES", "SAT_THRESHOLDS", "SatLocalizationAccuracy", "component_boxes"]

SAT_THRESHOLDS = (0.3, 0.35, 0.4, 0.45)
"""The candidates of the `sat` protocol."""
SAT_SHARES = ("cls_top1", "cls_top5", "loc_top1", "loc_top5", "gt_known")
"""What `SatLocalizationAccuracy` reports."""


def component_boxes(score_maps: Tensor, threshold: float) -> Tensor:
    """The one box of each score map, as SAT's program (Wu et al., ICCV 2023) cuts it.

    Args:
        score_maps: (B, h, w) floating, not quantized here.
        threshold: the score above which a pixel is foreground, compared in the maps' dtype.

    Returns:
        (B, 4) int32: x0, y0, x1, y1 of the 8-connected component with most pixels (of equals the first in raster
        order), x1 and y1 one past its last pixel; [0, 0, w, h] where nothing is foreground.

    Raises:
        ValueError: another shape.

    Example:
        >>> score_map = torch.zeros(2, 8, 8)
        >>> score_map[0, 2:5, 1:6] = 0.5
        >>> component_boxes(score_map, 0.4).tolist()
        [[1, 2, 6, 5], [0, 0, 8, 8]]
    """
    foreground = (score_maps > threshold).to(torch.float16)
    boxes = ops.extract_boxes(foreground, [0.5], "most_pixels", check_values=False)[:, 0]
    height, width = score_maps.shape[1:]
    whole = boxes.new_tensor([0, 0, width, height])
    return torch.where((boxes == 0).all(dim=1, keepdim=True), whole, boxes)


class SatLocalizationAccuracy(AtBestThreshold):
    """Top-1, Top-5 and GT-known localization: the `sat` protocol of SAT's program (Wu et al., ICCV 2023).

    A map is min-max normalized on its own grid, with 1e-5 added to the range, upsampled (bilinear) and cut by
    `component_boxes`. An image is GT-known where the IoU of the true class's box with any ground-truth box is at least
    0.5, both end pixels counted; it is right at Top-k where the true class is among the k best as well. All shares are
    those at the one threshold where GT-known + Top-1 localization is highest on the counted images themselves, the
    first of equals.

    The protocol's maps are those of the centre crop, its class scores the mean of the softmax over ten crops
    (`wsol_ext.data.ten_crops`).

    Args:
        thresholds: the candidates; of a single one nothing is chosen.
        size: side of the evaluated crop in pixels, the frame of `gt_boxes`.
        options: those of `torchmetrics.Metric`.

    Raises:
        ValueError: no threshold, or one outside of [0, 1).

    Example:
        >>> metric = SatLocalizationAccuracy(size=8)
        >>> maps = torch.zeros(1, 8, 8)
        >>> maps[0, 2:5, 1:6] = 1.0
        >>> logits, labels = torch.tensor([[0.1, 0.2, 0.9]]), torch.tensor([2])
        >>> metric.update(maps, logits, labels, [torch.tensor([[1, 2, 6, 5]])])
        >>> metric.compute()["loc_top1"].item(), metric.best_threshold().item()
        (1.0, 0.3)
    """

    shares = SAT_SHARES
    best_by = ("gt_known", "loc_top1")

    def __init__(
        self, thresholds: Sequence[float] = SAT_THRESHOLDS, size: int = 224, **options: Any
    ) -> None:
        if len(thresholds) == 0 or not all(0 <= threshold < 1 for threshold in thresholds):
            raise ValueError(
                f"SatLocalizationAccuracy: thresholds are {thresholds}, they should lie in [0, 1)"
            )
        super().__init__(thresholds, **options)
        self.size = size

    def judge(self, maps: Tensor, logits: Tensor | None, labels: Tensor, gt_boxes: Boxes) -> Tensor:
        """At which thresholds each image of a batch counts for each of `SAT_SHARES`: (B, T, 5) bool.

        Args:
            maps: (B, h, w) on any grid, with any values: the true class's map of the centre crop.
            logits: (B, C), of which only the order counts; None where no classes are predicted: none is right then.
            labels: (B,) the true classes.
            gt_boxes: B tensors (G_i, 4), or (B, G, 4) with rows of -1 as padding: `scale_boxes(boxes, sizes, "sat",
                size)`.

        Raises:
            TypeError: maps that are not floating point.
            ValueError: shapes that do not fit, NaN logits, labels that are no classes, or an image without a box.
        """
        name = "SatLocalizationAccuracy"
        batch = len(labels)
        classes = (batch, 0) if logits is None else logits.shape
        if maps.dim() != 3 or labels.dim() != 1 or not len(maps) == classes[0] == batch:
            raise ValueError(
                f"{name}: maps has shape {tuple(maps.shape)}, logits {tuple(classes)} and labels "
                f"{tuple(labels.shape)}, they should be (B, h, w), (B, C) and (B,)"
            )
        truth = ground_truth(name, gt_boxes, maps).double()
        top1, top5 = true_class_ranks(name, logits, labels)
        score_maps = resize_maps(normalize_maps(maps, eps=1e-5), self.size, "bilinear")
        verdicts = []
        for threshold in self.thresholds:
            boxes = component_boxes(score_maps, threshold).double()
            fits = (ops.box_iou(boxes[:, None], truth) >= 0.5).any(dim=2)[:, 0]
            outcomes = (top1, top5, top1 & fits, top5 & fits, fits)  # as SAT_SHARES
            verdicts.append(torch.stack(outcomes, dim=1))
        return torch.stack(verdicts, dim=1)
