"""Seeds: which there are, and those made of others."""


def check_seed(seed: int) -> None:
    """Refuse a seed that a generator of numpy's does not take.

    Raises:
        ValueError: it is none of 0 to 4294967295.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed is {seed}, it should be 0 to {2**32 - 1}")


def mix_seed(*parts: int) -> int:
    """One seed for torch, below 2 ** 63, from several numbers; each combination gets its own.

    Not `numpy.random.SeedSequence`, which would do as well: the runs behind the README's tables drew their orders and
    their augmentation by these numbers, and a run begun with an earlier version resumes by them.

    Example:
        >>> mix_seed(0, 1) != mix_seed(1, 0)
        True
    """
    seed = 0
    for part in parts:  # splitmix64, a step a part
        seed = (seed + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        seed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        seed = ((seed ^ (seed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        seed ^= seed >> 31
    return seed >> 1
