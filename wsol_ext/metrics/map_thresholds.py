"""Thresholds of score maps that are chosen from each map alone, no box known."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["MAP_THRESHOLDS", "mean_thresholds", "otsu_thresholds"]

_LEVELS = 256  # of the quantized map, which the evaluators cut


def otsu_thresholds(score_maps: Tensor) -> Tensor:
    """The threshold of each map that separates its pixels best (Otsu, IEEE Trans. SMC 9(1), 1979).

    Of the 256 levels of the map as evaluators quantize it, floor(255 * s), the one up to which pixels are background
    such that the variance between the two classes is largest, the lowest of equals.

    Args:
        score_maps: (..., h, w) floating, in [0, 1].

    Returns:
        (...) float64 in [0, 1), shares of each map's maximum, for `single_boxes` and `ops.extract_boxes`; 0 where a map
        has one level only.

    Raises:
        TypeError: maps that are not floating point.
        ValueError: maps of fewer than two dimensions or without pixels, or a score that is NaN or outside of [0, 1].

    Example:
        >>> score_maps = torch.full((2, 8, 8), 0.2)
        >>> score_maps[0, 2:5, 1:6] = 1.0
        >>> otsu_thresholds(score_maps)
        tensor([0.2020, 0.0000], dtype=torch.float64)
    """
    _check("otsu_thresholds", score_maps)
    levels = (255 * score_maps.double()).floor().long().flatten(-2)
    maps = levels.reshape(-1, levels.size(-1))
    level = torch.arange(_LEVELS, device=maps.device)
    first = _LEVELS * torch.arange(len(maps), device=maps.device)
    bins = torch.bincount((maps + first[:, None]).flatten(), minlength=_LEVELS * len(maps))
    counts = bins.view(len(maps), _LEVELS)
    # Sums of integers, exact: where no pixel has a level, the variance stays that of the level below, to the bit.
    below, pixels = counts.cumsum(dim=1), maps.size(1)
    sums = (counts * level).cumsum(dim=1)
    weights = below.double() * (pixels - below)
    differences = (sums[:, -1:] * below - pixels * sums).double()
    variances = torch.where(weights > 0, differences.square() / weights, 0.0)
    most, best = variances.max(dim=1)  # the first of equals
    # Half a level more, so that rounding of the product with the maximum changes no level.
    thresholds = torch.where(most > 0, (best.double() + 0.5) / maps.amax(dim=1), 0.0)
    return thresholds.reshape(score_maps.shape[:-2])


def mean_thresholds(score_maps: Tensor) -> Tensor:
    """The mean of each map, as a share of its maximum.

    Lower than Otsu's where an object stands out by its middle alone: what class maps do that are multiplied by
    attention (TS-CAM, SCM, TRT).

    Args:
        score_maps: as for `otsu_thresholds`.

    Returns:
        as `otsu_thresholds`.

    Raises:
        TypeError, ValueError: as `otsu_thresholds`.

    Example:
        >>> mean_thresholds(torch.tensor([[[0.0, 0.0], [0.2, 0.8]]]))
        tensor([0.3125], dtype=torch.float64)
    """
    _check("mean_thresholds", score_maps)
    maps = score_maps.double().flatten(-2)
    low, high = torch.aminmax(maps, dim=-1)
    return torch.where(high > low, maps.mean(dim=-1) / high, 0.0)


MAP_THRESHOLDS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "otsu": otsu_thresholds,
    "mean": mean_thresholds,
}
"""By the name that `wsol localize --threshold` gives them."""


def _check(name: str, score_maps: Tensor) -> None:
    if not score_maps.is_floating_point():
        raise TypeError(f"{name}: score_maps is {score_maps.dtype}, it should be floating point")
    if score_maps.dim() < 2 or 0 in score_maps.shape[-2:]:
        raise ValueError(
            f"{name}: score_maps has shape {tuple(score_maps.shape)}, it should be (..., h, w) with h, w >= 1"
        )
    if not ((score_maps >= 0) & (score_maps <= 1)).all():
        raise ValueError(f"{name}: score_maps has values that are NaN or outside of [0, 1]")
