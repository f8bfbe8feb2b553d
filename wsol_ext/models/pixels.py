"""One normalization for all: pretrained weights are changed to take ImageNet's pixels."""

from types import NoneType
from typing import Any, cast

import torch
from torch import Tensor, nn

from wsol_ext.data.transforms import MEAN, STD
from wsol_ext.models.foreign_weights import Normalization
from wsol_ext.models.network_parts import channels_of, patch_embedding

__all__ = ["expect_imagenet_pixels", "expect_usual_pixels"]


def expect_usual_pixels(vit: Any, normalization: Normalization | None) -> None:
    """Make weights take ImageNet's pixels, whichever they were trained on: those given, else what timm says."""
    if channels_of(vit) != len(MEAN):
        return
    if normalization is not None:
        vit.pretrained_cfg.update(mean=normalization.mean, std=normalization.std)
    expect_imagenet_pixels(vit)


@torch.no_grad()
def expect_imagenet_pixels(vit: nn.Module) -> None:
    """Make pretrained weights take images that `MEAN` and `STD` normalized, whatever they were trained on.

    Some of timm's weights were trained on pixels in [-1, 1], others on CLIP's normalization. The patch embedding is
    linear, so it can undo the one and do the other, and everything else needs to know of only one: with s and m the
    deviation and mean that images come with, s' and m' those that were trained with, a channel's pixel is
    x' = x s / s' + (m - m') / s'.

    Raises:
        ValueError: the patch embedding is not one convolution of whole patches, or has no place for the second term.
    """
    trained = cast("dict[str, Any]", vit.pretrained_cfg)
    mean, std = (torch.tensor(trained[name], dtype=torch.float64) for name in ("mean", "std"))
    scale = torch.tensor(STD, dtype=torch.float64) / std
    shift = (torch.tensor(MEAN, dtype=torch.float64) - mean) / std
    if torch.equal(scale, torch.ones_like(scale)) and not shift.any():
        return
    embedding: Any = patch_embedding(vit)
    projection = getattr(embedding, "proj", None)
    if (
        not isinstance(projection, nn.Conv2d)
        or projection.in_channels != len(MEAN)  # as a hybrid's, which comes behind others
        or any(projection.padding)
    ):
        raise ValueError(
            f"the backbone's weights expect a mean of {trained['mean']}, not {MEAN}, and its patches are made by a "
            f"{type(embedding).__name__}, which cannot be changed to expect another"
        )
    weight = projection.weight.double()
    constant = (weight * shift.view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    projection.weight.copy_(weight * scale.view(1, 3, 1, 1))
    positions, norm = getattr(vit, "pos_embed", None), getattr(embedding, "norm", None)
    if projection.bias is not None:
        projection.bias += constant
    elif isinstance(positions, Tensor) and isinstance(norm, NoneType | nn.Identity):
        prefix = positions.size(1) - embedding.num_patches
        positions[:, prefix:] += constant  # is added to every patch, as a bias would be
    else:
        raise ValueError(
            f"the backbone's weights expect a mean of {trained['mean']}, not {MEAN}, and have no bias to be changed"
        )
