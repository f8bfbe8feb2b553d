"""timm's standard block and attention layer in steps, so that something can be read or changed between them."""

from collections.abc import Callable
from typing import cast

from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional as F

from wsol_ext.attention.calls import attention_of, pick

__all__ = ["attend", "block_around", "fused_attention", "project_in", "project_out"]


def block_around(
    attend: Callable[[Attention, Tensor], tuple[Tensor, Tensor]], block: Block, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """timm's pre-norm block around another way to attend, which hands out something beside its tokens."""
    attention = cast(Attention, block.attn)  # `_is_standard` saw to it
    attended, beside = attend(attention, block.norm1(tokens))
    tokens = tokens + block.drop_path1(block.ls1(attended))
    tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    return tokens, beside


def attend(
    attention: Attention, tokens: Tensor, queries: str = "class", prefix_tokens: int = 0
) -> tuple[Tensor, Tensor]:
    """timm's attention layer, fused, with a head-averaged attention row (B, N) float32: of whom, `pick` says."""
    query, key, value = project_in(attention, tokens)
    row = attention_of(pick(query, queries, prefix_tokens), key, attention.scale)[:, 0]
    return project_out(attention, fused_attention(attention, query, key, value)), row


def project_in(attention: Attention, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (B, N, C) to query, key and value (B, H, N, D) of timm's attention layer."""
    batch, count, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(batch, count, 3, attention.num_heads, attention.head_dim)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(query), attention.k_norm(key), value


def fused_attention(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T) value (B, H, N, D) as the layer computes it, its dropout included."""
    dropout = attention.attn_drop.p if attention.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)


def project_out(attention: Attention, attended: Tensor) -> Tensor:
    """Attended values (B, H, N, D) to the tokens (B, N, C) that timm's attention layer returns."""
    out = attended.transpose(1, 2).flatten(2)
    if hasattr(attention, "norm"):  # absent from timm's older releases
        out = attention.norm(out)
    return attention.proj_drop(attention.proj(out))
