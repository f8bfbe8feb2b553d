"""Connected components by OpenCV, whose labels and their order are what `label_components` promises."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class MaskComponents(NamedTuple):
    """Of one mask; the background is left out.

    Attributes:
        labels: (H, W) int32.
        areas: (M,) int32.
        boxes: (M, 4) int32, [x0, y0, x1, y1], x1 and y1 exclusive.
    """

    labels: NDArray[np.int32]
    areas: NDArray[np.int32]
    boxes: NDArray[np.int32]


def components_of_mask(mask: NDArray, connectivity: int) -> MaskComponents:
    binary = (mask != 0).astype(np.uint8)
    _, labels, table, _ = cv2.connectedComponentsWithStats(binary, connectivity=connectivity)
    corner, sides, areas = table[1:, :2], table[1:, 2:4], table[1:, cv2.CC_STAT_AREA]
    return MaskComponents(labels, areas, np.concatenate([corner, corner + sides], axis=1))


def sums_of_mask(mask: NDArray, values: NDArray, connectivity: int) -> NDArray[np.float64]:
    """(M,): of each component's values (H, W)."""
    labels = components_of_mask(mask, connectivity).labels
    return np.bincount(labels.ravel(), values.ravel(), minlength=labels.max() + 1)[1:]
