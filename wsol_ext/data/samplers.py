"""Dividing a data set among processes for evaluation."""

from collections.abc import Iterator, Sized

import torch.distributed as dist
from torch.utils.data import Sampler

__all__ = ["UnpaddedDistributedSampler"]


class UnpaddedDistributedSampler(Sampler[int]):
    """Every `num_replicas`-th sample from `rank` on: each sample goes to exactly one process, once.

    torch's own `DistributedSampler` repeats samples until all processes have equally many, which counts them twice in
    every evaluation. Here some processes get one sample fewer; metrics that sum counts then give exactly what one
    process gives. For evaluation only: without gradients to exchange, processes need not take equally many steps.

    Lightning puts its own sampler in place unless it is made with `Trainer(use_distributed_sampler=False)`.

    Args:
        dataset: anything with a length.
        num_replicas: the number of processes; None: of the default process group, 1 without one.
        rank: this process's number; None: that in the default process group, 0 without one.

    Raises:
        ValueError: a rank that is not below num_replicas, or negative.

    Example:
        >>> [list(UnpaddedDistributedSampler(range(5), 2, rank)) for rank in (0, 1)]
        [[0, 2, 4], [1, 3]]
    """

    def __init__(
        self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        if num_replicas is None:
            num_replicas = dist.get_world_size() if grouped else 1
        if rank is None:
            rank = dist.get_rank() if grouped else 0
        if not 0 <= rank < num_replicas:
            raise ValueError(
                f"UnpaddedDistributedSampler: rank is {rank}, it should be 0 to {num_replicas - 1}"
            )
        self._indices = range(rank, len(dataset), num_replicas)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)
