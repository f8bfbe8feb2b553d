"""From the weights of one model to another: what fits, and what keeps the rest from fitting."""

from collections.abc import Mapping

import torch
from torch import Tensor

from wsol_ext.models.misfits import differences
from wsol_ext.models.vit import TokenBackbone

__all__ = ["backbone_differences", "copy_classifier", "differing_heads", "whole_layers"]


def whole_layers(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that fit a model's own, of layers all of whose weights do."""
    fits = {n for n, w in own.items() if n in weights and weights[n].shape == w.shape}
    anew = {_layer(name) for name in own.keys() - fits}
    return {name: weights[name] for name in fits if _layer(name) not in anew}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def backbone_differences(
    own: TokenBackbone, other: TokenBackbone, instead: Mapping[str, Tensor] | None = None
) -> list[str]:
    """What keeps the other backbone's weights from fitting this one, if some of them were those of `instead`."""
    theirs = {**other.state_dict(), **(instead or {})}
    return differences(own.state_dict(), theirs) + differing_heads(own, other)


def differing_heads(own: TokenBackbone, other: TokenBackbone) -> list[str]:
    """What the weights' shapes do not show; nothing where both have as many attention heads."""
    if own.num_heads == other.num_heads:
        return []
    return [f"{other.num_heads} attention heads, not {own.num_heads}"]


@torch.no_grad()
def copy_classifier(
    weight: Tensor, bias: Tensor, own_weight: Tensor, own_bias: Tensor, bias_alone: bool = False
) -> None:
    """A classifier's weight (classes, C) and bias (classes,), or its bias alone, into a model's own.

    Raises:
        ValueError: it is of other classes, or of another width.
    """
    if weight.shape != own_weight.shape or bias.shape != own_bias.shape:
        (theirs, width), (ours, own_width) = weight.shape, own_weight.shape
        raise ValueError(
            f"the pretrained classifier is of {theirs} classes and width {width}, the model of {ours} and {own_width}"
        )
    own_bias.copy_(bias)
    if not bias_alone:
        own_weight.copy_(weight)
