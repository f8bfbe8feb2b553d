"""timm's networks, made for backbones: their options checked, their weights found, their kinds told apart."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from inspect import Parameter
from types import NoneType
from typing import Any, NamedTuple

import timm
from timm.models import is_model_in_modules
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from wsol_ext._options import check_options, signature_of
from wsol_ext._problems import Problems
from wsol_ext.data.transforms import ImageSize
from wsol_ext.models.backbones import named_backbone, pretrained_arguments
from wsol_ext.models.foreign_weights import ForeignWeights, Normalization, load_backbone
from wsol_ext.models.meta_device import without_values
from wsol_ext.models.network_parts import unlike_standard, without_patches
from wsol_ext.models.pixels import expect_usual_pixels

__all__ = [
    "BlocksError",
    "Source",
    "check_vit_options",
    "create_network",
    "has_standard_blocks",
    "is_dinov2",
    "named_with",
    "position_size_of",
    "pretrained_classifier",
    "sketch",
]

_VIT_MODULES = ("vision_transformer", "deit")  # timm's, of the family that `Backbone` reads
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


class BlocksError(ValueError):
    """A backbone whose blocks are not those that a method runs one by one."""


class Source(NamedTuple):
    """Where a backbone's weights come from.

    Attributes:
        pretrained: whether from timm.
        weights: of a file, in place of timm's.
        overlay: what to say in place of timm's own description of them.
        by_scale: whether positions are resampled as DINOv2 does.
    """

    pretrained: bool
    weights: ForeignWeights | None
    overlay: dict[str, Any]
    by_scale: bool

    @property
    def normalization(self) -> Normalization | None:
        """What the overlay says of pixels."""
        if not {"mean", "std"} <= self.overlay.keys():
            return None
        return Normalization(tuple(self.overlay["mean"]), tuple(self.overlay["std"]))


def create_network(
    name: str,
    source: Source,
    img_size: ImageSize,
    options: dict[str, Any],
    by_blocks: bool,
    left_out: list[str],
) -> Any:
    """A network of timm's with its weights, for images that are normalized by ImageNet's mean and deviation.

    Args:
        name, img_size, options: as `TokenBackbone` takes them.
        source: where its weights come from.
        by_blocks: whether its blocks have to be standard ones.
        left_out: takes in the names of what a file of weights has beside the backbone.

    Raises:
        BlocksError, ValueError, ConnectionError: as `Backbone` and `TokenBackbone`.
    """
    found = named_backbone(name)
    _require_class(name, found.architecture, by_blocks)
    options = {**found.options, **options}
    check_vit_options(name, options)
    anew = {"model_name": found.architecture}
    if source.weights is not None:
        vit = _build(name, img_size, options, anew, by_blocks)
        left_out += load_backbone(vit, source.weights, name, source.by_scale, "backbone_weights")
        expect_usual_pixels(vit, source.normalization or source.weights.normalization)
        return vit
    if not source.pretrained:
        return _build(name, img_size, options, anew, by_blocks)
    with without_values():  # mistakes are answered before a download
        _build(name, img_size, options, anew, by_blocks)
    elsewhere = source.overlay.keys() & {"file", "url", "hf_hub_id", "state_dict"}
    trained: dict[str, Any] = {"model_name": name} if elsewhere else pretrained_arguments(name)
    trained["pretrained"] = True
    overlay = {**trained.get("pretrained_cfg_overlay", {}), **source.overlay}
    if overlay:
        trained["pretrained_cfg_overlay"] = overlay
    vit = _build(name, img_size, options, trained, by_blocks)
    expect_usual_pixels(vit, source.normalization)
    return vit


def sketch(name: str, img_size: ImageSize, options: dict[str, Any]) -> Any:
    """The network as `create_network` makes it, for the device that is the default."""
    found = named_backbone(name)
    anew = {"model_name": found.architecture}
    return _build(name, img_size, {**found.options, **options}, anew, by_blocks=False)


def _build(
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
        raise ValueError(f"{named_with(name, options)}: {reason}") from error
    problem = without_patches(vit)
    if problem is not None:
        raise ValueError(f"backbone {name!r} {problem}")
    if not isinstance(getattr(vit, "patch_drop", None), NoneType | nn.Identity):
        raise ValueError(
            f"backbone {name!r}: patch_drop_rate should be 0, every patch has a place in the map"
        )
    unlike = unlike_standard(vit) if by_blocks else None
    if unlike is not None:
        raise BlocksError(f"backbone {name!r} {unlike}")
    for module in vit.modules():
        if getattr(module, "fused_attn", True) is False:  # by timm's TIMM_FUSED_ATTN
            module.fused_attn = True
    return vit


def named_with(name: str, options: dict[str, Any]) -> str:
    """What messages call a backbone, with its options where it has some."""
    return f"backbone {name!r} with options {options}" if options else f"backbone {name!r}"


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


def position_size_of(name: str, given: int | None) -> int:
    """Side in pixels of the image that a backbone stores positions for: as given, else that of its pretrained weights.

    Raises:
        ValueError: something else than pixels is given.
    """
    if given is None:
        trained = timm.get_pretrained_cfg(named_backbone(name).architecture)
        return 518 if trained is None else int(trained.input_size[-1])
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ValueError(
            f"backbone {name!r}: position_size is {given!r}, it should be pixels, at least 1"
        )
    return given


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


def has_standard_blocks(name: str, options: dict[str, Any]) -> bool:
    """Whether `Backbone` can read it; true too of what cannot be made, for which `Backbone` has the words."""
    found = named_backbone(name)
    if _is_of_another_family(found.architecture):
        return False
    one = {**found.options, **options, "depth": 1}
    try:
        with without_values():
            vit = timm.create_model(found.architecture, num_classes=0, **one)
    except Exception:
        return True
    return unlike_standard(vit) is None


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
    return type(vit), without_patches(vit), unlike_standard(vit)


def _options_of(kind: type[nn.Module]) -> dict[str, Parameter]:
    """What builds the network, and nothing that makes timm read files: options come from checkpoints too."""
    return {n: p for n, p in _taken_by(kind).items() if n not in _NOT_OPTIONS}


def _taken_by(kind: type[nn.Module]) -> dict[str, Parameter]:
    """What timm's class takes by name, and those that it hands the rest to."""
    timms = [each for each in kind.__mro__ if each.__module__.startswith("timm.")]
    return signature_of(*(vars(each)["__init__"] for each in timms if "__init__" in vars(each)))
