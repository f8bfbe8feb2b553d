"""Which process of how many this one is, as torchrun, SLURM or Lightning's own launcher tell it."""

import os
from typing import NamedTuple


class Process(NamedTuple):
    """One of several processes that share a command's work.

    Attributes:
        rank: which one, from 0; the first writes what all have found.
        total: how many there are.
    """

    rank: int
    total: int


def of_torchrun() -> Process:
    """This process among those that torchrun has started; else one alone, whatever other launchers say."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    return Process(int(os.environ["RANK"]) if count > 1 else 0, count)


def rank_in_training() -> int:
    """This process's rank among those that train together; 0 for the first one alone.

    Not Lightning's `rank_zero_only.rank`: before there is a trainer, it takes the rank on its machine for the rank.
    """
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "LOCAL_RANK" in os.environ:  # before SLURM, in whose jobs Lightning may start processes too
        return int(os.environ["LOCAL_RANK"]) + int(os.environ.get("NODE_RANK", 0))
    return int(os.environ.get("SLURM_PROCID", os.environ.get("NODE_RANK", 0)))


def rank_on_machine() -> int | None:
    """This process's number on its machine, from 0, as launchers tell it; None where none does."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else None


def is_launched() -> bool:
    """Whether another program has started this process among others."""
    return any(int(os.environ.get(name, 1)) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS"))
