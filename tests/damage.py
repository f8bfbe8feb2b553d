"""Damaged copies of a file's content, the same ones in each run of the tests."""

from collections.abc import Iterator

import numpy as np


def damaged(content: bytes, count: int, within: int | None = None) -> Iterator[bytes]:
    """Content with one to five bytes changed, those of the first `within` bytes, and its end cut off now and then."""
    random = np.random.default_rng(len(content))
    for _ in range(count):
        changed = bytearray(content)
        for place in random.integers(0, min(len(content), within or len(content)), 5)[
            : random.integers(1, 6)
        ]:
            changed[place] = random.integers(0, 256)
        yield bytes(
            changed[: random.integers(1, len(content))] if random.random() < 0.3 else changed
        )
