"""Artifact tokens: patches that the class token attends to far above those around them, left out of attention rows.

Transformers without registers keep what concerns the whole picture in some of its patches, and read it there: spots in
an attention row that are no part of an object (Darcet et al., "Vision Transformers Need Registers", ICLR 2024). The
paper knows such tokens by their norm, in its larger networks; its smaller ones have spots, but no norms that stand out
(docs/architecture.md), so here they are known by the row itself.
"""

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from wsol_ext._names import unknown
from wsol_ext.attention.maps import patch_attention
from wsol_ext.models.vit import TokenBackbone

__all__ = [
    "TIMES_NEIGHBOURS",
    "Artifacts",
    "class_attention_map",
    "fill_artifacts",
    "outlier_tokens",
    "treatment",
]

Artifacts = Literal["auto", "fill", "keep"]

# The best of 1.5, 2, 3, 4 and 6 for MaxBoxAcc of DINOv2 ViT-S/14's rows, by all blocks and by all but the last: 81.1
# and 74.5, where they were 73.7 and 67.1; the table is in docs/architecture.md.
TIMES_NEIGHBOURS = 2.0
"""How many times the mean of its neighbours an outlier is attended to."""


def treatment(artifacts: Artifacts, backbone: TokenBackbone) -> Literal["fill", "keep"]:
    """What becomes of artifact tokens: what is asked for, and by `auto` `fill` where the backbone is known to have any.

    Raises:
        ValueError: another value.
    """
    if artifacts not in get_args(Artifacts):
        raise ValueError(unknown("artifacts", artifacts, get_args(Artifacts)))
    if artifacts == "auto":
        return "fill" if backbone.has_artifacts else "keep"
    return artifacts


def class_attention_map(
    rows: Iterable[Tensor],
    prefix_tokens: int,
    grid: tuple[int, int],
    artifacts: Literal["fill", "keep"],
) -> Tensor:
    """`patch_attention` of rows (B, N), each filled first where artifacts are not to be kept: (B, h, w) float32."""
    if artifacts == "keep":
        return patch_attention(rows, prefix_tokens, grid)
    maps = torch.stack(list(rows))[:, :, prefix_tokens:].unflatten(2, grid)
    return fill_artifacts(maps, outlier_tokens(maps)).sum(dim=0)


def outlier_tokens(attention: Tensor, times: float = TIMES_NEIGHBOURS) -> Tensor:
    """The patches that one row of attention singles out: what they hold is not what a picture holds there.

    Args:
        attention: (..., h, w) float32 or float64, at least 0: one block's row over the patches.
        times: how far an outlier lies above its neighbours.

    Returns:
        (..., h, w) bool: a_p > times the mean of its neighbours' a_q, of which there are 8, at the border 5 and in a
        corner 3.

    Example:
        >>> outlier_tokens(torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.9, 0.1]])).int()
        tensor([[0, 0, 0],
                [0, 1, 0]], dtype=torch.int32)
    """
    neighbours = _around(attention.new_ones(attention.shape[-2:]))
    return (attention * neighbours > times * _around(attention)) & (neighbours > 0)


def fill_artifacts(attention: Tensor, outliers: Tensor) -> Tensor:
    """Attention with the mean of their neighbours in the place of outliers.

    Args:
        attention: (..., h, w) float32 or float64.
        outliers: the same shape, bool.

    Returns:
        the same shape. An outlier takes the mean of those of its 8 neighbours that are none, or, where it has none, of
        all of its picture that are none; a picture of outliers alone stays as it is, and so does, to the bit, what is
        no outlier. Gradients reach the values that stay.

    Example:
        >>> attention = torch.tensor([[0.1, 0.3, 0.1], [0.1, 0.9, 0.4]])
        >>> fill_artifacts(attention, attention > 0.8)
        tensor([[0.1000, 0.3000, 0.1000],
                [0.1000, 0.2000, 0.4000]])
    """
    kept, values = (~outliers).to(attention.dtype), attention.masked_fill(outliers, 0.0)
    beside, in_all = _around(kept), kept.sum(dim=(-2, -1), keepdim=True)
    mean = values.sum(dim=(-2, -1), keepdim=True) / in_all.clamp_min(1)
    filled = torch.where(beside > 0, _around(values) / beside.clamp_min(1), mean)
    return torch.where(outliers & (in_all > 0), filled, attention)


def _around(maps: Tensor) -> Tensor:
    """The sum of each place's 8 neighbours on maps (..., h, w)."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (1, 1, 1, 1))
    places = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return torch.stack([padded[..., y : y + height, x : x + width] for y, x in places]).sum(dim=0)
