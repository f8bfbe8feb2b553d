"""What a transformer says of each patch of a picture, from its last block."""

from typing import Any

from torch import Tensor

from wsol_ext._names import unknown
from wsol_ext.attention.calls import AttentionCalls
from wsol_ext.discovery.settings import FEATURES, Features
from wsol_ext.models import TokenBackbone

__all__ = ["all_patch_features", "patch_features"]


def patch_features(
    backbone: TokenBackbone, images: Tensor, features: Features = "tokens"
) -> Tensor:
    """A vector for each patch of images.

    Queries, keys and values are seen where the last block calls fused attention, whatever network it is: as they are
    multiplied, after norms and rotary embeddings, so that of a backbone with the latter (DINOv3, EVA-02) queries and
    keys say where a patch is, too.

    Args:
        backbone: in evaluation mode.
        images: (B, 3, height, width), normalized.
        features: "tokens": behind the final norm; or "keys", "queries" or "values" of the last block, its heads side by
            side.

    Returns:
        (B, h, w, C).

    Raises:
        TypeError, ValueError: images that the backbone does not take, or features that are none of these.
        ValueError: queries, keys or values of a backbone without fused attention over its patches.

    Example:
        >>> import torch
        >>> from wsol_ext.models import any_backbone
        >>> backbone = any_backbone("vit_tiny_patch16_224", pretrained=False, img_size=64, depth=1).eval()
        >>> patch_features(backbone, torch.zeros(2, 3, 64, 32), "keys").shape
        torch.Size([2, 4, 2, 192])
    """
    if features not in FEATURES:
        raise ValueError(f"patch_features: {unknown('features', features, FEATURES)}")
    found = all_patch_features(backbone, images)
    if features not in found:
        raise ValueError(
            f"patch_features: features is {features!r}, and {type(backbone.vit).__name__} has no fused attention over "
            "its patches; it should be 'tokens'"
        )
    return found[features]


def all_patch_features(backbone: TokenBackbone, images: Tensor) -> dict[Features, Tensor]:
    """What `patch_features` gives, by name, of one pass; tokens alone of a backbone without fused attention."""
    grid = backbone.grid(images)
    with _LastAttention(backbone.prefix_tokens + grid[0] * grid[1]) as last:
        tokens, _ = backbone(images)
    found = {name: _heads_together(each, len(images)) for name, each in last.found.items()}
    return {
        name: backbone.patches(each, grid) for name, each in ({"tokens": tokens} | found).items()
    }


class _LastAttention(AttentionCalls):
    """What the last attention over so many tokens is made of."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.found: dict[Features, Tensor] = {}

    def _see(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> None:
        if query.size(-2) == key.size(-2) == self.tokens:
            self.found = {"queries": query, "keys": key, "values": value}


def _heads_together(vectors: Tensor, batch: int) -> Tensor:
    """(B, H, N, D), or (B * H, N, D), as (B, N, H * D)."""
    return vectors.reshape(batch, -1, *vectors.shape[-2:]).transpose(1, 2).flatten(2)
