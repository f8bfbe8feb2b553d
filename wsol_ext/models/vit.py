"""Backbones: timm's VisionTransformers, read block by block, and all its other transformers with patch tokens.

Blocks whose attention row nobody asks for run as timm wrote them; the others run the same computation and
hand out the row beside it, both through fused attention: no (N, N) matrix is formed anywhere.
"""

import threading
from collections.abc import Callable, Collection, Container, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from timm.layers import (
    DiffAttention,
    nchw_to,
    resample_abs_pos_embed,
    resize_rel_pos_bias_table,
    to_2tuple,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# What is imported as itself is here for those who know it from here.
from wsol_ext._options import signature_of
from wsol_ext.attention.rows import AttentionRows
from wsol_ext.data.transforms import ImageSize
from wsol_ext.models.blocks import attend, block_around
from wsol_ext.models.blocks import fused_attention as fused_attention
from wsol_ext.models.blocks import project_in as project_in
from wsol_ext.models.blocks import project_out as project_out
from wsol_ext.models.foreign_weights import ForeignWeights, resample_by_scale
from wsol_ext.models.meta_device import without_values
from wsol_ext.models.network_parts import (
    channels_of,
    has_class_token,
    has_heads,
    patch_size_of,
    prefix_tokens_of,
)
from wsol_ext.models.networks import BlocksError as BlocksError
from wsol_ext.models.networks import (
    Source,
    create_network,
    has_standard_blocks,
    is_dinov2,
    named_with,
    position_size_of,
    sketch,
)
from wsol_ext.models.networks import check_vit_options as check_vit_options
from wsol_ext.models.networks import pretrained_classifier as pretrained_classifier
from wsol_ext.models.pixels import expect_imagenet_pixels as expect_imagenet_pixels

__all__ = ["Backbone", "TokenBackbone", "any_backbone"]


class TokenBackbone(nn.Module):
    """Any of timm's transformers that keeps a token for each patch, without its head, read by its tokens.

    It runs as timm wrote it: rotary embeddings, position biases, distillation and register tokens, with a class token
    or without. What its attention layers multiply is seen on the way (`AttentionRows`).

    Args:
        name: a timm model name, such as ``vit_small_patch16_dinov3``, with or without a tag, or timm's
            ``local-dir:FOLDER`` and ``hf-hub:OWNER/NAME``.
        pretrained: load timm's weights for that name. Weights that expect pixels normalized otherwise than by
            ImageNet's mean and standard deviation are changed to expect just that.
        img_size: the usual image size, an int or (height, width); position embeddings are stored for it and, where
            timm can, interpolated for others. Those of DINOv2 without registers stay on the grid that they were
            trained on, and are resampled from there to any size, as DINOv2's own program does.
        weights: of a file, in place of timm's; see `foreign_weights.read_backbone`.
        pretrained_cfg_overlay: what to tell timm of the weights instead, such as `mean` and `std` of the pixels that
            they expect.
        position_size: side in pixels of the image that position embeddings are stored for, where that is not what
            `img_size` says (DINOv2 without registers): by default that of timm's pretrained weights.
        options: passed to timm, such as ``drop_path_rate`` or, for a network of another size, ``embed_dim`` and
            ``depth``.

    Attributes:
        embed_dim: channels C of a token.
        depth: number of blocks.
        num_rows: of how many attention layers there is a row: one a block in most, two in CaiT and XCiT, whose other
            blocks have no such matrix, none in a mixer.
        row_of: whose attention a row is: ``class token``; without one ``mean patch query``, the row that the mean of
            the patches' queries asks for, or ``pooling query``, of the attention pool that stands in its place (one
            row; its weights are not trained). None where there are no rows.
        num_heads: of an attention layer; 0 where there is none.
        prefix_tokens: how many tokens come before those of the patches: class, distillation and register tokens.
        patch_size: height and width in pixels.
        img_size: the usual one, height and width.
        any_size: whether images of other sizes are taken.
        has_artifacts: whether its class token is known to attend to artifact tokens, see `models.artifacts`: that of
            DINOv2 without registers.

    Raises:
        ValueError: the name is no timm transformer with patch tokens, or an option is unknown, or of a value that timm
            refuses. `MisfitError`: weights of a file that do not fit, all that differs in its `details`.
        ConnectionError: the weights are not in the cache, and where they are kept cannot be reached.
    """

    by_blocks: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        img_size: ImageSize = 224,
        weights: ForeignWeights | None = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        position_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.has_artifacts = is_dinov2(name, options)
        self.resamples_by_scale = self.by_blocks and self.has_artifacts
        overlay = pretrained_cfg_overlay or {}
        source = Source(pretrained, weights, overlay, self.resamples_by_scale)
        stored_size = img_size
        if self.resamples_by_scale:
            stored_size = position_size_of(name, position_size)
        self.left_out: list[str] = []  # of a file of weights
        self.vit = create_network(name, source, stored_size, options, self.by_blocks, self.left_out)
        if self.resamples_by_scale:
            self.vit.patch_embed.set_input_size(to_2tuple(img_size))
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size: tuple[int, int] = (height, width)
        self.embed_dim: int = self.vit.embed_dim
        self.depth = len(self.vit.blocks)
        self.num_heads = next((m.num_heads for m in self.vit.modules() if has_heads(m)), 0)
        self.prefix_tokens = prefix_tokens_of(self.vit)
        self.patch_size = patch = patch_size_of(self.vit)
        if height % patch[0] or width % patch[1]:
            raise ValueError(
                f"img_size is {img_size}, it should be a multiple of the patch, {patch[0]} x {patch[1]}"
            )
        pool = getattr(self.vit, "attn_pool", None)
        if pool is not None:
            pool.requires_grad_(False)  # what the methods train does not pass through it
        self.row_of: str | None = "mean patch query" if pool is None else "pooling query"
        if has_class_token(self.vit):
            self.row_of = "class token"
        self.num_rows, self.any_size = self._rows_and_sizes(name, img_size, options)
        self.row_of = self.row_of if self.num_rows else None
        if not self.by_blocks:
            self.vit.norm.register_forward_pre_hook(_keep_unnormed)

    def _rows_and_sizes(
        self, name: str, img_size: ImageSize, options: dict[str, Any]
    ) -> tuple[int, bool]:
        """`num_rows` and `any_size`, as a network without values answers."""
        with without_values():
            itself = all(weight.is_meta for weight in self.vit.parameters())
            network = self.vit if itself else sketch(name, img_size, options)
            return _tried(named_with(name, options), network, self)

    @property
    def usual_grid(self) -> tuple[int, int]:
        """Rows and columns of patches in images of the usual size."""
        return self.img_size[0] // self.patch_size[0], self.img_size[1] // self.patch_size[1]

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches in images (B, 3, height, width).

        Raises:
            TypeError: no tensor, or not floating point.
            ValueError: not (B, 3, height, width), none at all, or of a size that the patch does not divide or the
                backbone does not take.
        """
        channels = channels_of(self.vit)
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(
                f"images are {kind}, they should be a float tensor (B, {channels}, height, width), normalized; "
                "wsol_ext.localize.localize_images takes pictures as they are"
            )
        if images.dim() != 4 or images.size(1) != channels:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, they should be (B, {channels}, height, width)"
            )
        if images.size(0) == 0:
            raise ValueError("images are an empty batch, there should be at least one image")
        (height, width), (patch_height, patch_width) = images.shape[2:], self.patch_size
        if (
            height < patch_height
            or width < patch_width
            or height % patch_height
            or width % patch_width
        ):
            raise ValueError(
                f"images are {height} x {width} pixels, both should be multiples of the patch, "
                f"{patch_height} x {patch_width}"
            )
        if not self.any_size and (height, width) != self.img_size:
            raise ValueError(
                f"images are {height} x {width} pixels, a {type(self.vit).__name__} takes only those of the size it "
                f"was made for, {self.img_size[0]} x {self.img_size[1]}"
            )
        return height // patch_height, width // patch_width

    def forward(self, images: Tensor, rows_of: Container[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """All blocks and the final norm.

        Args:
            images: (B, 3, height, width).
            rows_of: the attention rows that are wanted, counted from 0, of `num_rows`.

        Returns:
            tokens (B, N, C) after the final norm, and a list of rows (B, N) float32, prefix tokens included.
        """
        height, width = self.grid(images)
        rows_of = [index for index in range(self.num_rows) if index in rows_of]
        if not rows_of or self.row_of == "pooling query":
            return self._normed(self.vit.forward_features(images), rows_of)
        count = self.prefix_tokens + height * width
        with self._rows(rows_of, count) as seen:
            tokens = self.vit.forward_features(images)
        return self._normed(tokens)[0], seen.rows

    def before_norm(self, images: Tensor) -> Tensor:
        """Tokens (B, N, C) after the last block, before the final norm."""
        self.grid(images)
        _KEPT.wanted, _KEPT.tokens = True, None
        try:
            tokens = self.vit.forward_features(images)
            return tokens if _KEPT.tokens is None else _KEPT.tokens
        finally:
            _KEPT.wanted, _KEPT.tokens = False, None

    def _normed(self, tokens: Tensor, rows_of: Sequence[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """What timm's `forward_features` gives, normed where it is not yet, and the pooling query's row."""
        rows: list[Tensor] = []
        if rows_of:
            with AttentionRows("class", rows_of, tokens=tokens.size(1)) as seen:
                self.vit.attn_pool(tokens)
            rows = seen.rows
        normed = not isinstance(self.vit.norm, nn.Identity)
        return tokens if normed else self.final_norm(tokens), rows

    @property
    def _asking(self) -> str:
        """Whose rows the blocks give, as `AttentionRows` has it."""
        return "class" if self.row_of == "class token" else "mean"

    def _rows(self, rows_of: Collection[int], count: int) -> AttentionRows:
        """What sees rows of attention over so many tokens."""
        return AttentionRows(self._asking, rows_of, prefix_tokens=self.prefix_tokens, tokens=count)

    @property
    def normalization(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and deviation of the pixels that its weights were trained on, a value a channel."""
        trained = cast("dict[str, Any]", self.vit.pretrained_cfg)
        return tuple(trained["mean"]), tuple(trained["std"])

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last block, which some backbones keep behind their pooling."""
        norm = self.vit.norm
        return getattr(self.vit, "fc_norm", norm) if isinstance(norm, nn.Identity) else norm

    def patches(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The patch tokens among tokens (B, N, C), on their grid: (B, h, w, C)."""
        return tokens[:, self.prefix_tokens :].unflatten(1, grid)

    def resampled_positions(self, other: "TokenBackbone") -> dict[str, Tensor]:
        """The other's position embeddings and biases on this backbone's grid, by their name; none that fit already."""
        own, given = self.state_dict(), other.state_dict()
        resampled: dict[str, Tensor] = {}
        if self.resamples_by_scale:  # stored for one size, whatever the images'
            return resampled
        for name, weight in own.items():
            there = given.get(name)
            if there is None or there.shape == weight.shape or there.dim() != weight.dim():
                continue
            if name == "vit.pos_embed" and there.dim() == 3 and there.size(2) == weight.size(2):
                prefix = weight.size(1) - self.usual_grid[0] * self.usual_grid[1]
                resampled[name] = resample_abs_pos_embed(
                    there, list(self.usual_grid), list(other.usual_grid), prefix
                )
            elif name.endswith("relative_position_bias_table") and there.dim() == 2:
                resampled[name] = resize_rel_pos_bias_table(
                    there, self.usual_grid, tuple(weight.shape), other.usual_grid
                )
        return resampled

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute each block's activations in the backward."""
        self.vit.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters timm trains without weight decay: tokens and position embeddings."""
        named: set[str] = getattr(self.vit, "no_weight_decay", set)()
        return {f"vit.{name}" for name in named}


class Backbone(TokenBackbone):
    """A timm VisionTransformer without its head, read block by block; see `TokenBackbone`.

    Its blocks are the standard ones (the vit, deit, deit3, dino and dinov2 families, and others), with a class token or
    without: that is what `TRT` and `SAT` need, which run blocks of their own among them.

    Raises:
        BlocksError: the name is no VisionTransformer with standard blocks.
        ValueError, ConnectionError: as `TokenBackbone`.
    """

    by_blocks: ClassVar[bool] = True

    def _rows_and_sizes(
        self, name: str, img_size: ImageSize, options: dict[str, Any]
    ) -> tuple[int, bool]:
        return (1 if self.row_of == "pooling query" else self.depth), True

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, height, width) to tokens (B, N, C): prefix tokens, the class token first, then patches."""
        vit = self.vit
        embedding = vit.patch_embed
        if torch.compiler.is_compiling() and not torch.is_grad_enabled():
            # The same without timm's checks, which `grid` makes: their texts name a size, which ties a compiled program
            # to it. The gradient of resampled positions wants that: torch has none for a size that is a symbol.
            patches = embedding.norm(nchw_to(embedding.proj(images), embedding.output_fmt))
        else:
            patches = embedding(images)
        if self.resamples_by_scale:
            return vit.norm_pre(self._with_positions(patches))
        return vit.norm_pre(vit._pos_embed(patches))

    def _with_positions(self, patches: Tensor) -> Tensor:
        """Tokens of DINOv2 from its patches (B, h, w, C); timm would resample positions by size, from `img_size`."""
        vit, prefix = self.vit, 1
        positions, class_token = cast(Tensor, vit.pos_embed), cast(Tensor, vit.cls_token)
        grid = (patches.size(1), patches.size(2))
        stored = round((positions.size(1) - prefix) ** 0.5)
        resampled = resample_by_scale(positions[:, prefix:], (stored, stored), grid)
        classes = (class_token + positions[:, :prefix]).expand(patches.size(0), -1, -1)
        return vit.pos_drop(torch.cat((classes, patches.flatten(1, 2) + resampled), dim=1))

    def run_block(self, index: int, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) after one block."""
        return self.checkpointed(self.vit.blocks[index], tokens)

    def run_block_with_row(self, index: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) after one block, and its attention row (B, N) float32."""
        attending = partial(attend, queries=self._asking, prefix_tokens=self.prefix_tokens)
        return self.checkpointed(block_around, attending, self.vit.blocks[index], tokens)

    def checkpointed(self, run: Callable[..., Any], *arguments: Any) -> Any:
        """`run(*arguments)`, its activations recomputed in the backward where gradient checkpointing is on."""
        if self.vit.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(run, *arguments, use_reentrant=False)
        return run(*arguments)

    def forward(self, images: Tensor, rows_of: Container[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """See `TokenBackbone.forward`."""
        if self.row_of == "pooling query":
            rows_of = [index for index in range(self.num_rows) if index in rows_of]
            return self._normed(self.vit.norm(self.before_norm(images)), rows_of)
        tokens, rows = self._run(images, rows_of)
        return self.final_norm(tokens), rows

    def before_norm(self, images: Tensor) -> Tensor:
        """See `TokenBackbone.before_norm`."""
        return self._run(images)[0]

    def _run(self, images: Tensor, rows_of: Container[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """All blocks, without the final norm."""
        self.grid(images)
        tokens, rows = self.embed(images), []
        for index in range(self.depth):
            if index in rows_of:
                tokens, row = self.run_block_with_row(index, tokens)
                rows.append(row)
            else:
                tokens = self.run_block(index, tokens)
        return tokens, rows


def any_backbone(
    name: str, pretrained: bool = True, img_size: ImageSize = 224, **arguments: Any
) -> TokenBackbone:
    """A `Backbone` where the blocks are standard ones, else a `TokenBackbone`; arguments and errors are theirs."""
    own = signature_of(TokenBackbone.__init__)
    options = {option: value for option, value in arguments.items() if option not in own}
    kind = Backbone if has_standard_blocks(name, options) else TokenBackbone
    return kind(name, pretrained, img_size, **arguments)


class _Kept(threading.local):
    """What a final norm is given, where this thread asks for it."""

    wanted = False
    tokens: Tensor | None = None


_KEPT = _Kept()


def _keep_unnormed(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if _KEPT.wanted:
        _KEPT.tokens = inputs[0]


@torch.no_grad()
def _tried(named: str, vit: Any, backbone: TokenBackbone) -> tuple[int, bool]:
    """How many layers give rows, and whether another size than the usual one is taken.

    Raises:
        ValueError: what comes out is not a token for each patch, behind the prefix tokens.
    """
    (height, width), patch = backbone.img_size, backbone.patch_size
    count = backbone.prefix_tokens + backbone.usual_grid[0] * backbone.usual_grid[1]
    channels = channels_of(vit)
    try:
        with backbone._rows((), count) as seen:
            tokens = vit.forward_features(torch.zeros(1, channels, height, width))
    except Exception as error:  # whatever timm's code comes upon
        raise ValueError(
            f"{named} cannot be run on images of {height} x {width} pixels: {error!r}"
        ) from error
    if not isinstance(tokens, Tensor) or tokens.dim() != 3 or tokens.size(1) != count:
        given = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(
            f"{named} gives {given} of an image ({type(vit).__name__}), it should be a token for each patch, "
            f"(1, {count}, channels)"
        )
    rows = len(seen.shapes)
    if backbone.row_of == "pooling query":
        with backbone._rows((), count) as seen:
            vit.attn_pool(tokens)
        rows = len(seen.shapes)
    if any(isinstance(module, DiffAttention) for module in vit.modules()):
        rows = 0  # of two matrices that are subtracted, neither is the attention
    if getattr(vit, "dynamic_img_size", False):
        return rows, True
    try:
        other = vit.forward_features(torch.zeros(1, channels, height + patch[0], width))
    except Exception:
        return rows, False
    return rows, other.size(1) == count + backbone.usual_grid[1]
