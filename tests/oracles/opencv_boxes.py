"""The box step of the public WSOL evaluator (Choe et al., CVPR 2020), written over OpenCV.

Tests hold the operators to it and benchmarks time them beside it, so it does what that evaluator
does: cut, find contours, measure, once for every threshold.
"""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Contours = Literal["largest", "all"]


def contours_of_map(score_map: NDArray, thresholds: Sequence[float]) -> list[tuple[NDArray, ...]]:
    """For each threshold the contours of what lies above it, in OpenCV's order."""
    quantized = (score_map.astype(np.float64) * 255).astype(np.uint8)
    largest = quantized.max()
    contours = []
    for threshold in thresholds:
        _, cut = cv2.threshold(quantized, int(threshold * largest), 255, cv2.THRESH_BINARY)
        contours.append(cv2.findContours(cut, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2])
    return contours


def boxes_of_contours(found: tuple[NDArray, ...], contours: Contours) -> NDArray[np.int32]:
    """The (n, 4) boxes [x0, y0, x1, y1] of contours, x1 and y1 exclusive; zeros for none."""
    if len(found) == 0:
        return np.zeros((1, 4), np.int32)
    if contours == "largest":
        found = (max(found, key=cv2.contourArea),)
    rectangles = [cv2.boundingRect(contour) for contour in found]
    return np.array([(x, y, x + w, y + h) for x, y, w, h in rectangles], np.int32)


def boxes_of_map(
    score_map: NDArray, thresholds: Sequence[float], contours: Contours = "largest"
) -> list[NDArray[np.int32]]:
    """For each threshold the (n, 4) boxes of a map's contours, in OpenCV's order."""
    return [boxes_of_contours(found, contours) for found in contours_of_map(score_map, thresholds)]


def most_pixels_box(score_map: NDArray, threshold: float) -> list[int]:
    """The box of the 8-connected component with most pixels, of equals the first; zeros for none."""
    quantized = (score_map.astype(np.float64) * 255).astype(np.uint8)
    foreground = (quantized > int(threshold * quantized.max())).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(foreground, connectivity=8)
    _, firsts = np.unique(labels[labels > 0], return_index=True)  # OpenCV's labels are in no order
    if len(firsts) == 0:
        return [0, 0, 0, 0]
    best = max(range(1, len(stats)), key=lambda i: (stats[i, cv2.CC_STAT_AREA], -firsts[i - 1]))
    x, y, width, height, _ = stats[best].tolist()
    return [x, y, x + width, y + height]


def box_iou(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """(n, m) overlaps of integer boxes, both end pixels counted."""

    def area(low: NDArray, high: NDArray) -> NDArray:
        return np.maximum(high - low + 1, 0).prod(axis=-1)

    a, b = a.astype(np.int64)[:, None], b.astype(np.int64)[None]
    shared = area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
    return shared / (area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - shared)


def best_iou(boxes: NDArray, gt_boxes: NDArray, height: int, width: int) -> float:
    """The best overlap of boxes, clipped to the map, with any of the (G, 4) ground-truth boxes."""
    clipped = np.minimum(boxes, (width, height, width - 1, height - 1))
    return float(box_iou(clipped, gt_boxes).max(initial=0))


def best_iou_of_map(
    score_map: NDArray,
    thresholds: Sequence[float],
    gt_boxes: NDArray,
    contours: Contours = "largest",
) -> NDArray[np.float32]:
    """(T,): `best_iou` of a map's boxes at each threshold."""
    boxes = boxes_of_map(score_map, thresholds, contours)
    return np.array([best_iou(found, gt_boxes, *score_map.shape) for found in boxes], np.float32)
