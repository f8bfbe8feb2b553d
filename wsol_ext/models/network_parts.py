"""What one of timm's transformers consists of, as backbones ask: patches, prefix tokens, blocks."""

from typing import Any, cast

from timm.layers import Attention, PatchEmbed, to_2tuple
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

__all__ = [
    "channels_of",
    "has_class_token",
    "has_heads",
    "patch_embedding",
    "patch_size_of",
    "prefix_tokens_of",
    "unlike_standard",
    "without_patches",
]

_PATCH_EMBEDDINGS = ("patch_embed", "embeds", "stem")  # as timm's transformers name theirs


def without_patches(vit: nn.Module) -> str | None:
    """Why there is no token for each patch, as what a sentence says of the backbone; None where there seems to be."""
    kind = type(vit).__name__
    if patch_embedding(vit) is None:
        return (
            f"has no patch tokens ({kind}); it should be a transformer with a token for each patch"
        )
    parts = getattr(vit, "blocks", None), getattr(vit, "norm", None)
    if not isinstance(parts[0], nn.ModuleList | nn.Sequential) or not isinstance(
        parts[1], nn.Module
    ):
        return (
            f"is not one row of blocks and a norm behind its patches ({kind}), as where tokens are merged from stage "
            "to stage; it should be a transformer with a token for each patch"
        )
    return None


def patch_embedding(vit: nn.Module) -> nn.Module | None:
    """What makes tokens of patches; None where there is no such thing."""
    for name in _PATCH_EMBEDDINGS:
        embedding = getattr(vit, name, None)
        if isinstance(embedding, nn.Module) and getattr(embedding, "patch_size", None) is not None:
            return embedding
    return None


def patch_size_of(vit: nn.Module) -> tuple[int, int]:
    """Height and width of a patch in pixels."""
    embedding: Any = patch_embedding(vit)
    ratio = embedding.patch_size
    if hasattr(embedding, "feat_ratio"):  # what a hybrid's convolutions shrink, patch included
        ratio = embedding.feat_ratio(as_scalar=False)
    height, width = to_2tuple(ratio)
    return int(height), int(width)


def prefix_tokens_of(vit: nn.Module) -> int:
    """How many tokens come before those of the patches."""
    return int(getattr(vit, "num_prefix_tokens", has_class_token(vit)))


def has_class_token(vit: nn.Module) -> bool:
    """Whether a class token comes before the patches."""
    return any(name.rpartition(".")[2] == "cls_token" for name, _ in vit.named_parameters())


def channels_of(vit: nn.Module) -> int:
    """Of the images that it takes."""
    found = getattr(vit, "in_chans", None)
    if found is None:
        modules = cast(nn.Module, patch_embedding(vit)).modules()
        found = next(m.in_channels for m in modules if isinstance(m, nn.Conv2d))
    return int(found)


def has_heads(module: nn.Module) -> bool:
    """Whether it is an attention layer that says how many heads it has."""
    return isinstance(getattr(module, "num_heads", None), int)


def unlike_standard(vit: nn.Module) -> str | None:
    """What keeps `Backbone` from reading it, as what a sentence says of it; None where nothing does."""
    kind = type(vit).__name__
    if not isinstance(vit, VisionTransformer):
        return f"is no VisionTransformer ({kind}), whose blocks could be run one by one"
    if type(vit.patch_embed) is not PatchEmbed:
        return (
            f"makes its patches by a {type(vit.patch_embed).__name__}, it should be a PatchEmbed "
            "for its blocks to be run one by one"
        )
    unlike = next((block for block in vit.blocks if not _is_standard(block)), None)
    if unlike is None:
        return None
    attention = getattr(unlike, "attn", None)
    named = type(unlike).__name__
    if type(unlike) is Block and attention is not None:
        gated = type(attention) is Attention
        named = "gated attention" if gated else type(attention).__name__
    return f"has blocks of {named}, they should be timm's standard ones to be run one by one"


def _is_standard(block: nn.Module) -> bool:
    """Whether `block_around` computes what the block computes."""
    if type(block) is not Block or type(block.attn) is not Attention:
        return False
    return getattr(block.attn, "gate", None) is None
