"""Backbones: timm's VisionTransformers, read block by block, and all its other transformers with patch tokens.

Blocks whose attention row nobody asks for run as timm wrote them; the others run the same computation and
hand out the row beside it, both through fused attention: no (N, N) matrix is formed anywhere.
"""

import math
import threading
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from inspect import Parameter
from types import NoneType
from typing import Any, ClassVar, NamedTuple, cast

import timm
import torch
from timm.layers import (
    Attention,
    DiffAttention,
    PatchEmbed,
    nchw_to,
    resample_abs_pos_embed,
    resize_rel_pos_bias_table,
    to_2tuple,
)
from timm.models import is_model_in_modules
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from wsol_ext._options import check_options, signature_of
from wsol_ext._problems import Problems
from wsol_ext.attention.calls import attention_of, pick
from wsol_ext.attention.rows import AttentionRows
from wsol_ext.data.transforms import MEAN, STD, ImageSize
from wsol_ext.models.backbones import named_backbone, pretrained_arguments
from wsol_ext.models.foreign_weights import (
    ForeignWeights,
    Normalization,
    load_backbone,
    resample_by_scale,
)

__all__ = [
    "Backbone",
    "BlocksError",
    "TokenBackbone",
    "any_backbone",
    "attend",
    "block_around",
    "check_vit_options",
    "expect_imagenet_pixels",
    "fused_attention",
    "has_class_token",
    "is_dinov2",
    "pretrained_classifier",
    "project_in",
    "project_out",
    "without_values",
]


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
        source = _Source(pretrained, weights, overlay, self.resamples_by_scale)
        stored_size = img_size
        if self.resamples_by_scale:
            stored_size = _position_size(name, position_size)
        self.left_out: list[str] = []  # of a file of weights
        self.vit = _create_vit(name, source, stored_size, options, self.by_blocks, self.left_out)
        if self.resamples_by_scale:
            self.vit.patch_embed.set_input_size(to_2tuple(img_size))
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size: tuple[int, int] = (height, width)
        self.embed_dim: int = self.vit.embed_dim
        self.depth = len(self.vit.blocks)
        self.num_heads = next((m.num_heads for m in self.vit.modules() if _has_heads(m)), 0)
        self.prefix_tokens = _prefix_tokens(self.vit)
        self.patch_size = patch = _patch_size(self.vit)
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
            sketch = self.vit if itself else _sketch(name, img_size, options)
            return _tried(_named(name, options), sketch, self)

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
        channels = _channels(self.vit)
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


class BlocksError(ValueError):
    """A backbone whose blocks are not those that a method runs one by one."""


def any_backbone(
    name: str, pretrained: bool = True, img_size: ImageSize = 224, **arguments: Any
) -> TokenBackbone:
    """A `Backbone` where the blocks are standard ones, else a `TokenBackbone`; arguments and errors are theirs."""
    own = signature_of(TokenBackbone.__init__)
    options = {option: value for option, value in arguments.items() if option not in own}
    kind = Backbone if _has_standard_blocks(name, options) else TokenBackbone
    return kind(name, pretrained, img_size, **arguments)


def has_class_token(vit: nn.Module) -> bool:
    """Whether a class token comes before the patches."""
    return any(name.rpartition(".")[2] == "cls_token" for name, _ in vit.named_parameters())


_VIT_MODULES = ("vision_transformer", "deit")  # timm's, of the family that `Backbone` reads
_PATCH_EMBEDDINGS = ("patch_embed", "embeds", "stem")  # as timm's transformers name theirs
_NOT_OPTIONS = ("self", "img_size", "num_classes", "dynamic_img_size", "device", "dtype")
# What a backbone itself takes beside timm's, and looks at.
_OWN_OPTIONS = ("position_size",)

_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(
        ("depth", "embed_dim", "in_chans", "num_heads", "patch_size"),
        (lambda value: value >= 1, "at least 1"),
    ),
    "mlp_ratio": (lambda value: 0 < value < math.inf, "a positive number"),
    "reg_tokens": (lambda value: value >= 0, "0 or more"),
}
_RATE: tuple[Callable[[float], bool], str] = (lambda value: 0 <= value <= 1, "in [0, 1]")


class _Source(NamedTuple):
    """Where a backbone's weights come from."""

    pretrained: bool
    weights: ForeignWeights | None
    overlay: dict[str, Any]  # of timm's own description of them
    by_scale: bool  # whether positions are resampled as DINOv2 does

    @property
    def normalization(self) -> Normalization | None:
        """What the overlay says of pixels."""
        if not {"mean", "std"} <= self.overlay.keys():
            return None
        return Normalization(tuple(self.overlay["mean"]), tuple(self.overlay["std"]))


def _create_vit(
    name: str,
    source: _Source,
    img_size: ImageSize,
    options: dict[str, Any],
    by_blocks: bool,
    left_out: list[str],
) -> Any:
    found = named_backbone(name)
    _require_class(name, found.architecture, by_blocks)
    options = {**found.options, **options}
    check_vit_options(name, options)
    anew = {"model_name": found.architecture}
    if source.weights is not None:
        vit = _build_vit(name, img_size, options, anew, by_blocks)
        left_out += load_backbone(vit, source.weights, name, source.by_scale, "backbone_weights")
        _expect(vit, source.normalization or source.weights.normalization)
        return vit
    if not source.pretrained:
        return _build_vit(name, img_size, options, anew, by_blocks)
    with without_values():  # mistakes are answered before a download
        _build_vit(name, img_size, options, anew, by_blocks)
    elsewhere = source.overlay.keys() & {"file", "url", "hf_hub_id", "state_dict"}
    trained: dict[str, Any] = {"model_name": name} if elsewhere else pretrained_arguments(name)
    trained["pretrained"] = True
    overlay = {**trained.get("pretrained_cfg_overlay", {}), **source.overlay}
    if overlay:
        trained["pretrained_cfg_overlay"] = overlay
    vit = _build_vit(name, img_size, options, trained, by_blocks)
    _expect(vit, source.normalization)
    return vit


def check_vit_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a backbone does not take, or that make none.

    Args:
        name: as `TokenBackbone` takes it.
        options: values by name.

    Raises:
        ValueError: all that is mistaken, a line each.
    """
    taker, problems = f"backbone {name!r}", Problems()
    kind = _require_class(name, named_backbone(name).architecture, by_blocks=False)
    options = {n: value for n, value in options.items() if n not in _OWN_OPTIONS}
    with problems.collected():
        check_options(taker, options, _options_of(kind))
    for option, value in options.items():
        sides = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(side, int | float) for side in sides):
            continue  # a choice, or said already
        no_range = _RATE if option.endswith("_rate") else (lambda _: True, "")
        holds, wanted = _RANGES.get(option, no_range)
        if not all(holds(side) for side in sides):
            problems.add(f"{taker}: {option} is {value}, it should be {wanted}")
    problems.raise_any()


def is_dinov2(name: str, options: Mapping[str, Any] | None = None) -> bool:
    """Whether it is of DINOv2, whose positions are resampled by scale; with registers they are not."""
    architecture = named_backbone(name).architecture.partition(".")[0]
    changes = ("reg_tokens", "no_embed_class", "class_token", "pos_embed")
    as_published = not any(change in (options or {}) for change in changes)
    return "dinov2" in architecture and "reg" not in architecture and as_published


def _position_size(name: str, given: int | None) -> int:
    if given is None:
        trained = timm.get_pretrained_cfg(named_backbone(name).architecture)
        return 518 if trained is None else int(trained.input_size[-1])
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ValueError(
            f"backbone {name!r}: position_size is {given!r}, it should be pixels, at least 1"
        )
    return given


def _expect(vit: Any, normalization: Normalization | None) -> None:
    """Make weights take ImageNet's pixels, whichever they were trained on: those given, else what timm says."""
    if _channels(vit) != len(MEAN):
        return
    if normalization is not None:
        vit.pretrained_cfg.update(mean=normalization.mean, std=normalization.std)
    expect_imagenet_pixels(vit)


def pretrained_classifier(name: str) -> tuple[Tensor, Tensor]:
    """The classifier of a backbone's pretrained weights: weight (classes, C) and bias (classes,), float32.

    It is read anew, since a `Backbone` has none: a second or two.

    Args:
        name: as `Backbone` takes it.

    Raises:
        ValueError: the weights have none, or one that is no linear layer of one token.
        ConnectionError: as `Backbone`.
    """
    trained: Any = timm.create_model(pretrained=True, **pretrained_arguments(name))
    classifier = trained.get_classifier()
    if not isinstance(classifier, nn.Linear) or classifier.bias is None:
        raise ValueError(f"backbone {name!r}: its pretrained weights have no linear classifier")
    return classifier.weight.detach(), classifier.bias.detach()


def _sketch(name: str, img_size: ImageSize, options: dict[str, Any]) -> Any:
    """The network as `_create_vit` makes it, for the device that is the default."""
    found = named_backbone(name)
    anew = {"model_name": found.architecture}
    return _build_vit(name, img_size, {**found.options, **options}, anew, by_blocks=False)


def _has_standard_blocks(name: str, options: dict[str, Any]) -> bool:
    found = named_backbone(name)
    if _is_of_another_family(found.architecture):
        return False
    one = {**found.options, **options, "depth": 1}
    try:
        with without_values():
            vit = timm.create_model(found.architecture, num_classes=0, **one)
    except Exception:  # `Backbone` finds the words
        return True
    return _unlike_standard(vit) is None


def _is_of_another_family(architecture: str) -> bool:
    """Whether timm itself has it, and not among its VisionTransformers."""
    plain = architecture.partition(".")[0]
    is_timms = timm.model_entrypoint(plain).__module__.startswith("timm.")
    return is_timms and not is_model_in_modules(plain, _VIT_MODULES)


def _require_class(name: str, architecture: str, by_blocks: bool) -> type[nn.Module]:
    """The class that timm makes of an architecture, if it could be read; what it is tells before any option."""
    if not _is_of_another_family(architecture):
        return VisionTransformer
    kind, problem, unlike = _looked_at(architecture.partition(".")[0])
    if problem is not None:
        raise ValueError(f"backbone {name!r} {problem}")
    if by_blocks and unlike is not None:
        raise BlocksError(f"backbone {name!r} {unlike}")
    return kind


@cache
def _looked_at(architecture: str) -> tuple[type[nn.Module], str | None, str | None]:
    """The class of one of timm's architectures, why it has no patch tokens, and what keeps `Backbone` from it."""
    with without_values():
        try:
            vit = timm.create_model(architecture, num_classes=0, depth=1)  # blocks are all alike
        except Exception:  # it knows no depth
            try:
                vit = timm.create_model(architecture, num_classes=0)
            except Exception as error:  # whatever timm's code for a thousand models comes upon
                return nn.Module, f"cannot be made by timm without weights: {error!r}", None
    return type(vit), _without_patches(vit), _unlike_standard(vit)


def _options_of(kind: type[nn.Module]) -> dict[str, Parameter]:
    """What builds the network, and nothing that makes timm read files: options come from checkpoints too."""
    return {n: p for n, p in _taken_by(kind).items() if n not in _NOT_OPTIONS}


def _taken_by(kind: type[nn.Module]) -> dict[str, Parameter]:
    """What timm's class takes by name, and those that it hands the rest to."""
    timms = [each for each in kind.__mro__ if each.__module__.startswith("timm.")]
    return signature_of(*(vars(each)["__init__"] for each in timms if "__init__" in vars(each)))


def _build_vit(
    name: str,
    img_size: ImageSize,
    options: dict[str, Any],
    source: dict[str, Any],
    by_blocks: bool,
) -> Any:
    fixed: dict[str, Any] = {"img_size": img_size, "num_classes": 0, "dynamic_img_size": True}
    kind = _require_class(name, named_backbone(name).architecture, by_blocks)
    fixed = {n: v for n, v in fixed.items() if n in _taken_by(kind)}
    try:
        vit: Any = timm.create_model(**source, **fixed, **options)
    except (
        AssertionError,
        AttributeError,
        ArithmeticError,
        LookupError,
        RuntimeError,
        TypeError,
    ) as error:  # whatever timm and torch trip over, the options led there
        own_words = isinstance(error, AssertionError | RuntimeError)
        reason = "; ".join(str(error).splitlines()[:2]) if own_words else repr(error)
        raise ValueError(f"{_named(name, options)}: {reason}") from error
    problem = _without_patches(vit)
    if problem is not None:
        raise ValueError(f"backbone {name!r} {problem}")
    if not isinstance(getattr(vit, "patch_drop", None), NoneType | nn.Identity):
        raise ValueError(
            f"backbone {name!r}: patch_drop_rate should be 0, every patch has a place in the map"
        )
    unlike = _unlike_standard(vit) if by_blocks else None
    if unlike is not None:
        raise BlocksError(f"backbone {name!r} {unlike}")
    for module in vit.modules():
        if getattr(module, "fused_attn", True) is False:  # by timm's TIMM_FUSED_ATTN
            module.fused_attn = True
    return vit


def _named(name: str, options: dict[str, Any]) -> str:
    return f"backbone {name!r} with options {options}" if options else f"backbone {name!r}"


def _without_patches(vit: nn.Module) -> str | None:
    """Why there is no token for each patch, as what a sentence says of the backbone; None where there seems to be."""
    kind = type(vit).__name__
    if _patch_embedding(vit) is None:
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


def _patch_embedding(vit: nn.Module) -> nn.Module | None:
    for name in _PATCH_EMBEDDINGS:
        embedding = getattr(vit, name, None)
        if isinstance(embedding, nn.Module) and getattr(embedding, "patch_size", None) is not None:
            return embedding
    return None


def _patch_size(vit: nn.Module) -> tuple[int, int]:
    embedding: Any = _patch_embedding(vit)
    ratio = embedding.patch_size
    if hasattr(embedding, "feat_ratio"):  # what a hybrid's convolutions shrink, patch included
        ratio = embedding.feat_ratio(as_scalar=False)
    height, width = to_2tuple(ratio)
    return int(height), int(width)


def _prefix_tokens(vit: nn.Module) -> int:
    return int(getattr(vit, "num_prefix_tokens", has_class_token(vit)))


def _channels(vit: nn.Module) -> int:
    """Of the images it takes."""
    found = getattr(vit, "in_chans", None)
    if found is None:
        modules = cast(nn.Module, _patch_embedding(vit)).modules()
        found = next(m.in_channels for m in modules if isinstance(m, nn.Conv2d))
    return int(found)


def _has_heads(module: nn.Module) -> bool:
    return isinstance(getattr(module, "num_heads", None), int)


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
    channels = _channels(vit)
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


class _Sketching(TorchFunctionMode):
    """Skips what only gives values: on the meta device it takes most of the time, and there are none.

    `torch.linspace` keeps its own, which timm before 1.0.21 reads for the drop path rates.
    """

    _gives_values: ClassVar[frozenset[Any]] = frozenset(
        getattr(Tensor, f"{name}_")
        for name in ("uniform", "normal", "erfinv", "mul", "add", "div", "clamp", "fill", "zero")
    )

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in self._gives_values and args[0].is_meta:
            return args[0]
        kwargs = dict(kwargs or {})
        if function is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return function(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """Make models of shapes alone, on the meta device: no memory, and no time but that of their modules."""
    with torch.device("meta"), _Sketching():
        yield


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
    embedding: Any = _patch_embedding(vit)
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


def _unlike_standard(vit: nn.Module) -> str | None:
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
