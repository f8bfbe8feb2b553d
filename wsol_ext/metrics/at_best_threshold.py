"""What `toploc` and `sat` have in common: shares of images, at the best of some thresholds."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["AtBestThreshold"]


class AtBestThreshold(Metric):
    """Shares of images, counted at each threshold, reported at the one where some of them sum to most.

    Sums counts: N processes give exactly what one gives, provided no sample is repeated
    (`wsol_ext.data.UnpaddedDistributedSampler`).

    Args:
        thresholds: the candidates; of a single one nothing is chosen.
        options: those of `torchmetrics.Metric`.

    Attributes:
        shares: the names of what is counted.
        best_by: those whose sum chooses the threshold, the first of equals.
    """

    is_differentiable = False
    full_state_update = False
    shares: ClassVar[tuple[str, ...]]
    best_by: ClassVar[tuple[str, ...]]
    counts: Tensor
    images: Tensor

    def __init__(self, thresholds: Sequence[float], **options: Any) -> None:
        super().__init__(**options)
        self.thresholds = tuple(thresholds)
        counts = torch.zeros(len(self.thresholds), len(self.shares), dtype=torch.int64)
        self.add_state("counts", counts, dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> dict[str, Tensor]:
        """Each of the shares in [0, 1] at the best threshold, float64.

        Raises:
            ValueError: no image was counted.
        """
        if self.images == 0:
            raise ValueError(
                f"{type(self).__name__}: no image was counted, update() should come first"
            )
        shares = self.counts[self._best()].double() / self.images
        return dict(zip(self.shares, shares, strict=True))

    def best_threshold(self) -> Tensor:
        """The threshold that `compute` reports at, float64. With many processes, all must call it."""
        thresholds = torch.tensor(self.thresholds, dtype=torch.float64, device=self.counts.device)
        if self._is_synced:
            return thresholds[self._best()]
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return thresholds[self._best()]

    def _best(self) -> Tensor:
        columns = [self.shares.index(share) for share in self.best_by]
        return self.counts[:, columns].sum(dim=1).argmax()
