"""Every object of a score map: the connected components of what lies above a threshold."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsol_ext.metrics.toploc import cut_maps

__all__ = ["Components", "map_components"]


class Components(NamedTuple):
    """The components of some maps, map by map.

    Attributes:
        boxes: (M, 4) int32: x0, y0, x1, y1, x1 and y1 one past the last pixel.
        means: (M,) float32, the mean of the map over each one's pixels.
        maps: (M,) int64, the map that each is of, ascending.
    """

    boxes: Tensor
    means: Tensor
    maps: Tensor


def map_components(score_maps: Tensor, threshold: float | Tensor) -> Components:
    """The 8-connected components of what of each score map lies above a threshold, where `single_boxes` has one box.

    Args:
        score_maps: (B, h, w) in [0, 1].
        threshold: share of the quantized map's maximum above which a pixel is foreground, in [0, 1); or (B,) float64,
            each map's own, such as `otsu_thresholds` gives.

    Returns:
        those of each map in raster order of their first pixels, as the outer contours of `ops.extract_boxes` are; none
        of a map without foreground, which is one of zeros.

    Raises:
        ValueError: as `single_boxes`.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 1:3, 1:3], score_map[0, 5:8, 4:8] = 0.5, 1.0
        >>> found = map_components(score_map, 0.2)
        >>> found.boxes.tolist(), found.means.tolist()
        ([[1, 1, 3, 3], [4, 5, 8, 8]], [0.5, 1.0])
    """
    if not isinstance(threshold, Tensor):
        threshold = score_maps.new_full((len(score_maps),), threshold, dtype=torch.float64)
    foreground = cut_maps(score_maps, threshold) > 0
    runs = _runs(foreground)
    numbers, of = _joined(runs, foreground.size(1)).unique(return_inverse=True)  # raster order
    row = runs.row % max(foreground.size(1), 1)
    low, high = torch.stack([runs.first, row], 1), torch.stack([runs.end, row + 1], 1)
    index = of[:, None].expand(-1, 2)
    corners = [
        torch.empty((len(numbers), 2), dtype=torch.long, device=of.device).scatter_reduce(
            0, index, corner, reduce, include_self=False
        )
        for corner, reduce in ((low, "amin"), (high, "amax"))
    ]
    pixels, sums = torch.zeros((2, len(numbers)), dtype=torch.float64, device=of.device)
    pixels = pixels.index_add(0, of, (runs.end - runs.first).double())
    sums = sums.index_add(0, of, _sums(score_maps, runs))
    maps = runs.row[numbers] // max(foreground.size(1), 1)
    return Components(torch.cat(corners, 1).int(), (sums / pixels).float(), maps)


class _Runs(NamedTuple):
    """Neighbouring pixels of a row, (N,) int64, in raster order over all maps; rows are counted over all maps."""

    row: Tensor
    first: Tensor
    end: Tensor  # one past the last
    width: int  # of a row


def _runs(foreground: Tensor) -> _Runs:
    steps = F.pad(foreground.flatten(0, 1).int(), (1, 1)).diff(dim=1)
    first, end = (steps == 1).nonzero(), (steps == -1).nonzero()
    return _Runs(first[:, 0], first[:, 1], end[:, 1], foreground.size(2))


def _sums(score_maps: Tensor, runs: _Runs) -> Tensor:
    """The sum of the map over each run, (N,) float64."""
    sums = F.pad(score_maps.double().flatten(0, 1).cumsum(dim=1), (1, 0))
    return sums[runs.row, runs.end] - sums[runs.row, runs.first]


def _joined(runs: _Runs, height: int) -> Tensor:
    """The first run of each run's component, (N,) int64."""
    # Along all rows, with room between them: a run touches those above from the first that ends at its beginning, or
    # one pixel before that, to the last that begins at its end.
    stride = runs.width + 2
    above = (runs.row - 1) * stride
    low = torch.searchsorted(runs.row * stride + runs.end, above + runs.first)
    high = torch.searchsorted(runs.row * stride + runs.first, above + runs.end, right=True)
    counts = torch.where(runs.row % max(height, 1) > 0, high - low, 0)
    one = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    place = torch.arange(len(one), device=counts.device) - (counts.cumsum(0) - counts)[one]
    other = low[one] + place
    # The later of two components that touch hangs itself to the earlier, then each run to the head of all.
    heads = torch.arange(len(counts), device=counts.device)
    while not torch.equal(heads[one], heads[other]):
        pair = torch.stack([heads[one], heads[other]])
        heads = heads.scatter_reduce(0, pair.amax(dim=0), pair.amin(dim=0), "amin")
        while not torch.equal(heads[heads], heads):
            heads = heads[heads]
    return heads
