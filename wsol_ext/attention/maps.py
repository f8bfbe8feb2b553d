"""Attention on the grid of patches: rows of a transformer as maps, and rollout through all of its blocks."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from wsol_ext.attention.calls import AttentionCalls, Call
from wsol_ext.attention.rows import AttentionRows, Queries

__all__ = ["attention_map", "patch_attention"]

_CLASS_TOKENS = ("cls", "class", "global")
_CONCATENATE = (torch.cat, torch.concat, torch.concatenate)
_QUERIES_AT_ONCE = 256


def patch_attention(rows: Iterable[Tensor], prefix_tokens: int, grid: tuple[int, int]) -> Tensor:
    """The sum of attention rows, of several blocks, over the patches.

    Args:
        rows: (..., N) each, as `attention_rows` gives them.
        prefix_tokens: how many tokens come before those of the patches: class, distillation and register tokens.
        grid: rows h and columns w of patches, N = prefix_tokens + h * w.

    Returns:
        (..., h, w), of the rows' dtype.

    Raises:
        ValueError: no rows, or of another length.

    Example:
        >>> rows = [torch.tensor([[0.4, 0.1, 0.2, 0.1, 0.2]]), torch.tensor([[0.2, 0.2, 0.2, 0.1, 0.3]])]
        >>> patch_attention(rows, prefix_tokens=1, grid=(2, 2))
        tensor([[[0.3000, 0.4000],
                 [0.2000, 0.5000]]])
    """
    rows = list(rows)
    count = prefix_tokens + grid[0] * grid[1]
    lengths = [row.size(-1) for row in rows]
    if not rows or any(length != count for length in lengths):  # lengths may be symbols
        raise ValueError(
            f"patch_attention: rows have lengths {lengths}, with {prefix_tokens} prefix tokens and a grid of "
            f"{grid[0]} x {grid[1]} they should have {count}, and there should be at least one"
        )
    return torch.stack(rows).sum(dim=0)[..., prefix_tokens:].unflatten(-1, grid)


def attention_map(
    model: nn.Module,
    images: Tensor,
    *,
    queries: Queries | None = None,
    layers: Collection[int] | None = (-1,),
    average: bool = True,
    rollout: bool = False,
    grid: tuple[int, int] | None = None,
    prefix_tokens: int | None = None,
    before_dropout: bool = False,
    **arguments: Any,
) -> Tensor:
    """Where a vision transformer looks: attention to the patches of images, on their grid.

    Takes the models of timm, transformers, torchvision and open_clip, and others whose attention is fused: they run
    once, as they are. The patches' grid is that of the last convolution before the first attention; the tokens
    before them (class, distillation, registers) and behind them (detection tokens) are what they are concatenated with.

    Args:
        model: whose ``model(images)`` runs the transformer; of transformers' CLIP and SigLIP the ``vision_model``, of
            open_clip's the ``visual``. Its training mode and gradients are left as they are, so
            ``model.eval()`` and ``torch.inference_mode()`` are the caller's.
        images: (B, C, height, width) float, normalized as the model wants them.
        queries: whose attention, see `attention_rows`; indices count tokens. None: where the model has a parameter
            with "cls", "class" or "global" in its name, that of the first of the tokens before the patches; without
            such tokens, or where all are registers (parameters named "reg..."), that of the mean patch query; where the
            last layer is a pool with one query of its own, that one's. Tokens of other names are an error.
        layers: whose attention, see `attention_rows`; of several the sum. They are counted among all calls of
            attention, and should be over the patches, which those of pyramids and branches are not everywhere.
        average: over heads.
        rollout: attention through all blocks (Abnar and Zuidema, ACL 2020), the product of (A + I) / 2 with A averaged
            over heads, in place of `layers`. It holds the queries and keys of all blocks, and no matrix.
        grid: rows and columns of patches, where no convolution makes them.
        prefix_tokens: how many tokens stand before the patches, where they are put together without `torch.cat`.
        before_dropout: attention as it is before dropout, where it is on, in place of an error.
        arguments: passed to the model, such as ``interpolate_pos_encoding=True`` of transformers.

    Returns:
        (B, h, w), with `average` off (B, H, h, w); with a sequence of queries (B, Q, h, w) or (B, H, Q, h, w).
        float32 (float64 of float64). What attention falls on other tokens is left out, so the sum is below 1.

    Raises:
        TypeError, ValueError: an argument that is none of these, attention with dropout, or a model whose grid,
            or attention over its patches, is not found.
        RuntimeError: no fused attention was seen.

    Example:
        >>> import timm
        >>> vit = timm.create_model("vit_tiny_patch16_224", img_size=64).eval()
        >>> with torch.inference_mode():
        ...     attention_map(vit, torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 4, 4])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"attention_map: model is a {type(model).__name__}, it should be a module")
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        found = (images.dtype, *images.shape) if isinstance(images, Tensor) else type(images)
        raise TypeError(
            f"attention_map: images are {found}, they should be a float tensor (B, C, height, width)"
        )
    sides = (
        isinstance(grid, tuple | list) and len(grid) == 2 and all(isinstance(n, int) for n in grid)
    )
    if grid is not None and not (sides and min(grid) > 0):
        raise TypeError(
            f"attention_map: grid is {grid!r}, it should be rows and columns of patches, such as (14, 14)"
        )
    if isinstance(layers, Collection) and not len(layers):
        raise ValueError(
            "attention_map: layers is empty, it should have at least one, such as [-1]"
        )
    chooses = queries is None
    if queries is None:
        queries = "mean"  # until it is seen what stands before the patches
    if rollout and not (
        isinstance(queries, str) and average and layers is not None and tuple(layers) == (-1,)
    ):
        raise ValueError(
            "attention_map: rollout goes through all layers, averages heads, and begins at 'class' or 'mean'; "
            "layers, average and other queries should be left out"
        )
    if rollout:
        seen: _Rows = _Whole(queries, before_dropout, grid, prefix_tokens)
    else:
        seen = _Rows(queries, layers, average, before_dropout, grid, prefix_tokens)
    seen.follow(images)
    seen.chooses_for = model if chooses else None
    with seen:
        model(images, **arguments)
    if seen.grid is None:
        raise ValueError(
            f"attention_map: {type(model).__name__} makes its patches without a convolution, so `grid` should say "
            "how many rows and columns there are"
        )
    seen.check_found()
    seen.check_patches(type(model).__name__, images.size(0))
    rows = seen.rolled() if isinstance(seen, _Whole) else seen.rows
    if any(row.size(0) != images.size(0) for row in rows):  # heads of windows within one axis
        raise ValueError(
            f"attention_map: attention of {rows[0].size(0)} items for {images.size(0)} images, as within windows; "
            "it should be over all patches of an image"
        )
    upto = seen.prefix_tokens + seen.grid[0] * seen.grid[1]
    return patch_attention([row[..., :upto] for row in rows], seen.prefix_tokens, seen.grid)


class _Rows(AttentionRows):
    """Rows over the patches alone, whose grid, and where they are among the tokens, the first such attention tells.

    Until then the grid is that of the last convolution, and what is made of the images is followed: where it is
    concatenated with other tokens, these stand before or behind the patches.
    """

    compiles = False
    chooses_for: nn.Module | None = None  # the model whose queries are not given

    def __init__(
        self,
        queries: Queries,
        layers: Collection[int] | None,
        average: bool,
        before_dropout: bool,
        grid: tuple[int, int] | None,
        prefix_tokens: int | None,
    ) -> None:
        super().__init__(queries, layers, average, before_dropout=before_dropout)
        self.grid = grid
        self._grid_given, self._prefix_given = grid is not None, prefix_tokens
        self._of_images = WeakTensorKeyDictionary()
        self._before, self._length = 0, None if grid is None else grid[0] * grid[1]

    def follow(self, images: Tensor) -> None:
        """Take images for what patches are made of."""
        self._of_images[images] = True

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = super().__torch_function__(function, types, args, kwargs)
        if self.tokens is None and not torch.compiler.is_compiling():
            if function is F.conv2d and not self._grid_given:
                self.grid = result.size(-2), result.size(-1)
                self._before, self._length = 0, self.grid[0] * self.grid[1]
            self._trace(function, args, kwargs or {}, result)
        return result

    def _trace(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        if not any(each in self._of_images for each in _tensors((*args, *kwargs.values()))):
            return
        for each in _tensors([result]):
            self._of_images[each] = True
        if function not in _CONCATENATE or self.grid is None:
            return
        parts = args[0] if args else kwargs["tensors"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
        sizes = [part.size(dim) if part.dim() > 1 else 0 for part in parts]
        # A part of the patches alone, or of all that they are among so far.
        for length, before in ((self.grid[0] * self.grid[1], 0), (self._length, self._before)):
            found = [
                index
                for index, part in enumerate(parts)
                if sizes[index] == length and part in self._of_images
            ]
            if len(found) == 1:
                self._before, self._length = before + sum(sizes[: found[0]]), sum(sizes)
                return

    def _counts(self, keys: int) -> bool:
        if self.tokens is None and self.grid is not None:
            patches = self.grid[0] * self.grid[1]
            if keys < patches:
                return True
            if self._grid_given and keys >= 2 * patches:
                raise ValueError(
                    f"attention_map: grid is {self.grid[0]} x {self.grid[1]}, but attention is over {keys} tokens"
                )
            self._place(keys, patches)
        return True  # layers are counted among all calls

    def _place(self, keys: int, patches: int) -> None:
        """Tell the patches from the other tokens."""
        before = self._before if self._length == keys else None
        if keys == patches:
            before = 0
        if self._prefix_given is not None:
            before = self._prefix_given
        if before is None:
            raise ValueError(
                f"attention_map: attention is over {keys} tokens, and where the {patches} patches are among them is "
                "not seen; `prefix_tokens` should say how many stand before them (models of several patch "
                "embeddings have no one grid)"
            )
        if not 0 <= before <= keys - patches:
            raise ValueError(
                f"attention_map: prefix_tokens is {before}, of {keys} tokens that attention is over {patches} are "
                "patches"
            )
        self.tokens, self.prefix_tokens = keys, before
        self.suffix_tokens = keys - patches - before
        if self.chooses_for is not None:
            self.queries = _queries_of(self.chooses_for, self.prefix_tokens, self.suffix_tokens)

    def check_patches(self, name: str, images: int) -> None:
        """Refuse attention, among what was chosen, that is not over the patches.

        Raises:
            ValueError: it is over other tokens, those of windows, or asked by queries that are neither a pool's one nor
                those of all tokens.
        """
        overs = [key[-2] for _, key in self.shapes]
        calls = f"{name} has attention over {' and '.join(map(str, dict.fromkeys(overs)))} tokens"
        height, width = self.grid or (0, 0)
        if self.tokens is None:
            raise ValueError(
                f"attention_map: {calls}, not over all of its {height} x {width} patches, as of windows, reduced keys "
                "or masked images; it should be"
            )
        for index in self._chosen():
            query, key = self.shapes[index]
            if key[-2] != self.tokens:
                raise ValueError(
                    f"attention_map: {calls}, call {index} of {len(overs)} over {key[-2]}, not over the "
                    f"{self.tokens} of the {height} x {width} patches, as in pyramids, branches and windows; "
                    f"{self._other_choice}"
                )
            if query[-2] not in (1, self.tokens) and isinstance(self.queries, str):
                raise ValueError(
                    f"attention_map: call {index} of {name} has {query[-2]} queries for {self.tokens} tokens, and "
                    f"{self.queries!r} is none of them; {self._other_choice}, or `queries` be indices of theirs"
                )
            if (
                self.queries == "class"
                and query[-2] > 1
                and not (self.prefix_tokens or self._pooled())
            ):
                raise ValueError(
                    f"attention_map: queries is 'class', but in {name} no token stands before the patches; 'mean' asks "
                    "for the mean patch query, an index for that of any token"
                )
            if len(query) != 3 and max(query[0], key[0]) != images:
                raise ValueError(
                    f"attention_map: attention of {query[0]} items for {images} images in call {index}, as within "
                    "windows; it should be over all patches of an image"
                )

    _other_choice = "`layers` should choose calls that are"

    def _pooled(self) -> bool:
        """Whether a pool's query asks in the place of those of the calls before it."""
        return False

    def _chosen(self) -> list[int]:
        count = len(self.shapes)
        return [layer % count for layer in (range(count) if self.layers is None else self.layers)]


def _queries_of(model: nn.Module, prefix_tokens: int, suffix_tokens: int) -> str:
    """Whose attention is that of a model, by the names of its own parameters that are tokens.

    Raises:
        ValueError: there are tokens beside the patches, of a kind that no name tells.
    """
    if not prefix_tokens + suffix_tokens:
        return "mean"
    named = [(name.rpartition(".")[2], values) for name, values in model.named_parameters()]
    registers = sum(
        values.size(-2) for name, values in named if name.startswith("reg") and values.dim() > 1
    )
    if registers == prefix_tokens + suffix_tokens:
        return "mean"
    if prefix_tokens and any(part in name for name, _ in named for part in _CLASS_TOKENS):
        return "class"
    raise ValueError(
        f"attention_map: {type(model).__name__} has {prefix_tokens} tokens before the patches and {suffix_tokens} "
        "behind them, and no name tells whether the first is a class token; `queries` should be 'class' (the first), "
        "'mean' (the mean patch query), or the index of a token"
    )


def _tensors(given: Iterable[Any]) -> Iterator[Tensor]:
    """Those given, also within lists and tuples."""
    for each in given:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from (inner for inner in each if isinstance(inner, Tensor))


class _Whole(_Rows):
    """All that rollout is made of: every attention over the patches, of all their queries."""

    def __init__(
        self,
        queries: Queries,
        before_dropout: bool,
        grid: tuple[int, int] | None,
        prefix_tokens: int | None,
    ) -> None:
        super().__init__(queries, None, True, before_dropout, grid, prefix_tokens)
        self.calls: list[Call] = []

    def _take(self, index: int, call: Call) -> None:
        self.calls.append(call)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        AttentionCalls.__exit__(self, kind, error, trace)

    _other_choice = "rollout needs all to be so, `layers` chooses some"

    def _pooled(self) -> bool:
        return self.shapes[-1][0][-2] == 1

    def _chosen(self) -> list[int]:
        return list(range(len(self.shapes)))

    def rolled(self) -> list[Tensor]:
        """One row (B, N): backwards through the blocks, a row times a matrix each, which is made a few rows at a time.

        Raises:
            ValueError: attention of other queries than all tokens, but for a pool's at the end.
        """
        calls, tokens = list(self.calls), self.tokens or 0
        pooled = calls.pop().rows()[:, 0] if self._pooled() else None
        lengths = {query[-2] for query, _ in self.shapes[: len(calls)]}
        if lengths != {tokens}:
            raise ValueError(
                f"attention_map: rollout needs blocks in which all {tokens} tokens attend, "
                f"there are some of {sorted(lengths) or 'no'} queries"
            )
        row = self._asking(calls[0], tokens) if pooled is None else pooled
        for call in reversed(calls):
            row = (row + _times(row, call)) / 2
        return [row]

    def _asking(self, call: Call, tokens: int) -> Tensor:
        """The class token alone, or the patches alike: (B, N)."""
        some = call.of([0]).rows()[:, 0].detach()
        first, count = 0, 1
        if self.queries == "mean":
            first, count = self.prefix_tokens, tokens - self.prefix_tokens - self.suffix_tokens
        row = torch.zeros_like(some)
        row[:, first : first + count] = 1 / count
        return row


def _times(row: Tensor, call: Call) -> Tensor:
    """Row (B, N) times the head-averaged attention matrix."""
    total = torch.zeros_like(row)
    for start in range(0, row.size(1), _QUERIES_AT_ONCE):
        some = range(start, min(start + _QUERIES_AT_ONCE, row.size(1)))
        total = total + (row[:, None, some.start : some.stop] @ call.of(some).rows())[:, 0]
    return total
