"""What `toploc` and `sat` have in common: shares of images, at the best of some thresholds."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from wsol_ext.metrics.verdicts import SumOfVerdicts

__all__ = ["AtBestThreshold"]


class AtBestThreshold(SumOfVerdicts):
    """Shares of images, counted at each threshold, reported at the one where some of them sum to most.

    A verdict is (T, S): at each threshold, each of the shares that the image counts for.

    Args:
        thresholds: the candidates; of a single one nothing is chosen.
        options: those of `torchmetrics.Metric`.

    Attributes:
        shares: the names of what is counted.
        best_by: those whose sum chooses the threshold, the first of equals.
    """

    shares: ClassVar[tuple[str, ...]]
    best_by: ClassVar[tuple[str, ...]]

    def __init__(self, thresholds: Sequence[float], **options: Any) -> None:
        super().__init__((len(thresholds), len(self.shares)), **options)
        self.thresholds = tuple(thresholds)

    def of_sums(
        self, sums: Tensor, images: Tensor | int, at: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Each of the shares in [0, 1] at one threshold, by default the best, float64: see `SumOfVerdicts.of_sums`."""
        at = self.best_of(sums) if at is None else at
        place = at[..., None, None].expand(*sums.shape[:-2], 1, sums.size(-1))
        shares = sums.gather(-2, place)[..., 0, :].double() / torch.as_tensor(images)[..., None]
        return dict(zip(self.shares, shares.unbind(-1), strict=True))

    def best_of(self, sums: Tensor) -> Tensor:
        """The place of the best threshold by sums (..., T, S), the first of equals: (...) int64."""
        columns = [self.shares.index(share) for share in self.best_by]
        return sums[..., columns].sum(dim=-1).argmax(dim=-1)

    def best_threshold(self) -> Tensor:
        """The threshold that `compute` reports at, float64. With many processes, all must call it."""
        sums, _ = self.totals()
        thresholds = torch.tensor(self.thresholds, dtype=torch.float64, device=sums.device)
        return thresholds[self.best_of(sums)]
