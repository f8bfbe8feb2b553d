"""Operators on superpixels: the mean and the mode of an image over each of its segments."""

from typing import Any

import torch
from torch import Tensor

from wsol_ext.ops import _backend as backend

__all__ = ["segment_mean", "segment_mean_reference", "segment_mode", "segment_mode_reference"]


def segment_mean(values: Tensor, labels: Tensor) -> Tensor:
    """Each pixel's value replaced by the mean over its segment.

    ``out[b, c, p] = mean of values[b, c, q] over all q with labels[b, q] = labels[b, p]``

    What superpixel pooling of localization maps comes to (MOLT). A NaN or an infinity reaches its own segment of its
    own channel only.

    Args:
        values: (B, C, h, w) or (B, h, w), float32, bfloat16, float16 or float64.
        labels: (B, h, w) int32 or int64, each in [0, h w); not all numbers need be used.

    Returns:
        Shape and dtype of `values`; sums are kept in float64 and means are rounded at the end. The same bits for any
        number of threads, and on every run.

    Raises:
        TypeError: a dtype that is none of these.
        ValueError: shapes that do not fit, tensors on two devices, or, on the CPU, a label outside [0, h w). On CUDA
            nothing waits to see that: a pixel with such a label is NaN, and others are what they should be.

    Differentiable in values, any number of times and in either mode: the operator is its own transpose. Autocast casts
    nothing.

    Example:
        >>> labels = torch.tensor([[[0, 0, 1], [0, 1, 1]]])
        >>> segment_mean(torch.tensor([[[1.0, 2.0, 6.0], [3.0, 0.0, 0.0]]]), labels)
        tensor([[[2., 2., 2.],
                 [2., 2., 2.]]])
    """
    return _segment_mean(values, labels)


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
        classes: (B, h, w) or flat (B, N), int32, int64 or uint8, of any values.
        labels: (B, h, w) or (B, N) likewise, int32 or int64, each in [0, h w) or [0, N).

    Returns:
        Shape and dtype of `classes`; not differentiable. Memory does not grow with the values of the classes.

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
    found = backend.at_once("segment_mode", classes, labels)
    if found is not None:
        return found
    if (
        isinstance(classes, Tensor)
        and isinstance(labels, Tensor)
        and classes.dim() == labels.dim() == 2
    ):
        backend.check_tensor("segment_mode", "labels", labels, classes.shape, _LABELS)
        return _segment_mode(classes.unsqueeze(1), labels.unsqueeze(1)).squeeze(1)
    return _segment_mode(classes, labels)


def segment_mode_reference(classes: Tensor, labels: Tensor) -> Tensor:
    """`segment_mode` in plain PyTorch: its definition, and the tests' oracle."""
    if classes.dim() == 2:
        return segment_mode_reference(classes.unsqueeze(1), labels.unsqueeze(1)).squeeze(1)
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


# --- checks


_LABELS = (torch.int32, torch.int64)
_CLASSES = (torch.uint8, torch.int32, torch.int64)
_MOST_PIXELS = backend.constants["most_segmented_pixels"]  # of an image


def _check_labels(operator: str, argument: str, tensor: Tensor, labels: Tensor) -> None:
    """Raise unless `labels` are those of the images in `tensor`, whose last two dimensions are theirs."""
    height, width = tensor.shape[-2:]
    backend.check_tensor(operator, "labels", labels, (tensor.size(0), height, width), _LABELS)
    backend.check_same_device(operator, **{argument: tensor, "labels": labels})
    if height * width > _MOST_PIXELS:
        raise ValueError(
            f"{operator}: {argument} has shape {tuple(tensor.shape)}, an image should have fewer than "
            f"{_MOST_PIXELS + 1:,} pixels"
        )


def _run(name: str, values: Tensor, labels: Tensor, out: Tensor) -> Tensor:
    """Call a kernel on values (B, …, h, w) and labels (B, h, w), which it sees as rows of pixels; gives `out`."""
    if out.numel() > 0:
        images, pixels = labels.size(0), labels.size(1) * labels.size(2)
        rows = (images, -1, pixels) if values.is_floating_point() else (images, pixels)
        backend.run(
            name,
            values.contiguous().view(rows),
            labels.contiguous().view(images, pixels),
            out.view(rows),
            backend.scratch(name, images, pixels, device=out.device),
            device=out.device,
        )
    return out


# --- segment_mean


def _mean_fake(values: Tensor, labels: Tensor) -> Tensor:
    name = "segment_mean"
    channels = ("C",) if isinstance(values, Tensor) and values.dim() != 3 else ()
    backend.check_tensor(name, "values", values, ("B", *channels, "h", "w"), backend.FLOATING)
    _check_labels(name, "values", values, labels)
    return values.new_empty(*values.shape)


@backend.remembered
def _checked_mean(values: Tensor, labels: Tensor) -> None:
    _mean_fake(values, labels)


def _mean(values: Tensor, labels: Tensor) -> Tensor:
    _checked_mean(values, labels)
    return _run("segment_mean", values, labels, values.new_empty(*values.shape))


def _setup_mean(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _mean_autograd(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None]:
    (labels,) = ctx.saved_tensors
    return _segment_mean(grad_out, labels), None


def _mean_tangent(primals: list[Any], tangents: list[Tensor]) -> Tensor:
    return _segment_mean(tangents[0], primals[1])  # it is linear


_segment_mean = backend.define(
    "segment_mean", "(Tensor values, Tensor labels) -> Tensor", _mean, _mean_fake
)
backend.differentiate("segment_mean", _mean_autograd, _setup_mean, _mean_tangent)


# --- segment_mode


def _mode_fake(classes: Tensor, labels: Tensor) -> Tensor:
    name = "segment_mode"
    backend.check_tensor(name, "classes", classes, ("B", "h", "w"), _CLASSES)
    _check_labels(name, "classes", classes, labels)
    return classes.new_empty(*classes.shape)


@backend.remembered
def _checked_mode(classes: Tensor, labels: Tensor) -> None:
    _mode_fake(classes, labels)


def _mode(classes: Tensor, labels: Tensor) -> Tensor:
    _checked_mode(classes, labels)
    return _run("segment_mode", classes, labels, classes.new_empty(*classes.shape))


_segment_mode = backend.define(
    "segment_mode", "(Tensor classes, Tensor labels) -> Tensor", _mode, _mode_fake
)
