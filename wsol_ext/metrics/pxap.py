"""PxAP: average precision of the pixels of masks."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from wsol_ext.metrics.max_box_acc import score_thresholds

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
    return torch.bincount(place, minlength=2 * bins).view(2, bins)


class PxAP(Metric):
    """PxAP, pixel average precision (Choe et al., CVPR 2020), for masks such as OpenImages-30k's.

    The area under the precision-recall curve of all pixels of all images together: over the bins of scores from the top
    down, the sum of precision times what recall gains.

    Sums counts: N processes give exactly what one gives, provided no sample is repeated
    (`wsol_ext.data.UnpaddedDistributedSampler`).

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

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    histograms: Tensor

    def __init__(self, interval: float = 0.001, **options: Any) -> None:
        super().__init__(**options)
        self.interval = interval
        counts = torch.zeros(2, len(score_thresholds(interval)) + 1, dtype=torch.int64)
        self.add_state("histograms", counts, dist_reduce_fx="sum")

    def update(self, score_maps: Tensor, masks: Tensor) -> None:
        """Count a batch.

        Args:
            score_maps: (B, h, w) in [0, 1], such as `to_score_maps` gives.
            masks: (B, h, w) integer: 1 object, 0 background, 255 ignored.

        Raises:
            ValueError: shapes that differ, scores that are NaN or outside of [0, 1], or another mask value.
        """
        self.histograms += pixel_histograms(score_maps, masks, self.interval)

    def compute(self) -> Tensor:
        """Average precision in [0, 1], float64.

        Raises:
            ValueError: no object pixel was counted.
        """
        curve = self._curve()
        gain = -torch.diff(curve.recall, append=curve.recall.new_zeros(1))
        return (curve.precision * gain).sum()

    def curve(self) -> PxCurve:
        """Precision and recall at every threshold. With many processes, all must call it."""
        if self._is_synced:
            return self._curve()
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return self._curve()

    def _curve(self) -> PxCurve:
        objects = self.histograms[0].sum()
        if objects == 0:
            raise ValueError("PxAP: no object pixel was counted, some mask should have one")
        true, false = self.histograms.flip(1).cumsum(dim=1).flip(1).double()
        precision = torch.where(true + false > 0, true / (true + false), 0.0)
        thresholds = score_thresholds(self.interval, objects.device)
        return PxCurve(torch.cat([thresholds, thresholds.new_ones(1)]), precision, true / objects)
