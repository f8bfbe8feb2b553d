"""Box operators: boxes around what of a score map exceeds thresholds, and their overlap."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from wsol_ext.ops import _backend as backend

__all__ = [
    "Contours",
    "OneContour",
    "Thresholds",
    "best_box_iou",
    "box_iou",
    "box_iou_reference",
    "extract_boxes",
    "shared_area",
]

Contours = Literal["largest", "all"]
OneContour = Literal["largest", "most_pixels"]
Thresholds = Tensor | Sequence[float]

_INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_LARGEST_SIDE = 32767  # a pixel's row and column fit 16 bits each, a map's doubled area 32


@overload
def extract_boxes(
    score_maps: Tensor,
    thresholds: Thresholds,
    contours: OneContour = "largest",
    *,
    check_values: bool = True,
) -> Tensor: ...


@overload
def extract_boxes(
    score_maps: Tensor,
    thresholds: Thresholds,
    contours: Literal["all"],
    *,
    check_values: bool = True,
) -> tuple[Tensor, Tensor]: ...


def extract_boxes(
    score_maps: Tensor,
    thresholds: Thresholds,
    contours: OneContour | Literal["all"] = "largest",
    *,
    check_values: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """Boxes around what of each score map lies above each threshold.

    The box step of MaxBoxAcc (Choe et al., CVPR 2020). A map is quantized, ``u = floor(255 * s)`` in
    float64; a pixel is foreground at threshold t where ``u > floor(t * max(u))``; boxes are those of
    the contours that OpenCV's ``findContours(RETR_TREE)`` finds. They are not clipped (the evaluator
    goes on to clip x1 to w - 1 and y1 to h - 1; `best_box_iou` does that).

    Args:
        score_maps: (B, h, w), in [0, 1], float32, bfloat16, float16 or float64; sides up to 32,767.
        thresholds: T numbers in [0, 1), in any order: a sequence, or a (T,) float64 tensor on the
            maps' device.
        contours: ``"largest"``: only the contour of largest area (``cv2.contourArea``; the first of
            equals in OpenCV's order). ``"most_pixels"``: only the outer contour of the 8-connected
            component with most pixels, holes not counted; of equals the one whose first pixel in raster
            order comes first. ``"all"``: every contour, of components and of holes alike; a hole's box
            is its pixels' box grown by one.
        check_values: whether values out of range are an error. On CUDA that waits for the kernel.
            Without it nothing waits; a score out of range counts as the nearest in range, NaN as 0,
            and a threshold out of range as 0.

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
    _check_contours("extract_boxes", contours, ("largest", "most_pixels", "all"))
    score_maps, thresholds = (
        _detach(score_maps),
        _as_tensor("extract_boxes", thresholds, score_maps),
    )
    if contours == "all":
        return torch.ops.wsol.extract_all_boxes(score_maps, thresholds, check_values)
    most_pixels = contours == "most_pixels"
    return torch.ops.wsol.extract_boxes(score_maps, thresholds, check_values, most_pixels)


def best_box_iou(
    score_maps: Tensor,
    thresholds: Thresholds,
    gt_boxes: Tensor,
    contours: Contours = "largest",
    *,
    check_values: bool = True,
) -> Tensor:
    """The best overlap, at each threshold, of a map's boxes with any ground-truth box.

    What MaxBoxAcc (``"largest"``; Choe et al., CVPR 2020) and MaxBoxAccV2 (``"all"``; the journal
    version) ask of `extract_boxes`, without listing the boxes. As in their evaluator a map's boxes are
    clipped to x1 <= w - 1, y1 <= h - 1, and the IoU counts both end pixels: a side is x1 - x0 + 1.

    Args:
        score_maps: (B, h, w), as for `extract_boxes`.
        thresholds: T numbers in [0, 1), as for `extract_boxes`.
        gt_boxes: (B, G, 4), ``[x0, y0, x1, y1]`` in pixels of the map, integer or floating (used in
            float32); rows of -1 are padding.
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
    _check_contours("best_box_iou", contours, ("largest", "all"))
    (gt_boxes,) = backend.constant("best_box_iou", gt_boxes=gt_boxes)
    score_maps, thresholds = _detach(score_maps), _as_tensor("best_box_iou", thresholds, score_maps)
    return torch.ops.wsol.best_box_iou(
        score_maps, thresholds, gt_boxes, contours == "all", check_values
    )


def box_iou(a: Tensor, b: Tensor, inclusive: bool = True) -> Tensor:
    """Intersection over union of every box of `a` with every box of `b`, for batches of both.

    Args:
        a: (..., N, 4), ``[x0, y0, x1, y1]``, integer or floating, finite (which is not checked).
        b: (..., M, 4), of any of these dtypes; the leading dimensions broadcast with those of `a`.
        inclusive: whether both end pixels count, so that a side is x1 - x0 + 1, as in this field's
            evaluators. Otherwise a side is x1 - x0, as in ``torchvision.ops.box_iou``.

    Returns:
        (..., N, M) float32 (float64 if a or b is); 0 where both boxes are empty. Not
        differentiable: it requires no gradient, and a forward-mode tangent is a NotImplementedError.

    Raises:
        TypeError: a dtype that is neither integer nor floating.
        ValueError: shapes that do not fit, or tensors on two devices.

    Example:
        >>> box_iou(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 1, 3], [5, 5, 6, 6]]))
        tensor([[0.5000, 0.0000]])
    """
    a, b = backend.constant("box_iou", a=a, b=b)
    return torch.ops.wsol.box_iou(a, b, inclusive)


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


def _detach(tensor: Any) -> Any:
    return tensor.detach() if isinstance(tensor, Tensor) else tensor  # else the check says so


def _as_tensor(name: str, thresholds: Thresholds, score_maps: Tensor) -> Tensor:
    if isinstance(thresholds, Tensor) or not isinstance(score_maps, Tensor):
        return _detach(thresholds)
    try:
        return torch.as_tensor(thresholds, dtype=torch.float64, device=score_maps.device)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: thresholds is {type(thresholds).__name__}, "
            "it should be a sequence of numbers or a tensor"
        ) from error


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


def _raise_for_status(name: str, status: Tensor, score_maps: Tensor, thresholds: Tensor) -> None:
    bits = int(status.item())
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
    boxes = _extract_boxes_fake(score_maps, thresholds)
    if boxes.numel() > 0:
        score_maps = backend.rows_contiguous(score_maps)
        status = boxes.new_zeros(1)
        backend.run(
            name,
            score_maps,
            thresholds.contiguous(),
            boxes,
            status,
            backend.scratch(name, *score_maps.shape, thresholds.size(0), device=boxes.device),
            most_pixels,
            device=score_maps.device,
        )
        if check_values:
            _raise_for_status(name, status, score_maps, thresholds)
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
    name = "extract_boxes"
    _check(name, score_maps, thresholds)
    shape = (score_maps.size(0), thresholds.size(0))
    counts = score_maps.new_empty(shape, dtype=torch.int64)
    offsets = counts.new_zeros(counts.numel() + 1)
    if counts.numel() == 0:
        return counts.new_empty((0, 4), dtype=torch.int32), offsets
    score_maps, thresholds = backend.rows_contiguous(score_maps), thresholds.contiguous()
    status = counts.new_zeros(1, dtype=torch.int32)
    device = score_maps.device
    scratch = backend.scratch("count_boxes", *score_maps.shape, thresholds.size(0), device=device)
    arguments = (score_maps, thresholds, counts, status, scratch)
    found = backend.run("count_boxes", *arguments, device=device)
    if check_values:
        _raise_for_status(name, status, score_maps, thresholds)
    torch.cumsum(counts.flatten(), dim=0, out=offsets[1:])
    boxes = counts.new_empty((int(offsets[-1].item()), 4), dtype=torch.int32)
    arguments = (score_maps, thresholds, offsets, boxes, scratch)
    backend.run("list_boxes", *arguments, found, device=device)
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
    best_iou = _best_box_iou_fake(score_maps, thresholds, gt_boxes)
    if best_iou.numel() > 0:
        score_maps = backend.rows_contiguous(score_maps)
        status = best_iou.new_zeros(1, dtype=torch.int32)
        sizes = (*score_maps.shape, thresholds.size(0))
        backend.run(
            name,
            score_maps,
            thresholds.contiguous(),
            gt_boxes.to(torch.float32).contiguous(),
            best_iou,
            status,
            backend.scratch(name, *sizes, all_contours, device=score_maps.device),
            all_contours,
            device=score_maps.device,
        )
        if check_values:
            _raise_for_status(name, status, score_maps, thresholds)
    return best_iou


def _best_box_iou_fake(
    score_maps: Tensor,
    thresholds: Tensor,
    gt_boxes: Tensor,
    all_contours: bool = False,
    check_values: bool = True,
) -> Tensor:
    name = "best_box_iou"
    _check(name, score_maps, thresholds)
    batch = score_maps.size(0)
    backend.check_tensor(
        name, "gt_boxes", gt_boxes, (batch, "G", 4), (*backend.FLOATING, *_INTEGER)
    )
    backend.check_same_device(name, score_maps=score_maps, gt_boxes=gt_boxes)
    return score_maps.new_empty((batch, thresholds.size(0)), dtype=torch.float32)


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


def _box_iou(a: Tensor, b: Tensor, inclusive: bool = True) -> Tensor:
    batch = _check_boxes(a, b)
    out = _box_iou_fake(a, b)
    if out.numel() > 0:
        flat = [
            boxes.to(out.dtype).expand(*batch, -1, -1).reshape(-1, boxes.size(-2), 4).contiguous()
            for boxes in (a, b)
        ]
        backend.run(
            "box_iou", *flat, out.view(-1, a.size(-2), b.size(-2)), inclusive, device=out.device
        )
    return out


def _box_iou_fake(a: Tensor, b: Tensor, inclusive: bool = True) -> Tensor:
    batch = _check_boxes(a, b)
    return a.new_empty((*batch, a.size(-2), b.size(-2)), dtype=_iou_dtype(a, b))


backend.define(
    "extract_boxes",
    "(Tensor score_maps, Tensor thresholds, bool check_values=True, bool most_pixels=False)"
    " -> Tensor",
    _extract_boxes,
    _extract_boxes_fake,
    in_cuda_graphs=False,  # whether values are scores is asked of the device
)
backend.define(
    "extract_all_boxes",
    "(Tensor score_maps, Tensor thresholds, bool check_values=True)"
    " -> (Tensor boxes, Tensor offsets)",
    _extract_all_boxes,
    _extract_all_boxes_fake,
    in_cuda_graphs=False,
)
backend.define(
    "best_box_iou",
    "(Tensor score_maps, Tensor thresholds, Tensor gt_boxes, bool all_contours=False,"
    " bool check_values=True) -> Tensor",
    _best_box_iou,
    _best_box_iou_fake,
    in_cuda_graphs=False,
)
backend.define(
    "box_iou", "(Tensor a, Tensor b, bool inclusive=True) -> Tensor", _box_iou, _box_iou_fake
)
