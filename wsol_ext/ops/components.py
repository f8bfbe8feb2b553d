"""Connected components of masks."""

from typing import NamedTuple

import torch
from torch import Tensor

from wsol_ext.ops import _backend as backend

__all__ = ["Components", "label_components"]

_NAME = "label_components"
_MASKS = (torch.bool, torch.uint8)
_LARGEST_SIDE = backend.constants["largest_map_side"]


class Components(NamedTuple):
    """What `label_components` finds in B masks: M components in all.

    The components of image b are ``slice(offsets[b], offsets[b + 1])`` of areas, boxes and sums, label 1 first.

    Attributes:
        labels: (B, H, W) int32: 0 is background, an image's components are 1 to counts[b].
        counts: (B,) int64: an image's components.
        offsets: (B + 1,) int64: the first of each image's components, and M.
        areas: (M,) int32, in pixels.
        boxes: (M, 4) int32, ``[x0, y0, x1, y1]`` in pixels, x1 and y1 exclusive, as those of `extract_boxes`.
        sums: (M,), of each component's values, float32, or float64 for values in float64; None without values.
    """

    labels: Tensor
    counts: Tensor
    offsets: Tensor
    areas: Tensor
    boxes: Tensor
    sums: Tensor | None


def label_components(
    masks: Tensor, connectivity: int = 8, values: Tensor | None = None
) -> Components:
    """The connected components of each mask, with their areas, boxes and sums of values.

    Labels are those of OpenCV's ``connectedComponentsWithStats`` by its default algorithm, their order included: for
    connectivity 4 components are numbered by their first pixel in raster order, for 8 by their first block of 2 x 2
    pixels, blocks in raster order (Grana et al., IEEE TIP 2010).

    Args:
        masks: (B, H, W) bool or uint8, of which all but 0 is foreground; sides up to 32,767.
        connectivity: 8, where pixels touch at corners too, or 4.
        values: (B, H, W) float32, bfloat16, float16 or float64, to be summed over each component.

    Returns:
        `Components`. Sums are made in float64, and NaN or infinite where a component's values are. On CUDA this waits
        for the number of components; `torch.compile` of torch 2.6 wants
        ``torch._dynamo.config.capture_dynamic_output_shape_ops``.

    Raises:
        TypeError: a dtype that is none of these.
        ValueError: a shape that does not fit, tensors on two devices, or another connectivity.

    Not differentiable: results require no gradient, and a forward-mode tangent is a NotImplementedError. The same bits
    for any number of threads, and alone as in a batch.

    Example:
        >>> mask = torch.tensor([[[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]], dtype=torch.bool)
        >>> found = label_components(mask)
        >>> found.areas
        tensor([3, 1], dtype=torch.int32)
        >>> found.boxes
        tensor([[0, 0, 3, 2],
                [0, 3, 1, 4]], dtype=torch.int32)
        >>> label_components(mask, connectivity=4).counts
        tensor([3])
    """
    if values is None:
        (masks,) = backend.constant(_NAME, masks=masks)
        labels, counts, offsets, areas, boxes = _label_components(masks, connectivity)
        return Components(labels, counts, offsets, areas, boxes, None)
    for argument, tensor in (("masks", masks), ("values", values)):
        if not isinstance(tensor, Tensor):  # said here by the name that was called
            raise backend.not_a_tensor(_NAME, argument, tensor)
    masks, values = backend.constant(_NAME, masks=masks, values=values)
    return Components(*_label_and_sum_components(masks, values, connectivity))


def _check(masks: Tensor, connectivity: int, values: Tensor | None) -> None:
    backend.check_tensor(_NAME, "masks", masks, ("B", "H", "W"), _MASKS)
    _, height, width = masks.shape
    if not (0 < height <= _LARGEST_SIDE and 0 < width <= _LARGEST_SIDE):
        raise ValueError(
            f"{_NAME}: masks has shape {tuple(masks.shape)}, its sides should be 1 to {_LARGEST_SIDE:,} pixels"
        )
    backend.check_whole(_NAME, "connectivity", connectivity)
    if connectivity not in (4, 8):
        raise ValueError(f"{_NAME}: connectivity is {connectivity}, it should be 4 or 8")
    if values is not None:
        backend.check_tensor(_NAME, "values", values, tuple(masks.shape), backend.FLOATING)
        backend.check_same_device(_NAME, masks=masks, values=values)


_check_once = backend.remembered(_check)


def _find(masks: Tensor, connectivity: int, values: Tensor | None) -> tuple[Tensor, ...]:
    _check_once(masks, connectivity, values)
    device, images, corners_touch = masks.device, masks.size(0), connectivity == 8
    labels = masks.new_empty(masks.shape, dtype=torch.int32)
    counts = masks.new_empty(images, dtype=torch.int64)
    offsets = counts.new_zeros(images + 1)
    scratch = found = None
    if images > 0:
        masks = backend.rows_contiguous(masks)
        values = None if values is None else backend.rows_contiguous(values)
        scratch = backend.scratch(_NAME, *masks.shape, corners_touch, device=device)
        found = backend.run(
            _NAME, masks, values, labels, counts, scratch, corners_touch, device=device
        )
        torch.cumsum(counts, dim=0, out=offsets[1:])
    total = int(offsets[-1].item())
    areas, boxes = labels.new_empty(total), labels.new_empty((total, 4))
    sums = None if values is None else values.new_empty(total, dtype=_sum_dtype(values))
    if total > 0:
        measure = "measure_components"
        sum_scratch = backend.scratch(measure, images, total, values is not None, device=device)
        outputs = (areas, boxes, sums, scratch, sum_scratch, found)
        backend.run(measure, values, labels, offsets, *outputs, corners_touch, device=device)
    results = (labels, counts, offsets, areas, boxes)
    return results if sums is None else (*results, sums)


def _sum_dtype(values: Tensor) -> torch.dtype:
    return backend.accumulator_dtype(values.dtype)


def _fake_find(masks: Tensor, connectivity: int, values: Tensor | None) -> tuple[Tensor, ...]:
    _check(masks, connectivity, values)
    images = masks.size(0)
    labels = masks.new_empty(masks.shape, dtype=torch.int32)
    counts = masks.new_empty(images, dtype=torch.int64)
    total = torch.library.get_ctx().new_dynamic_size()
    areas, boxes = labels.new_empty(total), labels.new_empty((total, 4))
    results = (labels, counts, counts.new_empty(images + 1), areas, boxes)
    return (
        results if values is None else (*results, values.new_empty(total, dtype=_sum_dtype(values)))
    )


def _label_kernel(masks: Tensor, connectivity: int) -> tuple[Tensor, ...]:
    return _find(masks, connectivity, None)


def _label_fake(masks: Tensor, connectivity: int) -> tuple[Tensor, ...]:
    return _fake_find(masks, connectivity, None)


def _sum_kernel(masks: Tensor, values: Tensor, connectivity: int) -> tuple[Tensor, ...]:
    return _find(masks, connectivity, values)


def _sum_fake(masks: Tensor, values: Tensor, connectivity: int) -> tuple[Tensor, ...]:
    return _fake_find(masks, connectivity, values)


_label_components = backend.define(
    _NAME,
    "(Tensor masks, int connectivity) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _label_kernel,
    _label_fake,
    in_cuda_graphs=False,  # how many components there are is asked of the device
)
_label_and_sum_components = backend.define(
    "label_and_sum_components",
    "(Tensor masks, Tensor values, int connectivity) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _sum_kernel,
    _sum_fake,
    in_cuda_graphs=False,
)
