"""PxAP: average precision of the pixels of masks."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from wsol_ext.metrics.max_box_acc import score_thresholds
from wsol_ext.metrics.verdicts import SumOfVerdicts

__all__ = ["IGNORED", "PxAP", "PxCurve", "pixel_histograms"]

IGNORED = 255
"""The mask value of pixels that count neither way."""


class PxCurve(NamedTuple):
    """Precision and recall over thresholds, from the lowest threshold to the highest."""

    thresholds: Tensor
    """(T + 1,) float64: a pixel is foreground where its score is at least this; the last is 1."""
    precision: Tensor
    """(T + 1,) float64; 0 where no pixel is foreground."""
    recall: Tensor
    """(T + 1,) float64."""


def pixel_histograms(score_maps: Tensor, masks: Tensor, interval: float = 0.001) -> Tensor:
    """Histograms of the scores of object pixels and of background pixels.

    Args:
        score_maps: (B, h, w) in [0, 1].
        masks: (B, h, w) integer: 1 object, 0 background, 255 ignored.
        interval: width of a bin.

    Returns:
        (2, T + 1) int64: object and background counts in the bins [0, interval), …, [1 - interval, 1), [1, 1].

    Raises:
        ValueError: shapes that differ, scores that are NaN or outside of [0, 1], or another mask value.

    Example:
        >>> masks = torch.tensor([[[1, 0, 255]]])
        >>> pixel_histograms(torch.tensor([[[1.0, 0.3, 0.3]]]), masks, interval=0.5)
        tensor([[0, 0, 1],
                [1, 0, 0]])
    """
    return _image_histograms(score_maps, masks, interval).sum(dim=0)


def _image_histograms(score_maps: Tensor, masks: Tensor, interval: float) -> Tensor:
    """The histograms of each image, (B, 2, T + 1): see `pixel_histograms`."""
    name = "pixel_histograms"
    if score_maps.dim() != 3 or score_maps.shape != masks.shape:
        raise ValueError(
            f"{name}: score_maps has shape {tuple(score_maps.shape)} and masks {tuple(masks.shape)}, "
            "both should be (B, h, w)"
        )
    known = (masks == 0) | (masks == 1) | (masks == IGNORED)
    if not known.all():
        raise ValueError(
            f"{name}: masks has the value {masks[~known][0].item()}, it should be 0, 1 or {IGNORED}"
        )
    if not ((score_maps >= 0) & (score_maps <= 1)).all():  # false for NaN too
        raise ValueError(
            f"{name}: score_maps has values from {score_maps.min().item():g} to {score_maps.max().item():g}, "
            "they should lie in [0, 1] and not be NaN"
        )
    thresholds = score_thresholds(interval, score_maps.device)
    bins = len(thresholds) + 1
    counted = masks != IGNORED
    # float64 as in the evaluator: a score on an edge belongs to the bin above.
    place = torch.bucketize(score_maps[counted].double(), thresholds, right=True) - 1
    place += (score_maps[counted] == 1).long()
    place += bins * (masks[counted] == 0)
    images = torch.arange(len(masks), device=masks.device)[:, None, None].expand_as(masks)
    place += 2 * bins * images[counted]
    return torch.bincount(place, minlength=2 * bins * len(masks)).view(-1, 2, bins)


class PxAP(SumOfVerdicts):
    """PxAP, pixel average precision (Choe et al., CVPR 2020), for masks such as OpenImages-30k's.

    The area under the precision-recall curve of all pixels of all images together: over the bins of scores from the top
    down, the sum of precision times what recall gains.

    An image's verdict is the histograms of its pixels: see `pixel_histograms`.

    Args:
        interval: width of a bin of scores; the published program's is 0.001.
        options: those of `torchmetrics.Metric`.

    Raises:
        ValueError: an interval outside of (0, 1).

    Example:
        >>> metric = PxAP()
        >>> masks = torch.tensor([[[1, 0], [1, 255]]], dtype=torch.uint8)
        >>> metric.update(torch.tensor([[[1.0, 0.2], [0.6, 0.9]]]), masks)
        >>> metric.compute().item()
        1.0
    """

    def __init__(self, interval: float = 0.001, **options: Any) -> None:
        super().__init__((2, len(score_thresholds(interval)) + 1), **options)
        self.interval = interval

    def judge(self, score_maps: Tensor, masks: Tensor) -> Tensor:
        """The histograms of each image of a batch, (B, 2, T + 1) int64.

        Args:
            score_maps: (B, h, w) in [0, 1], such as `to_score_maps` gives.
            masks: (B, h, w) integer: 1 object, 0 background, 255 ignored.

        Raises:
            ValueError: shapes that differ, scores that are NaN or outside of [0, 1], or another mask value.
        """
        return _image_histograms(score_maps, masks, self.interval)

    def of_sums(self, sums: Tensor, images: Tensor | int, at: Tensor | None = None) -> Tensor:
        """Average precision in [0, 1] of histograms (..., 2, T + 1), float64; no threshold is chosen.

        Raises:
            ValueError: no object pixel was counted.
        """
        precision, recall = _precision_and_recall(sums)
        gain = -torch.diff(recall, append=torch.zeros_like(recall[..., :1]))
        return (precision * gain).sum(dim=-1)

    def curve(self) -> PxCurve:
        """Precision and recall at every threshold. With many processes, all must call it."""
        histograms, _ = self.totals()
        thresholds = score_thresholds(self.interval, histograms.device)
        return PxCurve(
            torch.cat([thresholds, thresholds.new_ones(1)]), *_precision_and_recall(histograms)
        )


def _precision_and_recall(histograms: Tensor) -> tuple[Tensor, Tensor]:
    """Of histograms (..., 2, T + 1): at each threshold the precision and the recall, (..., T + 1) float64."""
    objects = histograms[..., 0, :].sum(dim=-1, keepdim=True)
    if (objects == 0).any():
        raise ValueError("PxAP: no object pixel was counted, some mask should have one")
    true, false = histograms.flip(-1).cumsum(dim=-1).flip(-1).double().unbind(dim=-2)
    precision = torch.where(true + false > 0, true / (true + false), 0.0)
    return precision, true / objects
