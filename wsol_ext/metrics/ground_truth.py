"""Ground-truth boxes, a varying number an image: listed, padded, checked."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Boxes", "first_boxes", "ground_truth", "list_boxes", "pad_boxes"]

Boxes = Sequence[Tensor] | Tensor


def list_boxes(boxes: Boxes) -> list[Tensor]:
    """Boxes in either form as a list of (G_i, 4), without padding.

    Args:
        boxes: B tensors (G_i, 4), or one (B, G, 4), rows of -1 being padding.

    Raises:
        ValueError: another shape.
    """
    if isinstance(boxes, Tensor):
        if boxes.dim() != 3 or boxes.size(-1) != 4:
            raise ValueError(f"boxes has shape {tuple(boxes.shape)}, it should be (B, G, 4)")
        return [image_boxes[(image_boxes != -1).any(dim=1)] for image_boxes in boxes]
    for index, image_boxes in enumerate(boxes):
        if image_boxes.dim() != 2 or image_boxes.size(-1) != 4:
            raise ValueError(
                f"boxes[{index}] has shape {tuple(image_boxes.shape)}, it should be (G, 4)"
            )
    return list(boxes)


def pad_boxes(boxes: Boxes) -> Tensor:
    """Boxes in either form as one (B, G, 4) tensor, rows of -1 being padding.

    Args:
        boxes: B tensors (G_i, 4), or one (B, G, 4), rows of -1 being padding.

    Returns:
        (B, G, 4), G the largest number of boxes of an image.

    Raises:
        ValueError: another shape.

    Example:
        >>> pad_boxes([torch.zeros(1, 4), torch.ones(2, 4)])[0]
        tensor([[ 0.,  0.,  0.,  0.],
                [-1., -1., -1., -1.]])
    """
    if isinstance(boxes, Tensor):
        list_boxes(boxes)
        return boxes
    listed = list_boxes(boxes)
    if not listed:
        return torch.zeros(0, 0, 4)
    return torch.nn.utils.rnn.pad_sequence(listed, batch_first=True, padding_value=-1)


def first_boxes(boxes: Sequence[Tensor]) -> Tensor:
    """The first of each image's boxes, (B, 4) float64; an empty one, of zeros, where an image has none."""
    none = torch.zeros(1, 4, dtype=torch.float64)
    return torch.stack([torch.cat([of_image.double(), none])[0] for of_image in boxes])


def ground_truth(name: str, boxes: Boxes, like: Tensor) -> Tensor:
    """Check that each of B images has a box; the boxes padded to (B, G, 4), G at least 1, on the device of `like`."""
    if len(boxes) != like.size(0):
        raise ValueError(
            f"{name}: gt_boxes is for {len(boxes)} images, there are {like.size(0)} maps"
        )
    if len(boxes) == 0:
        return like.new_zeros((0, 1, 4))
    padded = pad_boxes(boxes)  # checked where they are: boxes on the CPU keep no GPU waiting
    boxed = (padded != -1).any(dim=2).any(dim=1)
    if not boxed.all():
        first = int((~boxed).nonzero()[0])
        raise ValueError(
            f"{name}: gt_boxes[{first}] is empty, every image should have at least one box"
        )
    return padded.to(like.device)
