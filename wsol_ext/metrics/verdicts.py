"""What all metrics have in common: a number of the sums of what each image adds."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["SumOfVerdicts"]


class SumOfVerdicts(Metric):
    """A metric that depends on its images by the sum of their verdicts alone.

    A subclass says by `judge` what an image adds, its verdict: whether its box is right at each threshold, say. By
    `of_sums` it says what number the sums make. So verdicts that were kept can be summed again: over some of the
    images, over images drawn with replacement, or after an interruption.

    Sums counts: N processes give exactly what one gives, provided no sample is repeated
    (`wsol_ext.data.UnpaddedDistributedSampler`).

    Args:
        shape: of a verdict.
        options: those of `torchmetrics.Metric`.

    Attributes:
        sums: of the shape of a verdict, int64.
        images: how many were judged.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    sums: Tensor
    images: Tensor

    def __init__(self, shape: tuple[int, ...], **options: Any) -> None:
        super().__init__(**options)
        self.add_state("sums", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def judge(self, *batch: Any, **options: Any) -> Tensor:
        """The verdicts of a batch, (B, *shape) bool or integer; takes what `update` takes."""
        raise NotImplementedError

    def of_sums(self, sums: Tensor, images: Tensor | int, at: Tensor | None = None) -> Any:
        """What `compute` gives, of other sums.

        Args:
            sums: (..., *shape), of verdicts.
            images: (...), how many images they are of.
            at: which thresholds' numbers to give, as `best_of` names them; None: those of `best_of(sums)`.
        """
        raise NotImplementedError

    def best_of(self, sums: Tensor) -> Tensor:
        """The places of the thresholds that are best by sums (..., *shape), the lowest of equals: int64.

        Raises:
            NotImplementedError: a metric that chooses no threshold.
        """
        raise NotImplementedError

    def add(self, verdicts: Tensor) -> None:
        """Count images that were judged: (B, *shape)."""
        self.sums += verdicts.to(self.sums.device).sum(dim=0, dtype=torch.int64)
        self.images += len(verdicts)

    def update(self, *batch: Any, **options: Any) -> None:
        """Count a batch: see `judge`."""
        self.add(self.judge(*batch, **options))

    def totals(self) -> tuple[Tensor, Tensor]:
        """The sums, and of how many images. With many processes, all must call it.

        Raises:
            ValueError: no image was counted.
        """
        if self._is_synced:
            return self._totals()
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return self._totals()

    def compute(self) -> Any:
        """The number over all images that were counted, by all processes.

        Raises:
            ValueError: no image was counted.
        """
        return self.of_sums(*self._totals())

    def _totals(self) -> tuple[Tensor, Tensor]:
        if self.images == 0:
            raise ValueError(
                f"{type(self).__name__}: no image was counted, update() should come first"
            )
        return self.sums.clone(), self.images.clone()  # what a sync gathered is undone after it
