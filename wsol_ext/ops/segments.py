"""Operators on superpixels: the mean and the mode of an image over each of its segments."""

import torch
from torch import Tensor

from wsol_ext.ops import _backend as backend


def segment_mean(values: Tensor, labels: Tensor) -> Tensor:
    """Each pixel's value replaced by the mean over its segment.

    ``out[b, c, p] = mean of values[b, c, q] over all q with labels[b, q] = labels[b, p]``

    What superpixel pooling of localization maps comes to (MOLT). A NaN or an infinity reaches its own segment of its own
    channel only.

    Args:
        values: (B, C, h, w) or (B, h, w), float32, bfloat16, float16 or float64.
        labels: (B, h, w) int32 or int64, each in [0, h w). A number that an image does not use costs little memory, no
            more.

    Returns:
        Shape and dtype of `values`; sums are kept in float64 and every mean is rounded once. The same bits for any
        number of threads, and on every run.

    Raises:
        TypeError: a dtype that is none of these.
        ValueError: shapes that do not fit, tensors on two devices, or, on the CPU, a label outside [0, h w). On CUDA
            nothing waits to see that: a pixel with such a label is NaN, and others are what they should be.

    Differentiable in values, any number of times: the operator is its own transpose. Autocast casts nothing.

    Example:
        >>> labels = torch.tensor([[[0, 0, 1], [0, 1, 1]]])
        >>> segment_mean(torch.tensor([[[1.0, 2.0, 6.0], [3.0, 0.0, 0.0]]]), labels)
        tensor([[[2., 2., 2.],
                 [2., 2., 2.]]])
    """
    return segment_mean_reference(values, labels)


def segment_mean_reference(values: Tensor, labels: Tensor) -> Tensor:
    """`segment_mean` in plain PyTorch: its definition, and the tests' oracle."""
    pixels = labels.size(1) * labels.size(2)
    planes = values.unsqueeze(1) if values.dim() == 3 else values
    planes = planes.flatten(2).to(backend.accumulator_dtype(values.dtype))
    index = labels.long().flatten(1).unsqueeze(1)
    counts = planes.new_zeros((labels.size(0), 1, pixels))
    counts = counts.scatter_add(2, index, planes.new_ones(index.shape))
    index = index.expand(planes.shape)
    sums = torch.zeros_like(planes).scatter_add(2, index, planes)
    means = (sums / counts).gather(2, index)
    return means.to(values.dtype).view(values.shape)


def segment_mode(classes: Tensor, labels: Tensor) -> Tensor:
    """Each pixel's class replaced by the commonest class of its segment, the smallest of those that are equally common.

    The vote of a superpixel's pixels (MOLT).

    Args:
        classes: (B, h, w) int32, int64 or uint8, of any values.
        labels: (B, h, w) int32 or int64, each in [0, h w).

    Returns:
        (B, h, w), dtype of `classes`; not differentiable. Memory does not grow with the values of the classes.

    Raises:
        TypeError: a dtype that is none of these.
        ValueError: shapes that do not fit, tensors on two devices, or, on the CPU, a label outside [0, h w). On CUDA
            nothing waits to see that: a pixel with such a label gets -1 (255 of uint8), and others what they should.

    Example:
        >>> labels = torch.tensor([[[0, 0, 1], [0, 1, 1]]])
        >>> segment_mode(torch.tensor([[[7, 9, 2], [9, 5, 4]]]), labels)
        tensor([[[9, 9, 2],
                 [9, 2, 2]]])
    """
    return segment_mode_reference(classes, labels)


def segment_mode_reference(classes: Tensor, labels: Tensor) -> Tensor:
    """`segment_mode` in plain PyTorch: its definition, and the tests' oracle."""
    if classes.numel() == 0:
        return torch.empty_like(classes)
    first = torch.arange(labels.size(0), device=labels.device) * labels[0].numel()
    segments = (first[:, None, None] + labels).flatten()  # of all images
    pairs, counts = torch.unique(
        torch.stack([segments, classes.flatten().long()]), dim=1, return_counts=True
    )
    most = torch.zeros_like(segments).scatter_reduce(0, pairs[0], counts, "amax")
    segment, class_ = pairs[:, counts == most[pairs[0]]]
    modes = torch.full_like(segments, torch.iinfo(torch.int64).max)
    modes = modes.scatter_reduce(0, segment, class_, "amin")
    return modes[segments].view(classes.shape).to(classes.dtype)
