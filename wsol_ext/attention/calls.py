"""Calls of fused attention, seen on their way: whatever module makes them, with what is multiplied in the end."""

import inspect
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from wsol_ext import ops

__all__ = ["AttentionCalls", "Call", "Picked", "attention_of", "pick"]

# What asks for a row: "class" (the first query), "mean" (that of the patches' queries), or queries by their index.
Picked = str | range | list[int]


class AttentionCalls(TorchFunctionMode):
    """While it is entered, shows each call of `F.scaled_dot_product_attention` to `_take`; the call runs as it is.

    Query and key are seen as they are multiplied: after rotary embeddings and norms, whatever the module does to make
    them. Calls of `torch.nn.MultiheadAttention` are seen too; that any mode is entered keeps its layers, and
    those around it, from the fast path that has no such call. Calls within a backward pass (of gradient checkpointing)
    are those of the forward pass again, and are left out.

    Attributes:
        shapes: of query and key in each call that counts.
        compiled: whether there was a call in what `torch.compile` made, where `compiles` is false.
    """

    before_dropout = True
    compiles = True

    def __init__(self) -> None:
        super().__init__()
        self.compiled = False
        self.shapes: list[tuple[torch.Size, torch.Size]] = []

    def _counts(self, keys: int) -> bool:
        """Whether attention over so many keys is looked at."""
        return True

    def _wants(self, index: int) -> bool:
        """Whether the call of that index, counted from 0, is to be taken."""
        raise NotImplementedError

    def _take(self, index: int, call: "Call") -> None:
        raise NotImplementedError

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in (F.scaled_dot_product_attention, F.multi_head_attention_forward):
            if torch.compiler.is_compiling() and not self.compiles:
                self.compiled = (
                    True  # an error would make torch run this uncompiled, and say nothing
                )
            elif function is F.multi_head_attention_forward:
                return self._run_multi_head(args, kwargs)
            else:
                self._see(*args, **kwargs)
        return function(*args, **kwargs)

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
        index = self._index(query.shape, key.shape, dropout_p)
        if index is None:
            return
        if query.dim() not in (3, 4):
            raise ValueError(
                f"attention_rows: call {index} of scaled_dot_product_attention has queries of shape "
                f"{tuple(query.shape)}, they should be (B, H, N, D) or (B, N, D); `layers` leaves calls out"
            )
        if query.dim() == 3:  # of one head
            query, key = query.unsqueeze(1), key.unsqueeze(1)
            if attn_mask is not None and attn_mask.dim() == 3:
                attn_mask = attn_mask.unsqueeze(1)
        if query.size(0) != key.size(0):
            batch = max(query.size(0), key.size(0))
            query, key = (each.expand(batch, -1, -1, -1) for each in (query, key))
        if query.size(1) < key.size(1):
            query = query.expand(-1, key.size(1), -1, -1)
        self._take(index, Call(query, key, scale, attn_mask, is_causal))

    def _index(self, query: torch.Size, key: torch.Size, dropout: float) -> int | None:
        """The index of a call that is to be taken, else None."""
        # `torch.autograd.backward` of older versions leaves the mode on.
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return None
        if len(query) < 2 or not self._counts(key[-2]):
            return None
        index = len(self.shapes)
        self.shapes.append((query, key))
        if not self._wants(index):
            return None
        if dropout > 0 and not self.before_dropout:
            raise ValueError(
                f"attention_rows: dropout_p is {dropout} in call {index}, it should be 0: which weights are dropped, "
                "the fused kernel alone knows; call model.eval(), or ask for before_dropout=True"
            )
        return index

    def _run_multi_head(self, args: Any, kwargs: Any) -> Any:
        """`F.multi_head_attention_forward`, whose own calls no mode sees: they are made of names that are looked up."""
        function = F.multi_head_attention_forward
        given = _signature().bind(*args, **kwargs).arguments
        heads = given["num_heads"]
        dropout = given["dropout_p"] if given.get("training", True) else 0.0

        def attend(*args: Any, **kwargs: Any) -> Tensor:
            self._see(*args, **kwargs)
            return F.scaled_dot_product_attention(*args, **kwargs)

        def softmax(logits: Tensor, dim: int) -> Tensor:  # where the weights are asked for too
            split = logits.unflatten(0, (-1, heads))
            index = self._index(split.shape, split.mT.shape, dropout)
            if index is not None:
                self._take(index, Call(split, split, logits=split))
            return F.softmax(logits, dim=dim)

        watched = {
            **function.__globals__,
            "has_torch_function": lambda *_: False,  # else it would come here again
            "scaled_dot_product_attention": attend,
            "softmax": softmax,
        }
        run = FunctionType(
            function.__code__,
            watched,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        return run(*args, **kwargs)


@cache
def _signature() -> inspect.Signature:
    return inspect.signature(F.multi_head_attention_forward)


class Call(NamedTuple):
    """What an attention matrix is made of: queries and keys, or, where a module made them itself, logits.

    Attributes:
        query: (B, H, L, D).
        key: (B, H or a divisor of it, N, D).
        scale: the logits' factor, by default D ** -0.5.
        mask: (..., L or 1, N), of truth values (true: is attended to), or added to the logits.
        is_causal: whether a query attends only to the keys up to its own index.
        logits: (B, H, L, N), in place of all these.
    """

    query: Tensor
    key: Tensor
    scale: float | None = None
    mask: Tensor | None = None
    is_causal: bool = False
    logits: Tensor | None = None

    def of(self, queries: Picked, prefix_tokens: int = 0, suffix_tokens: int = 0) -> "Call":
        """The call of some of its queries alone, whose rows `rows` gives. Under gradient checkpointing it keeps nothing
        for the backward pass."""
        if self.logits is not None:
            logits = pick(self.logits, queries, prefix_tokens, suffix_tokens)
            return Call(logits, logits, logits=logits)
        mask = self.mask
        if self.is_causal:
            last = _last_keys(queries, self.query.size(-2), prefix_tokens)
            keys = torch.arange(self.key.size(-2), device=self.key.device)
            mask = keys <= torch.tensor(last, device=self.key.device)[:, None]
        elif mask is not None and mask.size(-2) > 1:
            mask = pick(mask, queries, prefix_tokens, suffix_tokens)
        query = pick(self.query, queries, prefix_tokens, suffix_tokens)
        return self._replace(query=query, mask=mask, is_causal=False)

    def rows(self, average: bool = True) -> Tensor:
        """(B, L, N), averaged over heads, or (B, H, L, N): float32 (float64 of float64)."""
        if self.logits is not None:
            return _normalized(self.logits, average)
        return attention_of(self.query, self.key, self.scale, self.mask, average)


def pick(rows: Tensor, queries: Picked, prefix_tokens: int = 0, suffix_tokens: int = 0) -> Tensor:
    """Queries among (..., L, D), or what belongs to them: (..., Q, D).

    Args:
        rows: a single one is the one that asks, of a pooling query; mean and class are its own.
        queries: `mean`: that of the patches. Its logits are the mean of theirs, so its row is the normalized geometric
            mean of their rows, head by head.
        prefix_tokens: how many come before the patches.
        suffix_tokens: how many come after them.
    """
    count = rows.size(-2)
    if queries == "mean" and count > 1:
        if prefix_tokens >= count:
            raise ValueError(
                f"attention_rows: prefix_tokens is {prefix_tokens}, of {count} queries none is left"
            )
        patches = rows[..., prefix_tokens : count - suffix_tokens, :]
        if rows.dtype == torch.bool:
            return patches.all(dim=-2, keepdim=True)
        return patches.mean(dim=-2, keepdim=True)
    if isinstance(queries, str):
        return rows[..., :1, :]
    if isinstance(queries, range):
        return rows[..., queries.start : queries.stop, :]
    wrong = [index for index in queries if not -count <= index < count]
    if wrong:
        those = f"{count} queries" if count > 1 else "one query, as a pool at the end has"
        raise ValueError(
            f"attention_rows: queries has {wrong[0]}, a call has {those}; `layers` leaves calls out, [-2] asks the "
            "last but one"
        )
    # Slices: an index would be kept for the backward pass, which gradient checkpointing forbids.
    return torch.cat([rows.narrow(-2, index % count, 1) for index in queries], dim=-2)


def _last_keys(queries: Picked, count: int, prefix_tokens: int) -> list[int]:
    """The last key that each picked query of a causal call attends to."""
    if queries == "mean":  # what is hidden from one of them is hidden from their mean
        return [prefix_tokens if count > 1 else 0]
    if isinstance(queries, str):
        return [0]
    return [index % count for index in queries]


def attention_of(
    query: Tensor,
    key: Tensor,
    scale: float | None = None,
    mask: Tensor | None = None,
    average: bool = True,
) -> Tensor:
    """Attention of a few queries over all tokens.

    Args:
        query: (B, H, Q, D).
        key: (B, G, N, D), each of the G heads shared by H / G of the query's.
        scale: the logits' factor, by default D ** -0.5.
        mask: broadcast to (B, H, Q, N): of truth values (true: is attended to), or added to the logits. A query that
            all is hidden from has a row of zeros, as the fused kernels have it.
        average: over heads.

    Returns:
        (B, Q, N), or (B, H, Q, N): float32 (float64 of float64), each row summing to 1.
    """
    (heads, count), groups = query.shape[1:3], key.size(1)
    shared = heads // groups
    grouped = query if shared == 1 else query.unflatten(1, (groups, shared)).flatten(2, 3)
    # Of one query the operator is quickest, of several a product of matrices.
    if mask is None and count == 1 and query.device.type in ("cpu", "cuda", "meta"):
        if average:
            rows = ops.class_attention(grouped, key, scale)
            return rows if shared == 1 else rows.unflatten(1, (shared, count)).mean(dim=1)
        each = zip(grouped.split(1, dim=1), key.split(1, dim=1), strict=True)
        rows = torch.stack([ops.class_attention(q, k, scale) for q, k in each], dim=1)
        return rows if shared == 1 else rows.unflatten(2, (shared, count)).flatten(1, 2)
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    scale = query.size(-1) ** -0.5 if scale is None else scale
    logits = (scale * grouped.to(dtype)) @ key.to(dtype).mT
    logits = logits.unflatten(2, (shared, count)).flatten(1, 2)
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        logits = logits + mask.to(dtype)
    return _normalized(logits, average)


def _normalized(logits: Tensor, average: bool) -> Tensor:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    blind = torch.isneginf(logits).all(dim=-1, keepdim=True)
    rows = logits.to(dtype).masked_fill(blind, 0.0).softmax(dim=-1).masked_fill(blind, 0.0)
    return rows.mean(dim=1) if average else rows
