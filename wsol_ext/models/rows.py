"""Rows of attention matrices, taken down where any of timm's transformers calls fused attention."""

from collections.abc import Container
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from wsol_ext import ops

__all__ = ["AttentionRows", "asking_row", "attention_row"]


class _Asked(NamedTuple):
    """What a row is made of."""

    query: Tensor  # (B, H, 1, D)
    key: Tensor  # (B, H or a divisor of it, N, D)
    scale: float | None
    mask: Tensor | None  # (..., 1, N), added to the logits


class AttentionRows(TorchFunctionMode):
    """While it is entered, a row of each attention matrix that `F.scaled_dot_product_attention` would be of.

    Query and key are seen as they are multiplied: after rotary embeddings and norms, whatever the module does to make
    them. The call itself runs as it is.

    Args:
        tokens: N; only attention over so many keys counts.
        prefix: None for the row of the class token, the first one's; else the mean query of the tokens from there on
            asks.
        rows_of: the calls that a row is wanted of, counted from 0.
        deferred: keep queries and keys until `rows` asks for them. Under gradient checkpointing a row that was made
            inside of a block would be part of what is recomputed, where nobody sees it.

    Attributes:
        shapes: of query and key in each call that counts.
    """

    def __init__(
        self,
        tokens: int,
        prefix: int | None,
        rows_of: Container[int] = (),
        deferred: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.prefix = prefix
        self.rows_of = rows_of
        self.deferred = deferred
        self.shapes: list[tuple[torch.Size, torch.Size]] = []
        self._made: list[Tensor | _Asked] = []

    @property
    def rows(self) -> list[Tensor]:
        """(B, N) float32 each (float64 of float64), summing to 1."""
        return [each if isinstance(each, Tensor) else attention_row(*each) for each in self._made]

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            self._see(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _see(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        if query.dim() != 4 or key.size(2) != self.tokens:
            return
        index = len(self.shapes)
        self.shapes.append((query.shape, key.shape))
        if index not in self.rows_of:
            return
        if is_causal:
            attn_mask = query.new_ones((query.size(2), self.tokens), dtype=torch.bool).tril()
        mask = None
        if attn_mask is not None:
            mask = asking_row(_additive(attn_mask, query.dtype), self.prefix)
        asked = _Asked(asking_row(query, self.prefix), key, scale, mask)
        self._made.append(asked if self.deferred else attention_row(*asked))


def asking_row(rows: Tensor, prefix: int | None) -> Tensor:
    """The query that the row is of, among (B, H, N, D), or its logits' mask: (B, H, 1, D).

    Args:
        rows: a single one is the one that asks.
        prefix: None for the first, the class token's; else the mean of those from there on, the patches'. Its logits
            are the mean of theirs, so its row is the normalized geometric mean of their rows, head by head.
    """
    if rows.size(-2) == 1 or prefix is None:
        return rows[..., :1, :]
    return rows[..., prefix:, :].mean(dim=-2, keepdim=True)


def attention_row(
    query: Tensor, key: Tensor, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """Head-averaged attention of one query over all tokens.

    Args:
        query: (B, H, 1, D).
        key: (B, G, N, D), each of the G heads shared by H / G of the query's.
        scale: the logits' factor, by default D ** -0.5.
        mask: added to the logits, broadcast to (B, H, 1, N).

    Returns:
        (B, N) float32 (float64 of float64), summing to 1.
    """
    if key.size(1) != query.size(1):
        key = key.repeat_interleave(query.size(1) // key.size(1), dim=1)
    if mask is None:
        return ops.class_attention(query, key, scale)[:, 0]
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    scale = query.size(-1) ** -0.5 if scale is None else scale
    logits = (scale * query.to(dtype)) @ key.to(dtype).transpose(-2, -1) + mask.to(dtype)
    return logits.softmax(dim=-1).mean(dim=1)[:, 0]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask whose true entries are attended to, as what is added to the logits; others are that already."""
    if mask.dtype != torch.bool:
        return mask
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return hidden.masked_fill(~mask, float("-inf"))
