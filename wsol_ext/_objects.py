"""Which of the objects of a picture's maps are given, and what their scores are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeGuard

import torch
from torch import Tensor
from torchvision.ops import nms

from wsol_ext.metrics import map_components

Objects: TypeAlias = int | Literal["all"]
"""How many objects a class has in a picture at most; of 1, the box is that of the largest contour."""


@dataclass(frozen=True)
class Choice:
    """Which objects are given.

    Attributes:
        objects: how many of a class at most.
        min_score: those below are left out.
        nms: the IoU with a better one, of whatever class, above which an object is left out; None: none is.
        reject: the probability of the best class below which a picture is rejected, its objects and all; None: none is.

    Raises:
        ValueError: a value that is no such number.
    """

    objects: Objects = 1
    min_score: float = 0.0
    nms: float | None = None
    reject: float | None = None

    def __post_init__(self) -> None:
        if self.objects != "all" and (
            not _is_number(self.objects) or self.objects != int(self.objects) or self.objects < 1
        ):
            raise ValueError(f"objects is {self.objects!r}, it should be 'all' or at least 1")
        shares = {"min_score": self.min_score, "nms": self.nms, "reject": self.reject}
        for name, value in shares.items():
            if value is None and name != "min_score":
                continue
            if not _is_number(value) or not 0 <= value <= 1:
                raise ValueError(f"{name} is {value!r}, it should be a number in [0, 1]")

    @property
    def one(self) -> bool:
        """Whether a class has one object, whose score is the class's probability."""
        return self.objects == 1

    def of(self, boxes: Tensor, scores: Tensor, classes: Sequence[int]) -> list[int]:
        """The objects of a picture that are given, the best first, if there may be several of a class.

        Args:
            boxes: (N, 4) x0, y0, x1, y1.
            scores: (N,).
            classes: the class of each.

        Returns:
            their places.
        """
        order = torch.arange(len(scores))
        if not self.one or self.nms is not None:
            order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] >= self.min_score]
        if self.nms is not None:
            # By their ranks: scores that are equal keep their order.
            ranks = -torch.arange(len(order), dtype=torch.float32)
            order = order[nms(boxes[order].float(), ranks, self.nms)]
        kept: list[int] = []
        counts: dict[int, int] = {}
        for place in order.tolist():
            number = counts[classes[place]] = counts.get(classes[place], 0) + 1
            if self.objects == "all" or number <= self.objects:
                kept.append(place)
        return kept


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def objects_of_map(upsampled: Tensor, cut: float | Tensor) -> list[tuple[Tensor, Tensor]]:
    """Boxes (N, 4) float32, in the maps' pixels, and mean scores (N,), of each map's components.

    The whole map with a mean of 0, where it is constant, and so is zero.

    Args:
        upsampled: (B, h, w) in [0, 1].
        cut: the threshold, or (B,) of them.
    """
    found = map_components(upsampled, cut)
    counts = torch.bincount(found.maps, minlength=len(upsampled)).tolist()
    height, width = upsampled.shape[1:]
    whole = torch.tensor([[0.0, 0.0, width, height]], device=upsampled.device)
    return [
        (boxes.float(), means) if len(boxes) else (whole, whole.new_zeros(1))
        for boxes, means in zip(found.boxes.split(counts), found.means.split(counts), strict=True)
    ]
