"""How good a partition into superpixels is: against the image's colours, and against a known partition."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["boundary_recall", "explained_variation", "undersegmentation_error"]


def explained_variation(values: Tensor, labels: Tensor) -> Tensor:
    """Share of an image's variation that remains when every pixel takes the mean over its segment.

    R^2 of Moore et al. (Superpixel Lattices, CVPR 2008), over an image's pixels p:
    ``sum |mean of p's segment - mean of the image|^2 / sum |value of p - mean of the image|^2``.
    It needs no annotation; higher is better, and more segments explain more, so compare at equal numbers of segments.

    Args:
        values: (B, C, h, w), floating point; CIELAB for colours as people see them.
        labels: (B, h, w), integers; equal numbers within an image are one segment, connected or not.

    Returns:
        (B,) float64 in [0, 1]; 1 for an image whose pixels are all equal, which leaves nothing to explain.

    Raises:
        TypeError: values that are not floating point, or labels that are not integers.
        ValueError: shapes that do not fit, or images without pixels.

    Example:
        >>> values = torch.tensor([[[[0.0, 2.0, 10.0, 12.0]]]])
        >>> explained_variation(values, torch.tensor([[[0, 0, 1, 1]]]))
        tensor([0.9615], dtype=torch.float64)
    """
    if not values.is_floating_point():
        raise TypeError(
            f"explained_variation: values is {values.dtype}, it should be floating point"
        )
    if values.dim() != 4 or values.size(1) < 1:
        raise ValueError(
            f"explained_variation: values has shape {tuple(values.shape)}, it should be (B, C, h, w) with C >= 1"
        )
    _check_labels("explained_variation", "labels", labels)
    batch, _, *size = values.shape
    if labels.shape != (batch, *size):
        raise ValueError(
            f"explained_variation: labels has shape {tuple(labels.shape)}, it should be {(batch, *size)} as values"
        )
    pixels = values.detach().double().permute(0, 2, 3, 1).flatten(1, 2)  # (B, h w, C)
    deviation = pixels - pixels.mean(dim=1, keepdim=True)
    segments, count = _numbered(labels)
    sums = deviation.new_zeros(count, deviation.size(2)).index_add_(
        0, segments.flatten(), deviation.flatten(0, 1)
    )
    areas = torch.bincount(segments.flatten(), minlength=count)
    means = (sums / areas[:, None])[segments]
    explained, total = means.square().sum(dim=(1, 2)), deviation.square().sum(dim=(1, 2))
    constant = (pixels == pixels[:, :1]).all(dim=2).all(dim=1)
    return torch.where(constant, 1.0, explained / total)


def boundary_recall(labels: Tensor, truth: Tensor, tolerance: int = 2) -> Tensor:
    """Share of the true boundary's pixels that have a segment boundary near them.

    Boundary recall as Neubert and Protzel define it (Superpixel Benchmark and Comparison, Forum Bildverarbeitung
    2012): near means in the square of ``2 tolerance + 1`` pixels' side around the pixel. A pixel is on the boundary
    where its right or its lower neighbour has another label. Higher is better; ragged segments and many segments have
    it cheaply, so read it beside `undersegmentation_error` at equal numbers of segments.

    Args:
        labels: (B, h, w), integers; the segments.
        truth: (B, h, w), integers; the partition that is to be found.
        tolerance: in pixels, at least 0.

    Returns:
        (B,) float64 in [0, 1]; 1 where the truth has no boundary.

    Raises:
        TypeError: labels or truth that are not integers.
        ValueError: shapes that do not fit, images without pixels, or a negative tolerance.

    Example:
        >>> truth = torch.tensor([[[0, 0, 0, 1, 1, 1]]])
        >>> labels = torch.tensor([[[0, 1, 1, 1, 1, 1]]])
        >>> [boundary_recall(labels, truth, tolerance).item() for tolerance in (1, 2)]
        [0.0, 1.0]
    """
    _check_pair("boundary_recall", labels, truth)
    if tolerance < 0:
        raise ValueError(f"boundary_recall: tolerance is {tolerance}, it should be at least 0")
    wanted, found = _boundary(truth), _boundary(labels)
    near = F.max_pool2d(found[:, None].float(), 2 * tolerance + 1, 1, tolerance)[:, 0] > 0
    hits, total = (mask.sum(dim=(1, 2)).double() for mask in (wanted & near, wanted))
    return torch.where(total > 0, hits / total, 1.0)


def undersegmentation_error(labels: Tensor, truth: Tensor) -> Tensor:
    """Share of the pixels by which segments leak over true boundaries.

    Neubert and Protzel's form (Superpixel Benchmark and Comparison, Forum Bildverarbeitung 2012, equation 2), which no
    parameter enters: ``1 / N sum over true regions G, segments S that meet G, of min(|S within G|, |S outside G|)``. A
    segment that leaks counts its smaller part, so one that brushes a region costs little. Lower is better.

    Args:
        labels: (B, h, w), integers; the segments.
        truth: (B, h, w), integers; the true regions, connected or not.

    Returns:
        (B,) float64, 0 where every segment lies within one region.

    Raises:
        TypeError: labels or truth that are not integers.
        ValueError: shapes that do not fit, or images without pixels.

    Example:
        >>> truth = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
        >>> labels = torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 1]]])
        >>> undersegmentation_error(labels, truth)  # one pixel leaks, and counts in both regions
        tensor([0.2500], dtype=torch.float64)
    """
    _check_pair("undersegmentation_error", labels, truth)
    segments, count = _numbered(labels)
    regions, _ = _numbered(truth)
    areas = torch.bincount(segments.flatten(), minlength=count)
    meetings, within = torch.unique(regions * count + segments, return_counts=True)
    meeting_segments = meetings % count
    leaks = torch.minimum(within, areas[meeting_segments] - within)
    # A segment's image: every segment is of one image alone.
    images = torch.zeros_like(areas)
    images[segments.flatten(1)] = torch.arange(len(labels), device=labels.device)[:, None]
    totals = areas.new_zeros(len(labels)).index_add_(0, images[meeting_segments], leaks)
    return totals.double() / labels[0].numel() if len(labels) else totals.double()


def _numbered(labels: Tensor) -> tuple[Tensor, int]:
    """Segments of all images, numbered together: (B, h w) int64, and how many there are."""
    own, ranks = torch.unique(labels.flatten(1), return_inverse=True)
    images = torch.arange(len(labels), device=labels.device)[:, None]
    numbers, segments = torch.unique(images * max(len(own), 1) + ranks, return_inverse=True)
    return segments, len(numbers)


def _boundary(labels: Tensor) -> Tensor:
    """(B, h, w) bool: the right or the lower neighbour has another label."""
    boundary = torch.zeros_like(labels, dtype=torch.bool)
    boundary[:, :, :-1] |= labels[:, :, 1:] != labels[:, :, :-1]
    boundary[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    return boundary


def _check_labels(operator: str, name: str, labels: Tensor) -> None:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{operator}: {name} is {labels.dtype}, it should be integers")
    if labels.dim() != 3 or 0 in labels.shape[1:]:
        raise ValueError(
            f"{operator}: {name} has shape {tuple(labels.shape)}, it should be (B, h, w) with h, w >= 1"
        )


def _check_pair(operator: str, labels: Tensor, truth: Tensor) -> None:
    _check_labels(operator, "labels", labels)
    _check_labels(operator, "truth", truth)
    if labels.shape != truth.shape:
        raise ValueError(
            f"{operator}: truth has shape {tuple(truth.shape)}, it should be {tuple(labels.shape)} as labels"
        )
