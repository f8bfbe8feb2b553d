"""The backbone: any timm VisionTransformer with a class token, read block by block.

Blocks whose class-attention row nobody asks for run as timm wrote them; the others run the same computation and
hand out the row beside it, both through fused attention: no (N, N) matrix is formed anywhere.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.layers import Attention, PatchEmbed, resample_abs_pos_embed, to_2tuple
from timm.models import is_model_in_modules
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from wsol_ext import ops
from wsol_ext.data.transforms import MEAN, STD, ImageSize
from wsol_ext.models.backbones import named_backbone, pretrained_arguments
from wsol_ext.models.foreign_weights import (
    ForeignWeights,
    Normalization,
    load_backbone,
    resample_by_scale,
)
from wsol_ext.models.options import check_options, signature_of

__all__ = [
    "Backbone",
    "attend",
    "block_around",
    "expect_imagenet_pixels",
    "fused_attention",
    "is_dinov2",
    "patch_attention",
    "pretrained_classifier",
    "project_in",
    "project_out",
    "without_values",
]


class Backbone(nn.Module):
    """A timm VisionTransformer without its head, for images of any size that its patches divide.

    Args:
        name: a timm model name, such as ``deit_small_patch16_224``, with or without a tag, or timm's
            ``local-dir:FOLDER`` and ``hf-hub:OWNER/NAME``.
        pretrained: load timm's weights for that name. Weights that expect pixels normalized otherwise than by
            ImageNet's mean and standard deviation are changed to expect just that.
        img_size: the usual image size, an int or (height, width); position embeddings are stored for it and
            interpolated for others. Those of DINOv2 without registers stay on the grid that they were trained on, and
            are resampled from there to any size, as DINOv2's own program does.
        weights: of a file, in place of timm's; see `foreign_weights.read_backbone`.
        pretrained_cfg_overlay: what to tell timm of the weights instead, such as `mean` and `std` of the pixels that
            they expect.
        position_size: side in pixels of the image that position embeddings are stored for, where that is not what
            `img_size` says (DINOv2 without registers): by default that of timm's pretrained weights.
        options: passed to timm, such as ``drop_path_rate`` or, for a network of another size, ``embed_dim`` and
            ``depth``.

    Raises:
        ValueError: the name is no timm VisionTransformer with a class token and standard blocks, or an option is
            unknown, or of a value that timm refuses. `MisfitError`: weights of a file that do not fit, all that differs
            in its `details`.
        ConnectionError: the weights are not in the cache, and where they are kept cannot be reached.
    """

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
        self.resamples_by_scale = is_dinov2(name, options)
        source = _Source(pretrained, weights, pretrained_cfg_overlay or {})
        self.left_out: list[str] = []  # of a file of weights
        self.vit = _create_vit(name, source, img_size, position_size, options, self.left_out)
        self.embed_dim: int = self.vit.embed_dim
        self.depth = len(self.vit.blocks)
        self.num_heads: int = cast(Attention, cast(Block, self.vit.blocks[0]).attn).num_heads
        self.prefix_tokens: int = self.vit.num_prefix_tokens
        patch_height, patch_width = self.vit.patch_embed.patch_size
        self.patch_size: tuple[int, int] = (patch_height, patch_width)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"img_size is {img_size}, it should be a multiple of the patch, {patch_height} x {patch_width}"
            )

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches in images (B, 3, height, width).

        Raises:
            TypeError: no tensor, or not floating point.
            ValueError: not (B, 3, height, width), none at all, or of a size the patch does not divide.
        """
        channels = self.vit.patch_embed.proj.in_channels
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
        return height // patch_height, width // patch_width

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, height, width) to tokens (B, N, C): prefix tokens, the class token first, then patches."""
        vit = self.vit
        patches = vit.patch_embed(images)
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
        """Tokens (B, N, C) after one block, and its class-attention row (B, N) float32."""
        return self.checkpointed(block_around, attend, self.vit.blocks[index], tokens)

    def checkpointed(self, run: Callable[..., Any], *arguments: Any) -> Any:
        """`run(*arguments)`, its activations recomputed in the backward where gradient checkpointing is on."""
        if self.vit.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(run, *arguments, use_reentrant=False)
        return run(*arguments)

    def forward(self, images: Tensor, rows_of: Container[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """All blocks and the final norm.

        Args:
            images: (B, 3, height, width).
            rows_of: the blocks whose class-attention rows are wanted, counted from 0.

        Returns:
            tokens (B, N, C) after the final norm, and a list of rows (B, N) float32, prefix tokens included.
        """
        self.grid(images)
        tokens, rows = self.embed(images), []
        for index in range(self.depth):
            if index in rows_of:
                tokens, row = self.run_block_with_row(index, tokens)
                rows.append(row)
            else:
                tokens = self.run_block(index, tokens)
        return self.final_norm(tokens), rows

    def before_norm(self, images: Tensor) -> Tensor:
        """Tokens (B, N, C) after all blocks, without the final norm, of images (B, 3, height, width)."""
        self.grid(images)
        tokens = self.embed(images)
        for index in range(self.depth):
            tokens = self.run_block(index, tokens)
        return tokens

    @property
    def normalization(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and deviation of the pixels that its weights were trained on, a value a channel."""
        trained = cast("dict[str, Any]", self.vit.pretrained_cfg)
        return tuple(trained["mean"]), tuple(trained["std"])

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last block, which some backbones keep behind their pooling."""
        return self.vit.fc_norm if isinstance(self.vit.norm, nn.Identity) else self.vit.norm

    def patches(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The patch tokens among tokens (B, N, C), on their grid: (B, h, w, C)."""
        return tokens[:, self.prefix_tokens :].unflatten(1, grid)

    def resampled_positions(self, other: "Backbone") -> dict[str, Tensor]:
        """The other's position embeddings on this backbone's grid, by their name; none where they fit as they are."""
        own, given = self.vit.pos_embed, other.vit.pos_embed
        if self.resamples_by_scale:  # stored for one size, whatever the images'
            return {}
        if own is None or given is None or own.shape == given.shape or own.size(2) != given.size(2):
            return {}
        rows, columns = self.vit.patch_embed.grid_size
        prefix = own.size(1) - rows * columns
        resampled = resample_abs_pos_embed(
            given.detach(), [rows, columns], num_prefix_tokens=prefix
        )
        return {"vit.pos_embed": resampled}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute each block's activations in the backward."""
        self.vit.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters timm trains without weight decay: tokens and position embeddings."""
        return {f"vit.{name}" for name in self.vit.no_weight_decay()}


_VIT_MODULES = ("vision_transformer", "deit")  # timm's, of the family
_FAMILY = (
    "should be a timm VisionTransformer with a class token and standard blocks "
    "(the vit, deit, deit3, dino and dinov2 families)"
)

# What builds a VisionTransformer, and nothing that makes timm read files: options come from checkpoints too.
_VIT_OPTIONS = {
    name: parameter
    for name, parameter in signature_of(VisionTransformer.__init__).items()
    if name not in ("self", "img_size", "num_classes", "dynamic_img_size", "device", "dtype")
}


class _Source(NamedTuple):
    """Where a backbone's weights come from."""

    pretrained: bool
    weights: ForeignWeights | None
    overlay: dict[str, Any]  # of timm's own description of them

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
    position_size: int | None,
    options: dict[str, Any],
    left_out: list[str],
) -> VisionTransformer:
    found = named_backbone(name)
    if _is_of_another_family(found.architecture):
        raise ValueError(f"backbone {name!r} {_FAMILY}")
    options = {**found.options, **options}
    check_options(f"backbone {name!r}", options, _VIT_OPTIONS)
    if options.get("depth", 1) < 1:
        raise ValueError(f"backbone {name!r}: depth is {options['depth']}, it should be at least 1")
    by_scale = is_dinov2(name, options)
    stored_size = _position_size(name, position_size) if by_scale else img_size
    anew = {"model_name": found.architecture}
    if source.weights is not None:
        vit = _build_vit(name, stored_size, options, anew)
        left_out += load_backbone(vit, source.weights, name, by_scale, "backbone_weights")
        _expect(vit, source.normalization or source.weights.normalization)
    elif source.pretrained:
        with without_values():  # mistakes are answered before a download
            _build_vit(name, stored_size, options, anew)
        elsewhere = source.overlay.keys() & {"file", "url", "hf_hub_id", "state_dict"}
        trained: dict[str, Any] = {"model_name": name} if elsewhere else pretrained_arguments(name)
        trained["pretrained"] = True
        overlay = {**trained.get("pretrained_cfg_overlay", {}), **source.overlay}
        if overlay:
            trained["pretrained_cfg_overlay"] = overlay
        vit = _build_vit(name, stored_size, options, trained)
        _expect(vit, source.normalization)
    else:
        vit = _build_vit(name, stored_size, options, anew)
    if by_scale:
        vit.patch_embed.set_input_size(to_2tuple(img_size))
    return vit


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


def _expect(vit: VisionTransformer, normalization: Normalization | None) -> None:
    """Make weights take ImageNet's pixels, whichever they were trained on: those given, else what timm says."""
    if vit.patch_embed.proj.in_channels != len(MEAN):
        return
    if normalization is not None:
        trained = cast("dict[str, Any]", vit.pretrained_cfg)
        trained.update(mean=normalization.mean, std=normalization.std)
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


def _is_of_another_family(architecture: str) -> bool:
    """Whether timm itself has it, and not among its VisionTransformers."""
    plain = architecture.partition(".")[0]
    is_timms = timm.model_entrypoint(plain).__module__.startswith("timm.")
    return is_timms and not is_model_in_modules(plain, _VIT_MODULES)


def _build_vit(
    name: str, img_size: ImageSize, options: dict[str, Any], source: dict[str, Any]
) -> VisionTransformer:
    fixed: dict[str, Any] = {"img_size": img_size, "num_classes": 0, "dynamic_img_size": True}
    try:
        vit = timm.create_model(**source, **fixed, **options)
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
        raise ValueError(f"backbone {name!r} with options {options}: {reason}") from error
    if (
        not isinstance(vit, VisionTransformer)
        or type(vit.patch_embed) is not PatchEmbed
        or vit.cls_token is None
        or not all(_is_standard(block) for block in vit.blocks)
    ):
        raise ValueError(f"backbone {name!r} {_FAMILY}")
    if not isinstance(vit.patch_drop, nn.Identity):
        raise ValueError(
            f"backbone {name!r}: patch_drop_rate should be 0, every patch has a place in the map"
        )
    return vit


class _ReadableLinspace(TorchFunctionMode):
    """Leaves `torch.linspace` its values, which timm before 1.0.21 reads for the drop path rates."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return function(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """Make models of shapes alone, on the meta device: no memory, and no time but that of their modules."""
    with torch.device("meta"), _ReadableLinspace():
        yield


@torch.no_grad()
def expect_imagenet_pixels(vit: VisionTransformer) -> None:
    """Make pretrained weights take images that `MEAN` and `STD` normalized, whatever they were trained on.

    Some of timm's weights were trained on pixels in [-1, 1], others on CLIP's normalization. The patch embedding is
    linear, so it can undo the one and do the other, and everything else needs to know of only one: with s and m the
    deviation and mean that images come with, s' and m' those that were trained with, a channel's pixel is
    x' = x s / s' + (m - m') / s'.

    Raises:
        ValueError: the patch embedding has no place for the second term.
    """
    trained = cast("dict[str, Any]", vit.pretrained_cfg)
    mean, std = (torch.tensor(trained[name], dtype=torch.float64) for name in ("mean", "std"))
    scale = torch.tensor(STD, dtype=torch.float64) / std
    shift = (torch.tensor(MEAN, dtype=torch.float64) - mean) / std
    if torch.equal(scale, torch.ones_like(scale)) and not shift.any():
        return
    projection = vit.patch_embed.proj
    weight = projection.weight.double()
    constant = (weight * shift.view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    projection.weight.copy_(weight * scale.view(1, 3, 1, 1))
    if projection.bias is not None:
        projection.bias += constant
    elif vit.pos_embed is not None and isinstance(vit.patch_embed.norm, nn.Identity):
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        vit.pos_embed[:, prefix:] += constant  # is added to every patch, as a bias would be
    else:
        raise ValueError(
            f"the backbone's weights expect a mean of {trained['mean']}, not {MEAN}, and have no bias to be changed"
        )


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


def attend(attention: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """timm's attention layer, fused, with the class token's head-averaged attention row (B, N) float32."""
    query, key, value = project_in(attention, tokens)
    row = ops.class_attention(query[:, :, :1], key, attention.scale)[:, 0]
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


def patch_attention(rows: Iterable[Tensor], prefix_tokens: int, grid: tuple[int, int]) -> Tensor:
    """Sum of class-attention rows (B, N) over blocks, on the patch grid: (B, h, w) float32."""
    total = torch.stack(list(rows)).sum(dim=0)
    return total[:, prefix_tokens:].unflatten(1, grid)
