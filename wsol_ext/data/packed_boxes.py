"""The boxes of many pictures in little memory."""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from wsol_ext.data.tables import Box

__all__ = ["PackedBoxes"]


class PackedBoxes(Sequence[Tensor]):
    """For each picture its boxes (G, 4) float32: 16 bytes a box and 8 a picture, where a tensor each takes 1,000.

    Worker processes share them, whereas of a list's objects each gets a copy as it counts references.

    Args:
        boxes: for each picture x0, y0, x1, y1 of its boxes, which may be none; lists or tensors.

    Raises:
        ValueError: a picture's boxes that are not of four numbers each.

    Example:
        >>> packed = PackedBoxes([[(1, 2, 5, 9)], [], torch.ones(3, 4)])
        >>> len(packed), packed[0], packed[-1].shape, [len(each) for each in packed[:2]]
        (3, tensor([[1., 2., 5., 9.]]), torch.Size([3, 4]), [1, 0])
    """

    def __init__(self, boxes: Iterable[Tensor | Sequence[Box]]) -> None:
        numbers, self._ends = array("d"), array("q", [0])
        for of_image in boxes:
            rows = of_image.tolist() if isinstance(of_image, Tensor) else of_image
            for box in rows:
                if len(box) != 4:
                    raise ValueError(f"a box is {box}, it should be x0, y0, x1, y1")
                numbers.extend(box)
            self._ends.append(len(numbers) // 4)
        self._boxes = np.array(numbers, np.float32).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> "PackedBoxes": ...

    def __getitem__(self, index: int | slice) -> "Tensor | PackedBoxes":
        place = range(len(self))[index]
        if isinstance(place, range):
            return PackedBoxes(self[each] for each in place)
        return torch.tensor(self._boxes[self._ends[place] : self._ends[place + 1]])
