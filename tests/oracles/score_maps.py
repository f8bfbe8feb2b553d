"""Random score maps of families that stress the box operators in different ways."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Family = Callable[[np.random.Generator, int, int], NDArray]


def _normalized(scores: NDArray) -> NDArray:
    span = scores.max() - scores.min()
    return (scores - scores.min()) / span if span > 0 else np.zeros_like(scores)


def _smooth(rng: np.random.Generator, height: int, width: int) -> NDArray:
    """A coarse random grid, upsampled: what a class activation map looks like."""
    grid = rng.random(rng.integers(2, 15, size=2))
    mode = cv2.INTER_CUBIC if rng.random() < 0.7 else cv2.INTER_LINEAR
    return _normalized(cv2.resize(grid, (width, height), interpolation=mode))


def _bumps(rng: np.random.Generator, height: int, width: int) -> NDArray:
    y, x = np.mgrid[:height, :width]
    scores = np.zeros((height, width))
    for _ in range(rng.integers(1, 8)):
        cy, cx = rng.random(2) * (height, width)
        sy, sx = (0.02 + 0.2 * rng.random(2)) * (height, width) + 0.3
        scores += rng.random() * np.exp(-(((y - cy) / sy) ** 2) - ((x - cx) / sx) ** 2)
    return _normalized(scores)


def _rings(rng: np.random.Generator, height: int, width: int) -> NDArray:
    """Nested holes and islands."""
    y, x = np.mgrid[:height, :width]
    scores = np.zeros((height, width))
    for _ in range(rng.integers(1, 5)):
        cy, cx = rng.random(2) * (height, width)
        radius = np.hypot(y - cy, x - cx)
        wave = np.cos(radius * rng.uniform(0.1, 1.5)) * np.exp(-radius / (0.3 * (height + width)))
        scores = np.maximum(scores, wave * rng.random())
    return _normalized(scores)


def _plateaus(rng: np.random.Generator, height: int, width: int) -> NDArray:
    scores = np.zeros((height, width))
    for _ in range(rng.integers(1, 15)):
        y0, x0 = rng.integers(0, height), rng.integers(0, width)
        y1, x1 = rng.integers(y0, height) + 1, rng.integers(x0, width) + 1
        scores[y0:y1, x0:x1] = rng.integers(0, 6) / 5
    return scores


def _noise(rng: np.random.Generator, height: int, width: int) -> NDArray:
    return rng.random((height, width))


def _coarse_noise(rng: np.random.Generator, height: int, width: int) -> NDArray:
    """Few levels, so that ties and diagonal touches abound."""
    return rng.integers(0, rng.integers(2, 6), size=(height, width)) / 5


def _sparse(rng: np.random.Generator, height: int, width: int) -> NDArray:
    return rng.random((height, width)) * (
        rng.random((height, width)) < rng.choice([0.002, 0.05, 0.3])
    )


def _border(rng: np.random.Generator, height: int, width: int) -> NDArray:
    """A frame along the border, of some thickness and with gaps, around something."""
    scores = np.full((height, width), 0.8)
    k = int(rng.integers(1, 4))
    scores[k : height - k, k : width - k] = (
        0.9 * _noise(rng, height, width)[k : height - k, k : width - k] ** 4
    )
    for _ in range(rng.integers(0, 3)):
        scores[rng.integers(0, height), :] *= rng.random()
    return scores


def _corners(rng: np.random.Generator, height: int, width: int) -> NDArray:
    scores = np.zeros((height, width))
    k = int(rng.integers(1, 1 + max(1, min(height, width) // 3)))
    for rows in (slice(0, k), slice(height - k, height)):
        for columns in (slice(0, k), slice(width - k, width)):
            scores[rows, columns] = rng.integers(0, 3) / 2
    return scores


def _constant(rng: np.random.Generator, height: int, width: int) -> NDArray:
    return np.full((height, width), rng.choice([0.0, 1 / 256, 0.5, 1.0]))


FAMILIES: dict[str, Family] = {
    "smooth": _smooth,
    "bumps": _bumps,
    "rings": _rings,
    "plateaus": _plateaus,
    "noise": _noise,
    "coarse_noise": _coarse_noise,
    "sparse": _sparse,
    "border": _border,
    "corners": _corners,
    "constant": _constant,
}


def score_map(
    family: str, rng: np.random.Generator, height: int, width: int
) -> NDArray[np.float32]:
    """A (height, width) map with values in [0, 1]."""
    return FAMILIES[family](rng, height, width).astype(np.float32)
