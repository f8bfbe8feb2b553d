"""Box operators: boxes around what of a score map exceeds thresholds, and their overlap."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsol_ext.ops import _backend as backend

__all__ = [
    "Contours",
    "GtBoxes",
    "OneContour",
    "Thresholds",
    "best_box_iou",
    "box_iou",
    "box_iou_reference",
    "boxes_in_tree_order",
    "extract_boxes",
    "shared_area",
]

Contours = Literal["largest", "all"]
OneContour = Literal["largest", "most_pixels"]
Thresholds = Tensor | Sequence[float] | NDArray[np.floating] | float
GtBoxes = Tensor | NDArray[Any] | Sequence[Tensor | NDArray[Any] | Sequence[Sequence[float]]]

_INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_LARGEST_SIDE = backend.constants["largest_map_side"]


@overload
def extract_boxes(
    score_maps: Tensor,
    thresholds: Thresholds,
    contours: OneContour = "largest",
    *,
    check_values: bool = True,
    clip: bool = False,
) -> Tensor: ...


@overload
def extract_boxes(
    score_maps: Tensor,
    thresholds: Thresholds,
    contours: Literal["all"],
    *,
    check_values: bool = True,
    clip: bool = False,
) -> tuple[Tensor, Tensor]: ...


def extract_boxes(
    score_maps: Tensor,
    thresholds: Thresholds,
    contours: OneContour | Literal["all"] = "largest",
    *,
    check_values: bool = True,
    clip: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Boxes around what of each score map lies above each threshold.

    The box step of MaxBoxAcc (Choe et al., CVPR 2020). A map is quantized, ``u = floor(255 * s)`` in
    float64; a pixel is foreground at threshold t where ``u > floor(t * max(u))``; boxes are those of
    the contours that OpenCV's ``findContours(RETR_TREE)`` finds.

    Maps on CUDA are answered there, by a block for each map and distinct cut, and boxes stay there;
    nothing goes by way of the CPU. For a few maps and thresholds that takes longer than
    ``score_maps.cpu()`` first would: docs/gpu.md.

    Args:
        score_maps: (B, h, w), in [0, 1], float32, bfloat16, float16 or float64; sides up to 32,767.
        thresholds: T numbers in [0, 1), in any order: a number, a sequence, an array, or a floating
            tensor () or (T,) on the maps' device. They are used in float64, as they are: 0.3 in
            float32 is a little more than 0.3.
        contours: ``"largest"``: only the contour of largest area (``cv2.contourArea``; the first of
            equals in OpenCV's order). ``"most_pixels"``: only the outer contour of the 8-connected
            component with most pixels, holes not counted; of equals the one whose first pixel in raster
            order comes first. ``"all"``: every contour, of components and of holes alike; a hole's box
            is its pixels' box grown by one.
        check_values: whether values out of range are an error. On CUDA that waits for the kernel.
            Without it nothing waits; a score out of range counts as the nearest in range, NaN as 0,
            and a threshold out of range as 0.
        clip: whether boxes are clipped to x1 <= w - 1 and y1 <= h - 1, as evaluators go on to do, and
            as `best_box_iou` does.

    Returns:
        For ``"largest"`` and ``"most_pixels"``: boxes (B, T, 4) int32, ``[x0, y0, x1, y1]`` in pixels,
        x1 and y1 exclusive; zeros where nothing is foreground.

        For ``"all"``: boxes (M, 4) int32 and offsets (B * T + 1,) int64. Those of image b at threshold
        t are ``boxes[offsets[b * T + t] : offsets[b * T + t + 1]]``: outer contours, then holes, each
        in raster order of the first pixel of their component or hole; one box of zeros where nothing
        is foreground, as in the evaluator. On CUDA this waits for the number of boxes; `torch.compile` of torch 2.6
        wants ``torch._dynamo.config.capture_dynamic_output_shape_ops``.

    Raises:
        TypeError: a dtype that is none of these.
        ValueError: a shape that does not fit, tensors on two devices, a score that is NaN or outside
            [0, 1], or a threshold outside [0, 1).

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:5, 1:7] = 0.5
        >>> score_map[0, 3, 3] = 1.0
        >>> extract_boxes(score_map, [0.2, 0.8])
        tensor([[[1, 2, 7, 5],
                 [3, 3, 4, 4]]], dtype=torch.int32)
    """
    name = "extract_boxes"
    found = backend.at_once(name, score_maps, thresholds, contours, check_values, clip)
    if found is not None:
        return found
    _check_contours(name, contours, ("largest", "most_pixels", "all"))
    backend.check_flag(name, "check_values", check_values)
    backend.check_flag(name, "clip", clip)
    score_maps = _constant_maps(name, score_maps)
    thresholds = _threshold_tensor(name, thresholds, score_maps)
    if contours == "all":
        boxes, offsets = _all_boxes_operator(score_maps, thresholds, check_values)
        return (_clip(boxes, score_maps) if clip else boxes), offsets
    boxes = _boxes_operator(score_maps, thresholds, check_values, contours == "most_pixels")
    return _clip(boxes, score_maps) if clip else boxes


def boxes_in_tree_order(score_maps: Tensor, thresholds: Thresholds) -> tuple[Tensor, Tensor]:
    """The boxes of all contours as `extract_boxes` gives them, in the order of OpenCV's ``findContours(RETR_TREE)``.

    Each contour comes before those that it encloses, and of neighbours the one first whose first pixel comes last. For
    programs that were written over OpenCV; it takes longer, and maps on the CPU only.

    Args:
        score_maps: (B, h, w), as for `extract_boxes`.
        thresholds: T numbers in [0, 1), as for `extract_boxes`.

    Returns:
        boxes (M, 4) int32 and offsets (B * T + 1,) int64, as `extract_boxes` with ``"all"``.

    Raises:
        TypeError, ValueError: as `extract_boxes`; or maps on another device.

    Example:
        >>> score_map = torch.zeros(1, 4, 9)
        >>> score_map[0, 1, 1:3] = score_map[0, 2, 5:8] = 1.0
        >>> boxes_in_tree_order(score_map, 0.5)[0]
        tensor([[5, 2, 8, 3],
                [1, 1, 3, 2]], dtype=torch.int32)
    """
    name = "boxes_in_tree_order"
    score_maps = _constant_maps(name, score_maps)
    if not score_maps.is_cpu:
        raise ValueError(f"{name}: score_maps is on {score_maps.device}, it should be on the CPU")
    thresholds = _threshold_tensor(name, thresholds, score_maps)
    _check_once(name, score_maps, thresholds)
    return _list_boxes(
        name, "count_boxes_in_tree_order", backend.run_on_cpu, score_maps, thresholds
    )


def best_box_iou(
    score_maps: Tensor,
    thresholds: Thresholds,
    gt_boxes: GtBoxes,
    contours: Contours = "largest",
    *,
    check_values: bool = True,
) -> Tensor:
    """The best overlap, at each threshold, of a map's boxes with any ground-truth box.

    What MaxBoxAcc (``"largest"``; Choe et al., CVPR 2020) and MaxBoxAccV2 (``"all"``; the journal
    version) ask of `extract_boxes`, without listing the boxes. As in their evaluator a map's boxes are
    clipped to x1 <= w - 1, y1 <= h - 1, and the IoU counts both end pixels: a side is x1 - x0 + 1.
    Maps on CUDA are answered there, as by `extract_boxes`.

    Args:
        score_maps: (B, h, w), as for `extract_boxes`.
        thresholds: T numbers in [0, 1), as for `extract_boxes`.
        gt_boxes: (B, G, 4), ``[x0, y0, x1, y1]`` in pixels of the map, integer or floating (used in
            float32); rows of -1 are padding. Or B of (G_i, 4): tensors, arrays or lists.
        contours: ``"largest"`` or ``"all"``, as for `extract_boxes`.
        check_values: as for `extract_boxes`; also whether a ground-truth box that is not finite is an
            error or left out.

    Returns:
        (B, T) float32 in [0, 1]; 0 for an image without ground truth. Where nothing is foreground, the
        overlap of the box [0, 0, 0, 0], as in the evaluator.

    Raises:
        TypeError: a dtype that is none of these.
        ValueError: as `extract_boxes`, or a ground-truth box that is not finite.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:5, 1:6] = 1.0
        >>> best_box_iou(score_map, [0.5], torch.tensor([[[1, 2, 6, 5], [-1, -1, -1, -1]]]))
        tensor([[1.]])
    """
    name = "best_box_iou"
    found = backend.at_once(name, score_maps, thresholds, gt_boxes, contours, check_values)
    if found is not None:
        return found
    _check_contours(name, contours, ("largest", "all"))
    backend.check_flag(name, "check_values", check_values)
    score_maps = _constant_maps(name, score_maps)
    thresholds = _threshold_tensor(name, thresholds, score_maps)
    (gt_boxes,) = backend.constant(name, gt_boxes=_gt_tensor(name, gt_boxes, score_maps))
    return _best_iou_operator(score_maps, thresholds, gt_boxes, contours == "all", check_values)


def box_iou(
    a: Tensor, b: Tensor, inclusive: bool = True, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Intersection over union of every box of `a` with every box of `b`, for batches of both.

    Args:
        a: (..., N, 4), ``[x0, y0, x1, y1]``, integer or floating, finite (which is not checked).
        b: (..., M, 4), of any of these dtypes; the leading dimensions broadcast with those of `a`.
        inclusive: whether both end pixels count, so that a side is x1 - x0 + 1, as in this field's
            evaluators. Otherwise a side is x1 - x0, as in ``torchvision.ops.box_iou``.
        dtype: float32 or float64, to compute and return it in; None: float64 if a or b is, else
            float32. Integers above 16,777,216 take float64 to be exact.

    Returns:
        (..., N, M) of that dtype; 0 where both boxes are empty. Not
        differentiable: it requires no gradient, and a forward-mode tangent is a NotImplementedError.

    Raises:
        TypeError: a dtype of boxes that is neither integer nor floating, or another `dtype`.
        ValueError: shapes that do not fit, or tensors on two devices.

    Example:
        >>> box_iou(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 1, 3], [5, 5, 6, 6]]))
        tensor([[0.5000, 0.0000]])
    """
    backend.check_flag("box_iou", "inclusive", inclusive)
    a, b = backend.constant("box_iou", a=a, b=b)
    if dtype is None:
        return _iou_operator(a, b, inclusive)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"box_iou: dtype is {dtype}, it should be torch.float32 or torch.float64")
    _check_boxes(a, b)
    return _iou_operator(a.to(dtype), b.to(dtype), inclusive)


def box_iou_reference(a: Tensor, b: Tensor, inclusive: bool = True) -> Tensor:
    """`box_iou` in plain PyTorch: its definition, and the tests' oracle."""
    dtype = _iou_dtype(a, b)
    a, b = a.to(dtype).unsqueeze(-2), b.to(dtype).unsqueeze(-3)
    shared = shared_area(a, b, inclusive)
    joined = shared_area(a, a, inclusive) + shared_area(b, b, inclusive) - shared
    return torch.where(joined > 0, shared / joined, 0)


def shared_area(a: Tensor, b: Tensor, inclusive: bool = True) -> Tensor:
    """The area that boxes a (..., 4) and b (..., 4) share, which broadcast; of a box with itself its own: (...)."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    return (high - low + int(inclusive)).clamp(min=0).prod(dim=-1)


def _check_contours(name: str, contours: str, choices: tuple[str, ...]) -> None:
    if contours not in choices:
        wanted = " or ".join(map(repr, choices))
        raise ValueError(f"{name}: contours is {contours!r}, it should be {wanted}")


def _constant_maps(name: str, score_maps: Any) -> Tensor:
    if not isinstance(score_maps, Tensor):
        raise backend.not_a_tensor(name, "score_maps", score_maps)
    return score_maps.detach() if score_maps.requires_grad else score_maps


def _threshold_tensor(name: str, thresholds: Thresholds, score_maps: Tensor) -> Tensor:
    """Thresholds in any form as (T,) float64."""
    if type(thresholds) is float and backend.is_heard_by_nobody() and score_maps.is_cpu:
        return _one_threshold(thresholds)
    if isinstance(thresholds, Tensor):
        if thresholds.dtype != torch.float64:
            backend.check_tensor(
                name, "thresholds", thresholds, ("T",) * thresholds.dim(), backend.FLOATING
            )
            thresholds = thresholds.to(torch.float64)
        thresholds = thresholds.detach() if thresholds.requires_grad else thresholds
    else:
        try:
            thresholds = torch.as_tensor(thresholds, dtype=torch.float64, device=score_maps.device)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}: thresholds is {type(thresholds).__name__}, "
                "it should be a sequence of numbers or a tensor"
            ) from error
    return thresholds if thresholds.dim() > 0 else thresholds.view(1)


@functools.lru_cache(maxsize=256)
def _one_threshold(threshold: float) -> Tensor:
    """One threshold as (1,) float64 on the CPU, which nobody writes to: to make it takes as long as a small map."""
    with torch.inference_mode(False):
        return torch.tensor([threshold], dtype=torch.float64, device="cpu")


def _gt_tensor(name: str, gt_boxes: GtBoxes, score_maps: Tensor) -> Tensor:
    """Ground-truth boxes in any form as (B, G, 4), rows of -1 being padding."""
    if isinstance(gt_boxes, Tensor):
        return gt_boxes
    if isinstance(gt_boxes, np.ndarray):
        return torch.from_numpy(gt_boxes).to(score_maps.device)
    if not isinstance(gt_boxes, Sequence) or isinstance(gt_boxes, str):
        raise backend.not_a_tensor(name, "gt_boxes", gt_boxes)
    images = []
    for index, of_image in enumerate(gt_boxes):
        try:
            boxes = torch.as_tensor(of_image)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"{name}: gt_boxes[{index}] is {type(of_image).__name__}, it should be a (G, 4) tensor, array or list"
            ) from error
        if boxes.dim() == 1 and boxes.numel() == 0:
            boxes = boxes.view(0, 4)
        backend.check_tensor(
            name, f"gt_boxes[{index}]", boxes, ("G", 4), (*backend.FLOATING, *_INTEGER)
        )
        images.append(boxes.to(score_maps.device, torch.float32))
    if not images:
        return score_maps.new_empty((0, 0, 4), dtype=torch.float32)
    return torch.nn.utils.rnn.pad_sequence(images, batch_first=True, padding_value=-1)


def _clip(boxes: Tensor, score_maps: Tensor) -> Tensor:
    height, width = score_maps.shape[-2:]
    if height == width:  # x0 and y0 are smaller anyway
        return boxes.clamp_(max=width - 1)
    boxes.select(-1, 2).clamp_(max=width - 1)
    boxes.select(-1, 3).clamp_(max=height - 1)
    return boxes


def _check(name: str, score_maps: Tensor, thresholds: Tensor) -> None:
    backend.check_tensor(name, "score_maps", score_maps, ("B", "h", "w"), backend.FLOATING)
    backend.check_tensor(name, "thresholds", thresholds, ("T",), (torch.float64,))
    backend.check_same_device(name, score_maps=score_maps, thresholds=thresholds)
    _, height, width = score_maps.shape
    if not (0 < height <= _LARGEST_SIDE and 0 < width <= _LARGEST_SIDE):
        raise ValueError(
            f"{name}: score_maps has shape {tuple(score_maps.shape)}, "
            f"its sides should be 1 to {_LARGEST_SIDE:,} pixels"
        )


_check_once = backend.remembered(_check)


def _run_checked(
    name: str, score_maps: Tensor, thresholds: Tensor, *others: Any, option: bool, check: bool
) -> None:
    """Run the kernel `name`, its status and scratch between the other arguments and its option."""
    device = score_maps.device
    status = scratch = None
    if backend.needs_scratch(device):
        status = torch.zeros(1, dtype=torch.int32, device=device)
        sizes = (*score_maps.shape, thresholds.size(0))
        sizes = sizes if name == "extract_boxes" else (*sizes, option)
        scratch = backend.scratch(name, *sizes, device=device)
    arguments = (backend.rows_contiguous(score_maps), thresholds.contiguous(), *others)
    bits = backend.run(name, *arguments, status, scratch, option, device=device)
    if check:
        bits = bits if status is None else int(status.item())
        if bits != 0:
            _raise_for_status(name, bits, score_maps, thresholds)


def _raise_for_status(name: str, bits: int, score_maps: Tensor, thresholds: Tensor) -> None:
    if bits & backend.constants["bad_score"]:
        low, high = score_maps.min().item(), score_maps.max().item()
        raise ValueError(
            f"{name}: score_maps has values from {low:g} to {high:g}, "
            "they should lie in [0, 1] and not be NaN"
        )
    if bits & backend.constants["bad_threshold"]:
        low, high = thresholds.min().item(), thresholds.max().item()
        raise ValueError(
            f"{name}: thresholds has values from {low:g} to {high:g}, "
            "they should lie in [0, 1) and not be NaN"
        )
    if bits & backend.constants["bad_gt_box"]:
        raise ValueError(
            f"{name}: gt_boxes has values that are infinite or NaN, they should be finite"
        )


# --- extract_boxes


def _extract_boxes(
    score_maps: Tensor, thresholds: Tensor, check_values: bool = True, most_pixels: bool = False
) -> Tensor:
    name = "extract_boxes"
    _check_once(name, score_maps, thresholds)
    boxes = score_maps.new_empty(score_maps.size(0), thresholds.size(0), 4, dtype=torch.int32)
    if boxes.numel() > 0:
        _run_checked(name, score_maps, thresholds, boxes, option=most_pixels, check=check_values)
    return boxes


def _extract_boxes_fake(
    score_maps: Tensor, thresholds: Tensor, check_values: bool = True, most_pixels: bool = False
) -> Tensor:
    _check("extract_boxes", score_maps, thresholds)
    shape = (score_maps.size(0), thresholds.size(0), 4)
    return score_maps.new_empty(shape, dtype=torch.int32)


def _extract_all_boxes(
    score_maps: Tensor, thresholds: Tensor, check_values: bool = True
) -> tuple[Tensor, Tensor]:
    name, device = "extract_boxes", score_maps.device
    _check_once(name, score_maps, thresholds)
    run = functools.partial(backend.run, device=device)
    scratch = backend.needs_scratch(device)
    return _list_boxes(name, "count_boxes", run, score_maps, thresholds, check_values, scratch)


def _list_boxes(
    name: str,
    count: str,
    run: Callable[..., Any],
    score_maps: Tensor,
    thresholds: Tensor,
    check_values: bool = True,
    needs_scratch: bool = False,
) -> tuple[Tensor, Tensor]:
    """All boxes and their offsets; `count` is the kernel that finds them, `run` calls one by its name."""
    counts = score_maps.new_empty(score_maps.size(0), thresholds.size(0), dtype=torch.int64)
    offsets = counts.new_zeros(counts.numel() + 1)
    if counts.numel() == 0:
        return counts.new_empty((0, 4), dtype=torch.int32), offsets
    score_maps, thresholds = backend.rows_contiguous(score_maps), thresholds.contiguous()
    status = counts.new_zeros(1, dtype=torch.int32)
    scratch = None
    if needs_scratch:
        sizes = (*score_maps.shape, thresholds.size(0))
        scratch = backend.scratch(count, *sizes, device=score_maps.device)
    found = run(count, score_maps, thresholds, counts, status, scratch)
    if check_values and (bits := int(status.item())) != 0:
        _raise_for_status(name, bits, score_maps, thresholds)
    torch.cumsum(counts.flatten(), dim=0, out=offsets[1:])
    boxes = counts.new_empty((int(offsets[-1].item()), 4), dtype=torch.int32)
    run("list_boxes", score_maps, thresholds, offsets, boxes, scratch, found)
    return boxes, offsets


def _extract_all_boxes_fake(
    score_maps: Tensor, thresholds: Tensor, check_values: bool = True
) -> tuple[Tensor, Tensor]:
    _check("extract_boxes", score_maps, thresholds)
    total = torch.library.get_ctx().new_dynamic_size()
    offsets = score_maps.new_empty(score_maps.size(0) * thresholds.size(0) + 1, dtype=torch.int64)
    return score_maps.new_empty((total, 4), dtype=torch.int32), offsets


# --- best_box_iou


def _best_box_iou(
    score_maps: Tensor,
    thresholds: Tensor,
    gt_boxes: Tensor,
    all_contours: bool = False,
    check_values: bool = True,
) -> Tensor:
    name = "best_box_iou"
    _check_gt_once(name, score_maps, thresholds, gt_boxes)
    best_iou = score_maps.new_empty(score_maps.size(0), thresholds.size(0), dtype=torch.float32)
    if best_iou.numel() > 0:
        gt_boxes = gt_boxes.to(torch.float32).contiguous()
        arguments = (score_maps, thresholds, gt_boxes, best_iou)
        _run_checked(name, *arguments, option=all_contours, check=check_values)
    return best_iou


def _best_box_iou_fake(
    score_maps: Tensor,
    thresholds: Tensor,
    gt_boxes: Tensor,
    all_contours: bool = False,
    check_values: bool = True,
) -> Tensor:
    _check_gt("best_box_iou", score_maps, thresholds, gt_boxes)
    return score_maps.new_empty((score_maps.size(0), thresholds.size(0)), dtype=torch.float32)


def _check_gt(name: str, score_maps: Tensor, thresholds: Tensor, gt_boxes: Tensor) -> None:
    _check(name, score_maps, thresholds)
    shape = (score_maps.size(0), "G", 4)
    backend.check_tensor(name, "gt_boxes", gt_boxes, shape, (*backend.FLOATING, *_INTEGER))
    backend.check_same_device(name, score_maps=score_maps, gt_boxes=gt_boxes)


_check_gt_once = backend.remembered(_check_gt)


# --- box_iou


def _iou_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32


def _check_boxes(a: Tensor, b: Tensor) -> tuple[int, ...]:
    """Check the arguments of `box_iou`; return their broadcast leading dimensions."""
    for argument, boxes, count in (("a", a, "N"), ("b", b, "M")):
        # Any number of leading dimensions, but these two there must be.
        leading = boxes.dim() - 2 if isinstance(boxes, Tensor) and boxes.dim() > 2 else 0
        shape: tuple[str | int, ...] = (*("..." for _ in range(leading)), count, 4)
        backend.check_tensor("box_iou", argument, boxes, shape, (*backend.FLOATING, *_INTEGER))
    backend.check_same_device("box_iou", a=a, b=b)
    try:
        return tuple(torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    except RuntimeError as error:
        raise ValueError(
            f"box_iou: b has shape {tuple(b.shape)}, "
            f"its leading dimensions should broadcast with a's {tuple(a.shape)}"
        ) from error


_check_boxes_once = backend.remembered(_check_boxes)


def _box_iou(a: Tensor, b: Tensor, inclusive: bool = True) -> Tensor:
    batch = _check_boxes_once(a, b)
    dtype = _iou_dtype(a, b)
    shape = (*batch, a.size(-2), b.size(-2))
    out = a.new_empty(*shape, dtype=dtype)
    if out.numel() > 0:
        flat = out if len(shape) <= 3 else out.view(-1, *shape[-2:])
        a, b = _flat_boxes(a, batch, dtype), _flat_boxes(b, batch, dtype)
        backend.run("box_iou", a, b, flat, inclusive, device=out.device)
    return out


def _flat_boxes(boxes: Tensor, batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Contiguous boxes (B, N, 4), or (N, 4) that are the same for the whole batch."""
    if boxes.dtype != dtype:
        boxes = boxes.to(dtype)
    if boxes.dim() > 2 and (boxes.dim() > 3 or boxes.shape[:-2] != batch):
        boxes = boxes.expand(*batch, -1, -1).reshape(-1, boxes.size(-2), 4)
    return boxes.contiguous()


def _box_iou_fake(a: Tensor, b: Tensor, inclusive: bool = True) -> Tensor:
    batch = _check_boxes(a, b)
    return a.new_empty((*batch, a.size(-2), b.size(-2)), dtype=_iou_dtype(a, b))


_boxes_operator = backend.define(
    "extract_boxes",
    "(Tensor score_maps, Tensor thresholds, bool check_values=True, bool most_pixels=False)"
    " -> Tensor",
    _extract_boxes,
    _extract_boxes_fake,
    in_cuda_graphs=False,  # whether values are scores is asked of the device
)
_all_boxes_operator = backend.define(
    "extract_all_boxes",
    "(Tensor score_maps, Tensor thresholds, bool check_values=True)"
    " -> (Tensor boxes, Tensor offsets)",
    _extract_all_boxes,
    _extract_all_boxes_fake,
    in_cuda_graphs=False,
)
_best_iou_operator = backend.define(
    "best_box_iou",
    "(Tensor score_maps, Tensor thresholds, Tensor gt_boxes, bool all_contours=False,"
    " bool check_values=True) -> Tensor",
    _best_box_iou,
    _best_box_iou_fake,
    in_cuda_graphs=False,
)
_iou_operator = backend.define(
    "box_iou", "(Tensor a, Tensor b, bool inclusive=True) -> Tensor", _box_iou, _box_iou_fake
)
