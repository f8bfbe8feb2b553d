"""The box step of the public WSOL evaluator (Choe et al., CVPR 2020), written over OpenCV.

Tests hold the operators to it and benchmarks time them beside it, so it does what that evaluator does: cut, find contours,
measure, once for every threshold.
"""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Contours = Literal["largest", "all"]


def boxes_of_map(
    score_map: NDArray, thresholds: Sequence[float], contours: Contours = "largest"
) -> list[NDArray[np.int32]]:
    """For each threshold the (n, 4) boxes [x0, y0, x1, y1] of one map's contours, x1 and y1 exclusive, in OpenCV's order."""
    quantized = (score_map.astype(np.float64) * 255).astype(np.uint8)
    largest = quantized.max()
    boxes = []
    for threshold in thresholds:
        _, cut = cv2.threshold(quantized, int(threshold * largest), 255, cv2.THRESH_BINARY)
        found = cv2.findContours(cut, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
        if len(found) == 0:
            boxes.append(np.zeros((1, 4), np.int32))
            continue
        if contours == "largest":
            found = [max(found, key=cv2.contourArea)]
        rectangles = [cv2.boundingRect(contour) for contour in found]
        boxes.append(np.array([(x, y, x + w, y + h) for x, y, w, h in rectangles], np.int32))
    return boxes


def box_iou(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """(n, m) overlaps of integer boxes, both end pixels counted."""

    def area(low: NDArray, high: NDArray) -> NDArray:
        return np.maximum(high - low + 1, 0).prod(axis=-1)

    a, b = a.astype(np.int64)[:, None], b.astype(np.int64)[None]
    shared = area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
    return shared / (area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - shared)


def best_iou_of_map(
    score_map: NDArray,
    thresholds: Sequence[float],
    gt_boxes: NDArray,
    contours: Contours = "largest",
) -> NDArray[np.float32]:
    """(T,): the best overlap of a map's clipped boxes with any of the (G, 4) ground-truth boxes, none of them padding."""
    height, width = score_map.shape
    best = np.zeros(len(thresholds), np.float32)
    for i, boxes in enumerate(boxes_of_map(score_map, thresholds, contours)):
        clipped = np.minimum(boxes, (width, height, width - 1, height - 1))
        best[i] = box_iou(clipped, gt_boxes).max(initial=0)
    return best
