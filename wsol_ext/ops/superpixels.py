"""Superpixels: SLIC over batches of images (Achanta et al., TPAMI 2012).

All of it is integer arithmetic, so that every backend, number of threads and run gives the very same labels.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

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
# A squared colour stays below this, whatever it is made of; so does a level of a channel below the other.
_COLOUR_SQUARE, _MOST_LEVELS = 2**25, 2**12 - 1
# How far centres that lie on no grid see, in their spacing.
_REACH = 1.5
_NOWHERE = -(2**31)  # a centre's coordinate that no window reaches
_CHANNELS = (
    *(torch.uint8, torch.int8, torch.uint16, torch.int16, torch.int32, torch.int64),
    *backend.FLOATING,
)
# sRGB's primaries in XYZ (IEC 61966-2-1), each row over its sum, the D65 white; in 1/16384.
_XYZ_OF_RGB = ((7110, 6164, 3110), (3484, 11718, 1182), (291, 1794, 14299))


def slic(
    images: Tensor,
    n_segments: int = 100,
    compactness: float = 10.0,
    max_num_iter: int = 10,
    enforce_connectivity: bool = True,
    *,
    mask: Tensor | None = None,
    centres: Tensor | None = None,
    slic_zero: bool = False,
    convert2lab: bool | None = None,
    start_label: int = 0,
    check_values: bool = True,
) -> Tensor:
    """Superpixels of a batch of images: k-means on colour and place, each centre searched in a window of its own.

    Names and meaning are those of `skimage.segmentation.slic`. Centres start on a grid of spacing
    S = sqrt(h w / n_segments) with the mean colour of their cell; a pixel goes to the nearest of the centres no
    further than S away in either direction, by distance^2 = colour^2 + (compactness / S)^2 place^2 with colours in
    CIELAB (D65) and places in pixels; centres then move to their pixels' mean. With `enforce_connectivity` the
    4-connected pieces become the segments, and those smaller than half the mean size join a neighbour: in rounds,
    each such piece the one of most similar mean colour.

    Images of other than three channels, or with `convert2lab=False`, are channels as they are, grey levels or features:
    colour^2 is the sum of their squared differences, once each image is stretched to [0, 1] from its least to its
    largest value over all channels, as scikit-image does. A `compactness` near 0.1 suits them.

    With a `mask`, S^2 is an image's masked pixels by n_segments, and centres start as the means of n_segments cells of
    equal size: bands of height S, each passed in the other direction than the one before, are cut into them. With
    `centres`, each pixel starts with the nearest. Such centres lie on no grid, and see pixels up to 1.5 S away.

    Args:
        images: (B, 3, h, w) uint8, or floating in [0, 1], sRGB; or (B, C, h, w) integer or floating channels.
        n_segments: about how many superpixels, at least 1; the grid gives the number, the image may leave fewer.
        compactness: weight of place against colour, not negative; what it adds to a distance is capped where
            colours no longer matter.
        max_num_iter: rounds of k-means, at least 1; it ends earlier when no label changes.
        enforce_connectivity: make every segment one 4-connected piece.
        mask: (B, h, w) or (h, w) bool, or numbers that are 0 or 1: which pixels to segment. The values of
            others do not matter.
        centres: (B, K, 2) or (K, 2), where centres start: y and x in pixels, integer or floating, rounded to 1/16.
            K takes the place of n_segments.
        slic_zero: SLICO, which adapts compactness: a segment's colour^2 counts by the largest that its pixels have had,
            at least compactness^2, in units of which place^2 counts by S^2.
        convert2lab: whether images are sRGB; by default those of three channels are.
        start_label: the first label, 0 or 1.
        check_values: whether NaN, or values outside [0, 1] by more than half of 1/255, are an error; of channels and
            centres, NaN and infinity. On CUDA that waits for the device. What is no error is clipped, NaN counts as 0.

    Returns:
        (B, h, w) int32, labels consecutive within each image from start_label on, and start_label - 1 outside of the
        mask. The same on every device, for any number of threads and in any batch; not differentiable.

    Raises:
        TypeError: images, mask or centres of another dtype, or another argument that is no such number.
        ValueError: images, mask or centres of another shape or with values out of range, or another argument outside
            its range.

    Example:
        >>> image = torch.zeros(1, 3, 4, 6)
        >>> image[..., 3:] = 1
        >>> slic(image, n_segments=2)
        tensor([[[0, 0, 0, 1, 1, 1],
                 [0, 0, 0, 1, 1, 1],
                 [0, 0, 0, 1, 1, 1],
                 [0, 0, 0, 1, 1, 1]]], dtype=torch.int32)
    """
    found = backend.at_once(
        "slic",
        images,
        n_segments,
        compactness,
        max_num_iter,
        enforce_connectivity,
        check_values,
        mask,
        centres,
        slic_zero,
        convert2lab,
        start_label,
        _plan_of_bytes,
    )
    if found is not None:
        return found
    is_rgb = _check(
        images, n_segments, compactness, max_num_iter, mask, centres, convert2lab, start_label
    )
    flags = {"enforce_connectivity": enforce_connectivity, "slic_zero": slic_zero}
    for name, flag in {**flags, "check_values": check_values}.items():
        backend.check_flag("slic", name, flag)
    if mask is not None:
        mask = backend.as_mask("slic", "mask", mask)
    return _slic(
        images.detach(),
        n_segments,
        float(compactness),
        max_num_iter,
        enforce_connectivity,
        check_values,
        mask,
        None if centres is None else centres.detach(),
        slic_zero,
        is_rgb,
        start_label,
    )


def _check(
    images: Tensor,
    n_segments: int,
    compactness: float,
    max_num_iter: int,
    mask: Tensor | None,
    centres: Tensor | None,
    convert2lab: bool | None,
    start_label: int,
) -> bool:
    """Raise for what no images can be segmented with. Returns whether they are sRGB."""
    if convert2lab is not None:
        backend.check_flag("slic", "convert2lab", convert2lab)
    is_rgb = convert2lab
    if is_rgb is None:
        is_rgb = False
        if isinstance(images, Tensor) and images.dim() == 4 and images.size(1) == 3:
            is_rgb = True  # no symbol of whether, of which torch.compile of torch 2.6 makes no bool
    dtypes = (torch.uint8, *backend.FLOATING) if is_rgb else _CHANNELS
    backend.check_tensor(
        "slic", "images", images, ("B", 3 if convert2lab else "C", "h", "w"), dtypes
    )
    batch, channels, height, width = images.shape
    if channels == 0:
        raise ValueError("slic: images have no channel, they should have at least 1")
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
    if start_label not in (0, 1):
        raise ValueError(f"slic: start_label is {start_label}, it should be 0 or 1")
    given = {"images": images}
    if mask is not None:
        alone = isinstance(mask, Tensor) and mask.dim() == 2
        backend.check_tensor(
            "slic",
            "mask",
            mask,
            (height, width) if alone else (batch, height, width),
            (torch.bool, *_CHANNELS),
        )
        given["mask"] = mask
    if centres is not None:
        alone = isinstance(centres, Tensor) and centres.dim() == 2
        backend.check_tensor(
            "slic", "centres", centres, ("K", 2) if alone else (batch, "K", 2), _CHANNELS
        )
        if centres.size(-2) == 0:
            raise ValueError("slic: centres are none, there should be at least 1")
        given["centres"] = centres
    backend.check_same_device("slic", **given)
    return bool(is_rgb)


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


def slic_grid(
    height: int, width: int, n_segments: int, compactness: float, unit: int = _COLOUR_UNIT
) -> SlicGrid:
    """The grid for images of height x width pixels, none of them 0, whose colours are in 1/unit."""
    count = min(n_segments, height * width)
    # The short side first: it may have room for one row only, and the long side makes up for it.
    short, long = sorted((height, width))
    along_short = min(max(1, round(math.sqrt(count * short / long))), short)
    along_long = min(max(1, round(count / along_short)), long)
    rows, columns = (along_short, along_long) if height <= width else (along_long, along_short)
    reach_y, reach_x = math.ceil(height / rows), math.ceil(width / columns)
    per_pixel = compactness * compactness * n_segments / (height * width)
    weight = per_pixel * (unit / _PLACE_UNIT) ** 2 * 2**_WEIGHT_BITS
    # Each axis adds less than 2^29, and colours less than 2^27: int32 holds distances.
    furthest = _PLACE_UNIT * (max(reach_y, reach_x) + 1)
    limit = 2 ** (29 + _WEIGHT_BITS) // furthest**2
    return SlicGrid(rows, columns, reach_y, reach_x, round(min(weight, limit)))


@lru_cache(maxsize=8)
def _tables(device: torch.device, of_bytes: bool = False) -> tuple[Tensor, Tensor]:
    """Linear light of sRGB levels (4,081) or bytes (256), and CIELAB's f of tristimulus values (16,385), all int16."""
    level = torch.arange(0, _LEVELS + 1, 16 if of_bytes else 1, dtype=torch.float64) / _LEVELS
    linear = torch.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    value = torch.arange(_LIGHT + 1, dtype=torch.float64) / _LIGHT
    root = torch.where(value > (6 / 29) ** 3, value.pow(1 / 3), value * (29 / 6) ** 2 / 3 + 4 / 29)
    both = ((table * _LIGHT).round().to(device, torch.int16) for table in (linear, root))
    return next(both), next(both)


def _plan_of_bytes(
    images: Tensor, n_segments: int, compactness: float, max_num_iter: int
) -> tuple[Any, ...] | None:
    """The tables and the grid for images (B, 3, h, w) of sRGB in bytes whose centres start on one; None of no pixels.

    The compiled step keeps it for images of the same height and width.
    """
    _check(images, n_segments, compactness, max_num_iter, None, None, None, 0)
    if images.numel() == 0:
        return None
    grid = slic_grid(images.size(2), images.size(3), n_segments, compactness)
    return (*_tables(images.device, True), *grid)


class _Beginning(NamedTuple):
    """What k-means starts from.

    Attributes:
        planes: (B, 3, h, w) uint8 or floating, sRGB; or (B, C, h, w) int16, levels of channels.
        unit: of levels, or of colours, are one of what compactness is measured by.
        centres: how many.
        grid: of the centres, where they lie on one.
        start: (B, h, w) int32, the label of each pixel, -1 outside of the mask; or None on a grid.
        scales: (B, 3) int64, with `start`: an image's reach, weight (`SlicGrid` says what these are) and pixels.
        least_contrast: in SLICO, the square of colour that a segment's counts by at least; else 0.
    """

    planes: Tensor
    unit: int
    centres: int
    grid: SlicGrid
    start: Tensor | None
    scales: Tensor | None
    least_contrast: int


def _begin(
    images: Tensor,
    n_segments: int,
    compactness: float,
    mask: Tensor | None,
    centres: Tensor | None,
    slic_zero: bool,
    is_rgb: bool,
    check_values: bool = True,
) -> _Beginning:
    batch, channels, height, width = images.shape
    if mask is not None:
        mask = mask.expand(batch, height, width)
    if is_rgb:
        unit = _COLOUR_UNIT
        if check_values and images.is_floating_point():
            of_mask = images if mask is None else images.where(mask[:, None], 0)
            backend.check_levels("slic", "images", of_mask)
    else:
        unit = min(_MOST_LEVELS, math.isqrt(_COLOUR_SQUARE // channels))
        images = _stretched(images, mask, unit, check_values)
    least_contrast = 0
    if slic_zero:
        least_contrast = max(1, round(min(compactness * compactness * unit**2, 4 * _COLOUR_SQUARE)))
    if mask is None and centres is None:
        grid = slic_grid(height, width, n_segments, compactness, unit)
        return _Beginning(images, unit, grid.rows * grid.columns, grid, None, None, least_contrast)
    area = (
        torch.full((batch,), height * width, device=images.device)
        if mask is None
        else mask.flatten(1).sum(dim=1)
    )
    if centres is None:
        assert mask is not None
        count = min(n_segments, height * width)
        start = _cells(mask, area, n_segments)
    else:
        count = n_segments = centres.size(-2)
        start = _nearest_places(centres.expand(batch, -1, -1), height, width, check_values)
        if mask is not None:
            start = start.where(mask, start.new_tensor(-1))
    scales = _scales(area, n_segments, compactness, unit, max(height, width))
    grid = SlicGrid(1, count, 0, 0, 0)
    return _Beginning(images, unit, count, grid, start, scales, least_contrast)


def _stretched(images: Tensor, mask: Tensor | None, levels: int, check_values: bool) -> Tensor:
    """Channels (B, C, h, w) as int16 from 0, an image's least value, to `levels`, its largest."""
    is_wide = images.dtype in (torch.int32, torch.int64, torch.float64)
    values = images.to(torch.float64 if is_wide else torch.float32)
    if mask is None:
        low, high = values.flatten(1).aminmax(dim=1)
    else:
        inside = mask[:, None]
        low = values.where(inside, torch.inf).flatten(1).amin(dim=1)
        high = values.where(inside, -torch.inf).flatten(1).amax(dim=1)
        # An image without pixels has nothing to stretch.
        some = mask.flatten(1).any(dim=1)
        low, high = low.where(some, 0), high.where(some, 0)
    if images.is_floating_point():
        if check_values and not bool((low.isfinite() & high.isfinite()).all()):
            raise ValueError(
                f"slic: images has values from {low.min().item():g} to {high.max().item():g}, some infinite or NaN: "
                "channels should be finite"
            )
        if not check_values:
            values = values.nan_to_num(0, 0, 0)
            return _stretched(values, mask, levels, True)
    # Else the difference of large values, and the reciprocal of a small one, would be infinite.
    power = backend.power_to_near_one(torch.maximum(low.abs(), high.abs()))
    low, high = low * power, high * power
    scale = (levels / (high - low)).where(high > low, 0)
    values = values * power[:, None, None, None]
    stretched = (values - low[:, None, None, None]) * scale[:, None, None, None]
    if mask is not None:
        stretched = stretched.where(inside, 0)
    return stretched.round_().to(torch.int16)


def _cells(mask: Tensor, area: Tensor, n_segments: int) -> Tensor:
    """Labels (B, h, w) int32 of cells of equal size in a mask (B, h, w), -1 outside.

    There are as many as segments, or as pixels. Bands of rows are as high as a segment, and each is passed column by
    column in the other direction than the one before: whole columns make a cell, up to its share of the pixels.
    """
    height = mask.size(1)
    pixels = area.clamp(min=1)
    count = pixels.clamp(max=n_segments)
    thickness = (pixels / count).sqrt().round().long()
    band = torch.arange(height, device=mask.device) // thickness[:, None]
    band = band[:, :, None].expand(mask.shape)
    in_columns = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    in_columns.scatter_add_(1, band, mask.long())
    backwards = torch.arange(height, device=mask.device)[:, None] % 2 == 1
    passed = in_columns.where(~backwards, in_columns.flip(2))
    before = (passed.flatten(1).cumsum(dim=1) - passed.flatten(1)).view(mask.shape)
    cell = before * count[:, None, None] // pixels[:, None, None]
    cell = cell.where(~backwards, cell.flip(2))
    return cell.gather(1, band).where(mask, -1).int()


_MOST_DISTANCES = 2**22  # of pixels to centres, in memory at once


def _nearest_places(centres: Tensor, height: int, width: int, check_values: bool) -> Tensor:
    """Labels (B, h, w) int32: the nearest of centres (B, K, 2), the first of equals."""
    if check_values and centres.is_floating_point() and not bool(centres.isfinite().all()):
        raise ValueError("slic: centres has NaN or infinite values, they should be finite")
    # Integers in float64, which are exact as far as a picture may have pixels.
    places = (centres.double().nan_to_num(0).clamp(-(2**27), 2**27) * _PLACE_UNIT).round()
    across, along = (
        (_PLACE_UNIT * torch.arange(size, device=places.device)[:, None] - at[:, None]).square()
        for size, at in ((height, places[..., 0]), (width, places[..., 1]))
    )
    rows = max(1, _MOST_DISTANCES // (width * centres.size(1)))
    labels = [
        (one[:, None] + other).argmin(dim=2)
        for each, other in zip(across, along, strict=True)
        for one in each.split(rows)
    ]
    return torch.cat(labels).view(-1, height, width).int()


def _scales(area: Tensor, n_segments: int, compactness: float, unit: int, longest: int) -> Tensor:
    """(B, 3) int64 of images with `area` (B,) pixels: reach and weight, as in `slic_grid`, and the pixels."""
    pixels = area.clamp(min=1)
    spacing = (pixels / pixels.clamp(max=n_segments)).sqrt()
    reach = (_REACH * spacing).ceil().long().clamp(max=longest)
    per_pixel = compactness * compactness * n_segments / pixels.double()
    weight = per_pixel * ((unit / _PLACE_UNIT) ** 2 * 2**_WEIGHT_BITS)
    limit = 2 ** (29 + _WEIGHT_BITS) // (_PLACE_UNIT * (reach + 1)).square()
    return torch.stack([reach, weight.minimum(limit.double()).round().long(), area], dim=1)


def _kernel(
    images: Tensor,
    n_segments: int,
    compactness: float,
    max_num_iter: int,
    enforce_connectivity: bool,
    check_values: bool = True,
    mask: Tensor | None = None,
    centres: Tensor | None = None,
    slic_zero: bool = False,
    is_rgb: bool = True,
    start_label: int = 0,
) -> Tensor:
    batch, _, height, width = images.shape
    labels = images.new_empty((batch, height, width), dtype=torch.int32)
    if labels.numel() == 0:
        return labels
    begin = _begin(images, n_segments, compactness, mask, centres, slic_zero, is_rgb, check_values)
    planes, device = backend.rows_contiguous(begin.planes), images.device
    layers = -(-planes.size(1) // 3)
    backend.run(
        "slic",
        planes,
        labels,
        *_tables(device, planes.dtype == torch.uint8),
        None if begin.start is None else begin.start.contiguous(),
        begin.scales,
        backend.scratch("slic", batch, height, width, begin.centres, layers, device=device),
        *begin.grid,
        max_num_iter,
        begin.least_contrast,
        enforce_connectivity,
        device=device,
    )
    return labels if start_label == 0 else labels.add_(start_label)


def _fake(images: Tensor, *_: Any) -> Tensor:
    return images.new_empty((images.size(0), *images.shape[2:]), dtype=torch.int32)


_slic = backend.define(
    "slic",
    "(Tensor images, int n_segments, float compactness, int max_num_iter, bool enforce_connectivity, "
    "bool check_values=True, Tensor? mask=None, Tensor? centres=None, bool slic_zero=False, bool is_rgb=True, "
    "int start_label=0) -> Tensor",
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
    mask: Tensor | None = None,
    centres: Tensor | None = None,
    slic_zero: bool = False,
    convert2lab: bool | None = None,
    start_label: int = 0,
) -> Tensor:
    """What `slic` computes, image by image and centre by centre."""
    is_rgb = _check(
        images, n_segments, compactness, max_num_iter, mask, centres, convert2lab, start_label
    )
    batch, _, height, width = images.shape
    if batch * height * width == 0:
        return torch.empty(batch, height, width, dtype=torch.int32)
    images = images.cpu()
    mask = None if mask is None else mask.cpu().bool()
    centres = None if centres is None else centres.cpu()
    begin = _begin(images, n_segments, compactness, mask, centres, slic_zero, is_rgb, False)
    colours = lab_reference(begin.planes) if is_rgb else begin.planes.long()
    grid, count = begin.grid, begin.centres
    segmented = []
    for i, colour in enumerate(colours):
        if begin.start is None or begin.scales is None:
            row = torch.arange(height) * grid.rows // height
            column = torch.arange(width) * grid.columns // width
            labels, pixels = row[:, None] * grid.columns + column, height * width
        else:
            reach, weight, pixels = begin.scales[i].tolist()
            labels, grid = begin.start[i].long(), SlicGrid(1, count, reach, reach, weight)
        nowhere = torch.full((count, 2 + len(colour)), _NOWHERE)
        means = _means(colour, labels, nowhere)
        contrasts = torch.full((count,), begin.least_contrast)
        for number in range(max_num_iter):
            if number > 0 and slic_zero:
                contrasts = _largest_contrasts(colour, labels, means, contrasts)
            factors = float(begin.least_contrast) / contrasts.float() if slic_zero else None
            nearest = _nearest_centres(colour, labels, means, grid, factors)
            if torch.equal(nearest, labels):
                break
            labels = nearest
            means = _means(colour, labels, means)
        if enforce_connectivity:
            labels = _connected(colour, labels, pixels, count)
        inside = labels >= 0
        labels[inside] = labels[inside].unique(return_inverse=True)[1]
        segmented.append(labels + start_label)
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


def _means(colour: Tensor, labels: Tensor, before: Tensor) -> Tensor:
    """Each segment's mean (K, 2 + C) int64: y, x, channels, rounded; an empty one stays as it was."""
    inside, count = labels >= 0, len(before)
    y, x = (place * _PLACE_UNIT for place in inside.nonzero(as_tuple=True))
    labels = labels[inside]
    pixels = torch.bincount(labels, minlength=count)
    means = torch.stack(
        [_rounded_means(values, labels, pixels) for values in (y, x, *colour[:, inside])], dim=1
    )
    return torch.where(pixels[:, None] > 0, means, before)


def _rounded_means(values: Tensor, labels: Tensor, pixels: Tensor) -> Tensor:
    """floor(mean + 1/2) of values (N,) by labels (N,)."""
    sums = torch.zeros_like(pixels).index_add_(0, labels, values)
    return (2 * sums + pixels).div(2 * pixels.clamp(min=1), rounding_mode="floor")


def _largest_contrasts(colour: Tensor, labels: Tensor, means: Tensor, before: Tensor) -> Tensor:
    """(K,): the largest squared difference of a segment's pixels to its mean colour, or `before`, what it was."""
    inside = labels >= 0
    labels = labels[inside]
    contrast = (colour[:, inside] - means[labels, 2:].T).square().sum(dim=0)
    return before.scatter_reduce(0, labels, contrast, "amax")


def _nearest_centres(
    lab: Tensor, labels: Tensor, centres: Tensor, grid: SlicGrid, factors: Tensor | None
) -> Tensor:
    """Each pixel's nearest centre of those whose window it lies in, the first of equals; in none, it stays.

    `factors` (K,) are those of SLICO.
    """
    height, width = labels.shape
    outside = labels < 0
    labels, nearest = labels.clone(), torch.full_like(labels, 2**31 - 1)
    for number, (y, x, *colour) in enumerate(centres.tolist()):
        if y == _NOWHERE:
            continue
        middle_y, middle_x = ((v + _PLACE_UNIT // 2) // _PLACE_UNIT for v in (y, x))
        rows = slice(max(0, middle_y - grid.reach_y), middle_y + grid.reach_y + 1)
        columns = slice(max(0, middle_x - grid.reach_x), middle_x + grid.reach_x + 1)
        across = _place_term(torch.arange(height)[rows] * _PLACE_UNIT - y, grid.weight)
        along = _place_term(torch.arange(width)[columns] * _PLACE_UNIT - x, grid.weight)
        difference = lab[:, rows, columns] - torch.tensor(colour)[:, None, None]
        contrast = difference.square().sum(dim=0)
        if factors is not None:
            contrast = (contrast.float() * factors[number]).long()
        distance = contrast + across[:, None] + along
        closer = distance < nearest[rows, columns]
        nearest[rows, columns][closer] = distance[closer]
        labels[rows, columns][closer] = number
    return labels.masked_fill(outside, -1)


def _place_term(offset: Tensor, weight: int) -> Tensor:
    return (offset.square() * weight) >> _WEIGHT_BITS


def _connected(lab: Tensor, labels: Tensor, inside: int, count: int) -> Tensor:
    """4-connected pieces, each named by its first pixel; outside stays -1.

    None that touches another is smaller than half of `inside / count`, the mean of the pixels inside.
    """
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
    pairs = pairs[:, (flat[pairs] >= 0).all(dim=0)]
    pieces = _joined(torch.arange(pixels), pairs[:, flat[pairs[0]] == flat[pairs[1]]])
    both_ways = torch.cat([pairs, pairs.flip(0)], dim=1)
    while True:
        sizes = torch.bincount(pieces, minlength=pixels)
        is_small = 2 * sizes * count < inside
        between = pieces[both_ways]
        between = between[:, (between[0] != between[1]) & is_small[between[0]]]
        if between.numel() == 0:
            return pieces.where(flat >= 0, -1).view_as(labels)
        means = torch.stack([_rounded_means(v, pieces, sizes) for v in lab.flatten(1)])
        contrast = (means[:, between[0]] - means[:, between[1]]).square().sum(dim=0)
        # Of equal contrasts the neighbour whose first pixel comes first.
        choice = torch.full((pixels,), 2**62).scatter_reduce(
            0, between[0], contrast * pixels + between[1], "amin"
        )
        small = between[0].unique()
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
