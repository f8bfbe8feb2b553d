"""Superpixels: SLIC over batches of images (Achanta et al., TPAMI 2012).

All of it is integer arithmetic, so that every backend, number of threads and run gives the very same labels.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from wsol_ext.ops import _backend as backend

__all__ = ["SlicGrid", "lab_reference", "slic", "slic_grid", "slic_reference"]

# csrc/superpixels/slic.h has their values.
_COLOUR_UNIT = backend.constants["slic_colour_unit"]  # of these are one of CIELAB's
_PLACE_UNIT = backend.constants["slic_place_unit"]  # of these are a pixel; centres lie on them
_LEVELS = backend.constants["slic_levels"]  # of an sRGB channel: an 8-bit value is 16 of them
# Linear light is 0 to this, as are tristimulus values over those of white, and cube roots.
_LIGHT = 1 << backend.constants["slic_light_bits"]
_WEIGHT_BITS = backend.constants["slic_weight_bits"]  # of the place term's weight behind the point
# sRGB's primaries in XYZ (IEC 61966-2-1), each row over its sum, the D65 white; in 1/16384.
_XYZ_OF_RGB = ((7110, 6164, 3110), (3484, 11718, 1182), (291, 1794, 14299))


def slic(
    images: Tensor,
    n_segments: int = 100,
    compactness: float = 10.0,
    max_num_iter: int = 10,
    enforce_connectivity: bool = True,
    *,
    check_values: bool = True,
) -> Tensor:
    """Superpixels of a batch of images: k-means on colour and place, each centre searched in a window of its own.

    Names and meaning are those of `skimage.segmentation.slic`. Centres start on a grid of spacing
    S = sqrt(h w / n_segments) with the mean colour of their cell; a pixel goes to the nearest of the centres no
    further than S away in either direction, by distance^2 = colour^2 + (compactness / S)^2 place^2 with colours in
    CIELAB (D65) and places in pixels; centres then move to their pixels' mean. With `enforce_connectivity` the
    4-connected pieces become the segments, and those smaller than half the mean size join a neighbour: in rounds,
    each such piece the one of most similar mean colour.

    Args:
        images: (B, 3, h, w) uint8, or floating in [0, 1], sRGB.
        n_segments: about how many superpixels, at least 1; the grid gives the number, the image may leave fewer.
        compactness: weight of place against colour, not negative; what it adds to a distance is capped where
            colours no longer matter.
        max_num_iter: rounds of k-means, at least 1; it ends earlier when no label changes.
        enforce_connectivity: make every segment one 4-connected piece.
        check_values: whether NaN, or values outside [0, 1] by more than half of 1/255, are an error. On CUDA that waits
            for the device. What is no error is clipped, NaN counts as 0.

    Returns:
        (B, h, w) int32, labels 0 to K - 1 consecutive within each image. The same on every device, for any number of
        threads and in any batch; not differentiable.

    Raises:
        TypeError: images of another dtype, or another argument that is no such number.
        ValueError: images of another shape or with values out of range, or another argument outside its range.

    Example:
        >>> image = torch.zeros(1, 3, 4, 6)
        >>> image[..., 3:] = 1
        >>> slic(image, n_segments=2)
        tensor([[[0, 0, 0, 1, 1, 1],
                 [0, 0, 0, 1, 1, 1],
                 [0, 0, 0, 1, 1, 1],
                 [0, 0, 0, 1, 1, 1]]], dtype=torch.int32)
    """
    _check(images, n_segments, compactness, max_num_iter)
    return _slic(
        images.detach(),
        n_segments,
        float(compactness),
        max_num_iter,
        enforce_connectivity,
        check_values,
    )


def _check(images: Tensor, n_segments: int, compactness: float, max_num_iter: int) -> None:
    backend.check_tensor(
        "slic", "images", images, ("B", 3, "h", "w"), (torch.uint8, *backend.FLOATING)
    )
    height, width = images.shape[2:]
    if max(height, width) >= 2**27 or height * width >= 2**31:  # places count in 1/16 of a pixel
        raise ValueError(
            f"slic: images have {height} x {width} pixels, there should be fewer than 2^31, and 2^27 a side"
        )
    backend.check_whole("slic", "n_segments", n_segments)
    backend.check_number("slic", "compactness", compactness)
    backend.check_whole("slic", "max_num_iter", max_num_iter)
    if n_segments < 1:
        raise ValueError(f"slic: n_segments is {n_segments}, it should be at least 1")
    if not 0 <= compactness < math.inf:
        raise ValueError(f"slic: compactness is {compactness}, it should be finite and at least 0")
    if max_num_iter < 1:
        raise ValueError(f"slic: max_num_iter is {max_num_iter}, it should be at least 1")


class SlicGrid(NamedTuple):
    """Where centres start, how far they see, and what place weighs.

    Attributes:
        rows: of the grid of centres.
        columns: of the grid.
        reach_y: rows of pixels, above and below a centre's own, that it competes for.
        reach_x: columns likewise.
        weight: (compactness / S)^2 in units of the colour distance, in 1/2^20.
    """

    rows: int
    columns: int
    reach_y: int
    reach_x: int
    weight: int


def slic_grid(height: int, width: int, n_segments: int, compactness: float) -> SlicGrid:
    """The grid for images of height x width pixels, none of them 0."""
    count = min(n_segments, height * width)
    # The short side first: it may have room for one row only, and the long side makes up for it.
    short, long = sorted((height, width))
    along_short = min(max(1, round(math.sqrt(count * short / long))), short)
    along_long = min(max(1, round(count / along_short)), long)
    rows, columns = (along_short, along_long) if height <= width else (along_long, along_short)
    reach_y, reach_x = math.ceil(height / rows), math.ceil(width / columns)
    per_pixel = compactness**2 * n_segments / (height * width)
    weight = per_pixel * (_COLOUR_UNIT / _PLACE_UNIT) ** 2 * 2**_WEIGHT_BITS
    # Each axis adds less than 2^29, and colours less than 2^27: int32 holds distances.
    furthest = _PLACE_UNIT * (max(reach_y, reach_x) + 1)
    limit = 2 ** (29 + _WEIGHT_BITS) // furthest**2
    return SlicGrid(rows, columns, reach_y, reach_x, round(min(weight, limit)))


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Linear light of each sRGB level (4,081), and CIELAB's f of each tristimulus value (16,385), both int16."""
    level = torch.arange(_LEVELS + 1, dtype=torch.float64) / _LEVELS
    linear = torch.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    value = torch.arange(_LIGHT + 1, dtype=torch.float64) / _LIGHT
    root = torch.where(value > (6 / 29) ** 3, value.pow(1 / 3), value * (29 / 6) ** 2 / 3 + 4 / 29)
    both = ((table * _LIGHT).round().to(device, torch.int16) for table in (linear, root))
    return next(both), next(both)


def _kernel(
    images: Tensor,
    n_segments: int,
    compactness: float,
    max_num_iter: int,
    enforce_connectivity: bool,
    check_values: bool = True,
) -> Tensor:
    batch, _, height, width = images.shape
    labels = images.new_empty((batch, height, width), dtype=torch.int32)
    if labels.numel() == 0:
        return labels
    if check_values and images.is_floating_point():
        backend.check_levels("slic", "images", images)
    images, device = backend.rows_contiguous(images), images.device
    grid = slic_grid(height, width, n_segments, compactness)
    sizes = (batch, height, width, grid.rows * grid.columns)
    backend.run(
        "slic",
        images,
        labels,
        *_tables(device),
        backend.scratch("slic", *sizes, device=device),
        *grid,
        max_num_iter,
        enforce_connectivity,
        device=device,
    )
    return labels


def _fake(
    images: Tensor,
    n_segments: int,
    compactness: float,
    max_num_iter: int,
    enforce_connectivity: bool,
    check_values: bool = True,
) -> Tensor:
    return images.new_empty((images.size(0), *images.shape[2:]), dtype=torch.int32)


_slic = backend.define(
    "slic",
    "(Tensor images, int n_segments, float compactness, int max_num_iter, bool enforce_connectivity, "
    "bool check_values=True) -> Tensor",
    _kernel,
    _fake,
    in_cuda_graphs=False,  # its tables of colours are kept, and whether values are levels is asked of the device
)


# --- the definition in plain PyTorch: the tests' oracle


def slic_reference(
    images: Tensor,
    n_segments: int = 100,
    compactness: float = 10.0,
    max_num_iter: int = 10,
    enforce_connectivity: bool = True,
) -> Tensor:
    """What `slic` computes, image by image and centre by centre."""
    _check(images, n_segments, compactness, max_num_iter)
    batch, _, height, width = images.shape
    if images.numel() == 0:
        return torch.empty(batch, height, width, dtype=torch.int32)
    grid = slic_grid(height, width, n_segments, compactness)
    count = grid.rows * grid.columns
    row = torch.arange(height) * grid.rows // height
    column = torch.arange(width) * grid.columns // width
    segmented = []
    for lab in lab_reference(images.cpu()):
        labels = row[:, None] * grid.columns + column
        centres = _centres(lab, labels, torch.zeros(count, 5, dtype=torch.int64))
        for _ in range(max_num_iter):
            nearest = _nearest_centres(lab, labels, centres, grid)
            if torch.equal(nearest, labels):
                break
            labels = nearest
            centres = _centres(lab, labels, centres)
        if enforce_connectivity:
            labels = _connected(lab, labels, count)
        segmented.append(labels.unique(return_inverse=True)[1])
    return torch.stack(segmented).int()


def lab_reference(images: Tensor) -> Tensor:
    """CIELAB (D65) in 1/32: (B, 3, h, w) int64 of images (B, 3, h, w) uint8 or floating."""
    linear_of, root_of = (table.long() for table in _tables(torch.device("cpu")))
    if images.dtype == torch.uint8:
        levels = images.long() * 16
    else:
        values = images.to(backend.accumulator_dtype(images.dtype)).nan_to_num(0, 1, 0)
        levels = (values.clamp(0, 1) * _LEVELS).round().long()
    light = linear_of[levels]
    to_xyz = torch.tensor(_XYZ_OF_RGB)
    xyz = (torch.einsum("ij,bjhw->bihw", to_xyz, light) + _LIGHT // 2) // _LIGHT
    x, y, z = root_of[xyz].unbind(1)
    scaled = torch.stack([116 * y - 16 * _LIGHT, 500 * (x - y), 200 * (y - z)], dim=1)
    return (scaled * _COLOUR_UNIT + _LIGHT // 2) // _LIGHT


def _centres(lab: Tensor, labels: Tensor, before: Tensor) -> Tensor:
    """Each segment's mean (K, 5) int64: y, x, L, a, b, rounded; an empty one stays as it was."""
    height, width = labels.shape
    labels, count = labels.flatten(), len(before)
    y = torch.arange(height).repeat_interleave(width) * _PLACE_UNIT
    x = torch.arange(width).repeat(height) * _PLACE_UNIT
    pixels = torch.bincount(labels, minlength=count)
    means = torch.stack(
        [_rounded_means(values, labels, pixels) for values in (y, x, *lab.flatten(1))], dim=1
    )
    return torch.where(pixels[:, None] > 0, means, before)


def _rounded_means(values: Tensor, labels: Tensor, pixels: Tensor) -> Tensor:
    """floor(mean + 1/2) of values (N,) by labels (N,)."""
    sums = torch.zeros_like(pixels).index_add_(0, labels, values)
    return (2 * sums + pixels).div(2 * pixels.clamp(min=1), rounding_mode="floor")


def _nearest_centres(lab: Tensor, labels: Tensor, centres: Tensor, grid: SlicGrid) -> Tensor:
    """Each pixel's nearest centre of those whose window it lies in, the first of equals; in none, it stays."""
    height, width = labels.shape
    labels, nearest = labels.clone(), torch.full_like(labels, 2**31 - 1)
    for number, (y, x, *colour) in enumerate(centres.tolist()):
        middle_y, middle_x = ((v + _PLACE_UNIT // 2) // _PLACE_UNIT for v in (y, x))
        rows = slice(max(0, middle_y - grid.reach_y), middle_y + grid.reach_y + 1)
        columns = slice(max(0, middle_x - grid.reach_x), middle_x + grid.reach_x + 1)
        across = _place_term(torch.arange(height)[rows] * _PLACE_UNIT - y, grid.weight)
        along = _place_term(torch.arange(width)[columns] * _PLACE_UNIT - x, grid.weight)
        difference = lab[:, rows, columns] - torch.tensor(colour)[:, None, None]
        distance = difference.square().sum(dim=0) + across[:, None] + along
        closer = distance < nearest[rows, columns]
        nearest[rows, columns][closer] = distance[closer]
        labels[rows, columns][closer] = number
    return labels


def _place_term(offset: Tensor, weight: int) -> Tensor:
    return (offset.square() * weight) >> _WEIGHT_BITS


def _connected(lab: Tensor, labels: Tensor, count: int) -> Tensor:
    """4-connected pieces, none smaller than half of `pixels / count`; each named by its first pixel."""
    pixels = labels.numel()
    number = torch.arange(pixels).view_as(labels)
    pairs = torch.cat(
        [
            torch.stack([number[:, 1:].flatten(), number[:, :-1].flatten()]),
            torch.stack([number[1:].flatten(), number[:-1].flatten()]),
        ],
        dim=1,
    )
    flat = labels.flatten()
    pieces = _joined(torch.arange(pixels), pairs[:, flat[pairs[0]] == flat[pairs[1]]])
    both_ways = torch.cat([pairs, pairs.flip(0)], dim=1)
    while True:
        sizes = torch.bincount(pieces, minlength=pixels)
        is_small = (2 * sizes * count < pixels) & (sizes > 0)
        if not is_small.any() or int((sizes > 0).sum()) == 1:
            return pieces.view_as(labels)
        means = torch.stack([_rounded_means(v, pieces, sizes) for v in lab.flatten(1)])
        between = pieces[both_ways]
        between = between[:, (between[0] != between[1]) & is_small[between[0]]]
        contrast = (means[:, between[0]] - means[:, between[1]]).square().sum(dim=0)
        # Of equal contrasts the neighbour whose first pixel comes first.
        choice = torch.full((pixels,), 2**62).scatter_reduce(
            0, between[0], contrast * pixels + between[1], "amin"
        )
        small = is_small.nonzero().flatten()
        pieces = _joined(pieces, torch.stack([small, choice[small] % pixels]))


def _joined(pieces: Tensor, pairs: Tensor) -> Tensor:
    """Pieces (N,), named by their first pixels, after those of each pair (2, M) of names became one."""
    root = torch.arange(pieces.numel())
    while True:
        lower = root[pairs].amin(dim=0)
        joined = root.scatter_reduce(0, pairs[0], lower, "amin")
        joined = joined.scatter_reduce(0, pairs[1], lower, "amin")
        joined = joined[joined]
        if torch.equal(joined, root):
            return root[pieces]
        root = joined
