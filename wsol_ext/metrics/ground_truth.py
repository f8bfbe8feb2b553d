"""Ground-truth boxes: from pixels of the original picture to the frame a protocol evaluates in."""

from collections.abc import Sequence

import torch
from torch import Tensor

BOX_PROTOCOLS = ("maxboxacc", "maxboxaccv2", "toploc", "sat")
"""The protocols that `scale_boxes` knows."""

Boxes = Sequence[Tensor] | Tensor


def scale_boxes(
    boxes: Boxes, sizes: Tensor, protocol: str = "maxboxacc", size: int = 224
) -> list[Tensor]:
    """Ground-truth boxes in the frame of the evaluated, square picture, as each published program computes them.

    | protocol | x0, y0, x1, y1, each truncated to an integer |
    | --- | --- |
    | `maxboxacc`, `maxboxaccv2` (Choe et al., CVPR 2020) | v * size / side |
    | `toploc` (TS-CAM's program; TRT, LCTR) | v / side * size; x0, y0 at least 0, x1, y1 at most size - 1 |
    | `sat` (SAT's program) | v / side * resize - shift, limited likewise |

    `sat` resizes to 256 / 224 of `size` and cuts out the centre, shift pixels from each border.

    Args:
        boxes: B tensors (G_i, 4) of x0, y0, x1, y1 in pixels of the original picture; or one (B, G, 4), rows of -1
            being padding. Best on the CPU: on CUDA their check waits for the device once an image.
        sizes: (B, 2), each picture's original width and height.
        protocol: one of `BOX_PROTOCOLS`.
        size: side of the evaluated picture in pixels.

    Returns:
        B tensors (G_i, 4) int64.

    Raises:
        ValueError: another protocol; shapes that do not fit; a picture without pixels; a box that is not finite.

    Example:
        >>> scale_boxes([torch.tensor([[60.0, 27.0, 385.0, 331.0]])], torch.tensor([[500, 335]]))
        [tensor([[ 26,  18, 172, 221]])]
    """
    if protocol not in BOX_PROTOCOLS:
        raise ValueError(
            f"scale_boxes: protocol is {protocol!r}, it should be one of {', '.join(BOX_PROTOCOLS)}"
        )
    listed = list_boxes(boxes)
    if sizes.shape != (len(listed), 2):
        raise ValueError(
            f"scale_boxes: sizes has shape {tuple(sizes.shape)}, it should be ({len(listed)}, 2)"
        )
    if (sizes <= 0).any():
        raise ValueError("scale_boxes: sizes has values that are not positive")
    # float64 and the order of each program's operations: else a box at a pixel's border is truncated to another pixel.
    sides = sizes.to(torch.float64).repeat(1, 2).unbind()
    scaled = []
    for image_boxes, side in zip(listed, sides, strict=True):
        values = image_boxes.to(torch.float64)
        if not torch.isfinite(values).all():
            raise ValueError(
                f"scale_boxes: boxes has values that are not finite: {image_boxes.tolist()}"
            )
        side = side.to(values.device)
        if protocol in ("maxboxacc", "maxboxaccv2"):
            values = values * size / side
        else:
            resize = round(size * 256 / 224) if protocol == "sat" else size
            values = values / side * resize - (resize - size) // 2
            values = torch.cat(
                [values[:, :2].clamp(min=0), values[:, 2:].clamp(max=size - 1)], dim=1
            )
        scaled.append(values.trunc().to(torch.int64))
    return scaled


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
