"""Rows of attention matrices, taken down where any transformer calls fused attention."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, is_grad_enabled

from wsol_ext._names import unknown
from wsol_ext.attention.calls import AttentionCalls, Call, Picked

__all__ = ["AttentionRows", "Queries", "attention_rows"]

Queries = str | int | Sequence[int]


def attention_rows(
    queries: Queries = "class",
    layers: Collection[int] | None = None,
    average: bool = True,
    *,
    prefix_tokens: int = 0,
    tokens: int | None = None,
    before_dropout: bool = False,
) -> "AttentionRows":
    """Rows of the attention matrices of whatever runs inside, of any transformer that uses fused attention.

    A call of `torch.nn.functional.scaled_dot_product_attention` inside, or of `torch.nn.MultiheadAttention`, is seen on
    its way: the fused kernel runs as it does, and the rows that are asked for are computed from its
    queries and keys by `ops.class_attention`. No (N, N) matrix is made. Masks, `is_causal`, `scale` and
    `enable_gqa` are those of the call.

    Args:
        queries: whose rows: ``class`` (the first query's; a pooling query is the first and only one), ``mean`` (of the
            mean of all queries, less `prefix_tokens`; its row is the normalized geometric mean of theirs), the index of
            a query, or a sequence of indices. Negative ones count from the end.
        layers: the calls that rows are wanted of, counted from 0, or from the end by negative numbers; None: all. What
            can be no such call any more is forgotten, so ``[-1]`` holds one layer's queries and keys at a time.
        average: over heads.
        prefix_tokens: class and register tokens before the patches, which ``mean`` leaves out.
        tokens: only attention over so many keys is looked at, and counted.
        before_dropout: take rows as they are before dropout, which is refused otherwise.

    Returns:
        a context, entered as a sequence of tensors, one for each call in their order, or for each of `layers` in
        theirs: (B, N), with `average` off (B, H, N); with a sequence of queries (B, Q, N) or (B, H, Q, N). float32
        (float64 of float64). It may be read inside, and after; entered again, it starts anew.

    Raises:
        TypeError, ValueError: an argument that is none of these; a query or layer that is not there; attention
            with dropout; queries that are not (B, H, N, D) or (B, N, D).
        RuntimeError: no attention was seen at the end, or the model runs under `torch.compile`.

    The rows are differentiable, under gradient checkpointing too. Calls of other threads are not seen.

    Example:
        >>> import torch
        >>> layer = torch.nn.TransformerEncoderLayer(8, nhead=2, batch_first=True).eval()
        >>> with attention_rows(queries="class") as rows:
        ...     tokens = layer(torch.zeros(1, 4, 8))
        >>> rows[0].detach()
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return _FoundRows(queries, layers, average, prefix_tokens, tokens, before_dropout)


class AttentionRows(AttentionCalls):
    """What `attention_rows` enters: a mode that is also the sequence of rows; arguments are the same.

    Nothing of it looks whether there were any rows, and it works inside of what is compiled or exported.
    """

    suffix_tokens = 0

    def __init__(
        self,
        queries: Queries = "class",
        layers: Collection[int] | None = None,
        average: bool = True,
        prefix_tokens: int = 0,
        tokens: int | None = None,
        before_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.queries, self.single = _checked_queries(queries)
        self.layers = None if layers is None else _checked_layers(layers)
        self.average = average
        self.prefix_tokens = prefix_tokens
        self.tokens = tokens
        self.before_dropout = before_dropout
        self._wanted = {layer for layer in self.layers or () if layer >= 0}
        self._behind = -min([0, *(self.layers or ())])
        self._made: dict[int, Tensor | Callable[[], Tensor]] = {}

    @property
    def rows(self) -> list[Tensor]:
        """Those found so far."""
        count = len(self.shapes)
        if self.layers is None:
            return [self._row(index) for index in range(count)]
        found = [layer + count if layer < 0 else layer for layer in self.layers]
        return [self._row(index) for index in found if index in self._made]

    def __len__(self) -> int:
        return len(self.shapes) if self.layers is None else len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.rows)

    def __enter__(self) -> "AttentionRows":
        self.compiled = False
        self.shapes.clear()
        self._made.clear()
        super().__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if kind is None:
            for index in self._made:
                self._row(index)

    def check_found(self) -> None:
        """Refuse to have found nothing, or not all of `layers`.

        Raises:
            ValueError: a layer is not there.
            RuntimeError: nothing was seen, or it was compiled.
        """
        if self.compiled:
            raise RuntimeError(
                "attention_rows does not work under torch.compile: call the module that was compiled, "
                "which the compiled one has as `_orig_mod`"
            )
        count = len(self.shapes)
        if not count:
            of = "" if self.tokens is None else f" over {self.tokens} tokens"
            raise RuntimeError(
                f"attention_rows: no call of scaled_dot_product_attention{of} was seen. Attention should be fused: "
                'of timm by `fused_attn`, of transformers by model.set_attn_implementation("sdpa"); Swin, MViT and '
                "others that never call it have no such rows, nor have models behind torch.compile"
            )
        for layer in self.layers or ():
            if not -count <= layer < count:
                raise ValueError(
                    f"attention_rows: layers has {layer}, of {count} calls that were seen"
                )

    def _counts(self, keys: int) -> bool:
        return self.tokens is None or keys == self.tokens

    def _wants(self, index: int) -> bool:
        return self.layers is None or self._behind > 0 or index in self._wanted

    def _take(self, index: int, call: Call) -> None:
        make = partial(self._of, call.of(self.queries, self.prefix_tokens, self.suffix_tokens))
        surely = self.layers is None or index in self._wanted
        # With gradients, queries and keys are kept for the backward pass anyway, and under gradient checkpointing a row
        # that was made inside of a block would be part of what is recomputed, where nobody sees it.
        self._made[index] = make() if surely and not is_grad_enabled() else make
        if self.layers is not None and index - self._behind not in self._wanted:
            self._made.pop(index - self._behind, None)

    def _of(self, call: Call) -> Tensor:
        rows = call.rows(self.average)
        return rows.squeeze(-2) if self.single else rows

    def _row(self, index: int) -> Tensor:
        made = self._made[index]
        if not isinstance(made, Tensor):
            made = self._made[index] = made()
        return made


class _FoundRows(AttentionRows):
    """Rows that should be there at the end."""

    compiles = False

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if kind is None:
            self.check_found()


def _checked_queries(queries: Queries) -> tuple[Picked, bool]:
    """Queries as they are picked, and whether it is one alone."""
    if isinstance(queries, str):
        if queries not in ("class", "mean"):
            raise ValueError(
                unknown("attention_rows: queries", queries, ("class", "mean")) + ", or indices"
            )
        return queries, True
    if isinstance(queries, int) and _is_index(queries):
        return [queries], True
    if isinstance(queries, Sequence) and queries and all(_is_index(index) for index in queries):
        return [int(index) for index in queries], False
    raise TypeError(
        f"attention_rows: queries is {queries!r}, it should be 'class', 'mean', an index, or a list of indices"
    )


def _checked_layers(layers: Collection[int]) -> list[int]:
    if isinstance(layers, Collection) and all(_is_index(layer) for layer in layers):
        return list(layers)
    raise TypeError(
        f"attention_rows: layers is {layers!r}, it should be None or whole numbers, such as [-1]"
    )


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
