"""The localization methods, each a thin model composed of the operators on a timm backbone."""

from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from timm import get_pretrained_cfg

from wsol_ext._names import unknown
from wsol_ext._options import check_options, signature_of
from wsol_ext._problems import Problems
from wsol_ext.data.transforms import ImageSize, height_width
from wsol_ext.models.backbones import NamedBackbone, named_backbone
from wsol_ext.models.base import (
    METHODS,
    BackboneFile,
    LocalizationModel,
    Localized,
    Parts,
    SingleBackboneModel,
    register_method,
)
from wsol_ext.models.foreign_weights import read_backbone
from wsol_ext.models.meta_device import without_values
from wsol_ext.models.molt import MOLT
from wsol_ext.models.networks import BlocksError, check_vit_options
from wsol_ext.models.sat import SAT
from wsol_ext.models.scm import SCM
from wsol_ext.models.trilite import TriLite
from wsol_ext.models.trt import TRT
from wsol_ext.models.tscam import TSCAM
from wsol_ext.models.vit import Backbone, TokenBackbone, any_backbone

__all__ = [
    "METHODS",
    "MOLT",
    "SAT",
    "SCM",
    "TRT",
    "TSCAM",
    "Backbone",
    "BackboneFile",
    "LocalizationModel",
    "Localized",
    "Parts",
    "SingleBackboneModel",
    "TokenBackbone",
    "TriLite",
    "check_model",
    "create_model",
    "register_method",
]


def create_model(
    method: str,
    backbone: str = "deit_small_patch16_224",
    num_classes: int = 1000,
    pretrained: bool = True,
    img_size: ImageSize | None = None,
    backbone_options: dict[str, Any] | None = None,
    backbone_weights: str | Path | None = None,
    freeze_backbone: bool | None = None,
    **options: Any,
) -> LocalizationModel:
    """A localization model by name.

    Args:
        method: a name in `METHODS`.
        backbone: a timm transformer with patch tokens, see `TokenBackbone`: the vit, deit, dinov2 and dinov3, eva02,
            beit, siglip, cait families and others. Methods whose `needs_blocks` is true (trt, sat) take
            VisionTransformers with standard blocks, see `Backbone`; trt wants a class token. `wsol info --backbones`
            lists which method takes which.
        num_classes: number of classes, at least 1.
        pretrained: start from timm's weights for that backbone (downloaded on first use).
        img_size: the usual image size, an int or (height, width), a multiple of the backbone's patch; None: the
            method's `usual_img_size`.
        backbone_options: passed to timm, such as ``{"drop_path_rate": 0.1}``; its ``pretrained_cfg_overlay`` says what
            timm should know of the weights instead, ``{"file": FILE}`` being another way to say `backbone_weights`.
        backbone_weights: a file with the backbone's weights, in place of timm's, so that no network is needed: timm's,
            or of Facebook's DINO, DINOv2, DeiT or MAE, or of Hugging Face's `ViTModel`, `DeiTModel`, `Dinov2Model` or
            `DINOv3ViTModel`; ``.safetensors``, or torch's, read with ``weights_only=True``. What it has beside the
            backbone (`model.backbone_file.left_out`) is not used.
        freeze_backbone: train nothing of the backbone; None: as the method does.
        options: the method's own.

    Raises:
        ValueError: an unknown method, backbone or option, one of a wrong type, or a number of classes below 1; as
            `MisfitError`, weights that do not fit the backbone one to one, all that differs in its `details`.
        FileNotFoundError, CheckpointError: a file of weights that is not there, or cannot be read safely.
        ConnectionError: pretrained weights that are not in the cache, and cannot be downloaded.

    Example:
        >>> import torch
        >>> model = create_model("tscam", "vit_tiny_patch16_224", num_classes=3, pretrained=False, img_size=64)
        >>> logits, maps = model.localize(torch.zeros(2, 3, 64, 96))
        >>> logits.shape, maps.shape
        (torch.Size([2, 3]), torch.Size([2, 1, 4, 6]))
    """
    problems = Problems()
    with problems.collected():
        _check_method(method, options)
    if not isinstance(num_classes, int) or num_classes < 1:
        problems.add(f"num_classes is {num_classes!r}, it should be a whole number of at least 1")
    if img_size is not None:
        with problems.collected():
            height_width("create_model", img_size)
    found = NamedBackbone("", {})
    with problems.collected():
        found = named_backbone(backbone)
    backbone_options = {**found.options, **(backbone_options or {})}
    overlay: dict[str, Any] = {}
    with problems.collected():
        overlay = _checked_overlay(backbone, backbone_options.pop("pretrained_cfg_overlay", None))
    if found.architecture:
        with problems.collected():
            check_vit_options(backbone, backbone_options)
    problems.raise_any()
    img_size = METHODS[method].usual_img_size if img_size is None else img_size
    weights = None
    if backbone_weights is not None:
        weights = read_backbone(backbone_weights)
    elif "file" in overlay:
        weights = read_backbone(overlay["file"], "pretrained_cfg_overlay: file")

    kind = _kind_of(method)

    def make_backbone(size: ImageSize) -> TokenBackbone:
        return kind(
            backbone,
            pretrained=pretrained,
            img_size=size,
            weights=weights,
            pretrained_cfg_overlay=overlay,
            **backbone_options,
        )

    try:
        model = METHODS[method].build(make_backbone, num_classes, img_size, **options)
    except BlocksError as error:
        raise BlocksError(_with_others(error, method)) from error
    except TypeError as error:
        raise ValueError(f"method {method!r} with options {options}: {error}") from error
    model.config = {
        "method": method,
        "backbone": found.architecture,
        "num_classes": num_classes,
        "img_size": img_size if isinstance(img_size, int) else tuple(img_size),
        "backbone_options": backbone_options,
        **options,
    }
    model.options = options
    if weights is not None:
        first = model.backbones()[0]
        model.backbone_file = BackboneFile(
            weights.path, weights.sha256, weights.layout, first.normalization, first.left_out
        )
    if freeze_backbone is not None:
        model.config["freeze_backbone"] = freeze_backbone
    if METHODS[method].freezes_backbone if freeze_backbone is None else freeze_backbone:
        model.freeze_backbone()
    return model


def check_model(
    method: str | None,
    backbone: str,
    img_size: ImageSize | None,
    backbone_options: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Refuse what `create_model` refuses, all of it at once, and as fast as a model without values is made.

    Args:
        method: the method's name; None where it is mistaken, as somebody has said.
        backbone: the backbone's name.
        img_size: the image size; None where it is mistaken or not known: what depends on it is not looked at.
        backbone_options: passed to timm.
        options: the method's own.

    Raises:
        ValueError: all that is mistaken, a line each.
        ConnectionError: the backbone is one of a hub that cannot be reached.

    Example:
        >>> check_model("sat", "vit_tiny_patch16_224", 224, {"depth": 0}, {"area": 2.0})
        Traceback (most recent call last):
        wsol_ext._problems.Mistakes: backbone 'vit_tiny_patch16_224': depth is 0, it should be at least 1
        area is 2.0, it should be between 0 and 1
    """
    problems = Problems()
    known = method if method in METHODS else None
    with problems.collected(), without_values():
        _check_backbone(backbone, known, img_size, backbone_options)
    backbone_holds = not problems.found
    if method is not None:
        with problems.collected():
            _check_method(method, options)
    if known is None or img_size is None:
        problems.raise_any()
        return
    sound = {name: value for name, value in options.items() if _is_option(known, name, value)}

    def make_backbone(size: ImageSize) -> TokenBackbone:
        if backbone_holds:
            held = {n: v for n, v in backbone_options.items() if n != "pretrained_cfg_overlay"}
            return _kind_of(known)(backbone, pretrained=False, img_size=size, **held)
        # One that suits every method and size: what else is mistaken has nothing to do with the backbone.
        return Backbone(
            "vit_tiny_patch16_224", pretrained=False, img_size=size, depth=2, patch_size=1
        )

    with problems.collected(), without_values():
        try:
            METHODS[known].build(make_backbone, 2, img_size, **sound)
        except TypeError as error:
            if len(sound) == len(options):
                raise ValueError(f"method {method!r} with options {options}: {error}") from error
    problems.raise_any()


def _kind_of(method: str | None) -> Callable[..., TokenBackbone]:
    """What makes the backbones of a method."""
    return Backbone if method is not None and METHODS[method].needs_blocks else any_backbone


def _with_others(error: BlocksError, method: str) -> str:
    others = ", ".join(name for name, other in METHODS.items() if not other.needs_blocks)
    return f"{error}, as {method} does; {others} run such a backbone as a whole"


def _check_backbone(
    name: str, method: str | None, img_size: ImageSize | None, options: dict[str, Any]
) -> None:
    problems = Problems()
    options = dict(options)
    with problems.collected():
        _checked_overlay(name, options.pop("pretrained_cfg_overlay", None))
    found = NamedBackbone("", {})
    with problems.collected():
        found = named_backbone(name)
    if not found.architecture:
        problems.raise_any()
    with problems.collected():
        check_vit_options(name, options)
    if problems.found:  # else they are looked at together, and with those of the name
        patch = {option: value for option, value in options.items() if option == "patch_size"}
        try:
            check_vit_options(name, patch)
        except ValueError:
            img_size = None
        options = patch
    if img_size is None:  # one that suits it
        trained = get_pretrained_cfg(found.architecture)
        img_size, options = (trained.input_size[1:] if trained is not None else 224), {}
    with problems.collected():
        try:
            _kind_of(method)(name, pretrained=False, img_size=img_size, **options)
        except BlocksError as error:
            raise BlocksError(_with_others(error, str(method))) from error
    problems.raise_any()


def _is_option(method: str, name: str, value: Any) -> bool:
    try:
        _check_method(method, {name: value})
    except ValueError:
        return False
    return True


def _check_method(method: str, options: dict[str, Any]) -> None:
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    init, build = METHODS[method].__init__, METHODS[method].build
    if any(p.kind is Parameter.VAR_KEYWORD for p in signature(init).parameters.values()):
        return  # it has to know itself
    given = {"self", "backbone", *signature(LocalizationModel.build).parameters}
    taken = {name: p for name, p in signature_of(init, build).items() if name not in given}
    check_options(f"method {method!r}", options, taken)


def _checked_overlay(backbone: str, overlay: Any) -> dict[str, Any]:
    """What is said of a backbone's weights, of the types that it has."""
    if overlay is None:
        return {}
    what = f"backbone {backbone!r}: pretrained_cfg_overlay"
    if not isinstance(overlay, dict):
        raise ValueError(f"{what} is {overlay!r}, it should be names with values")
    for name in ("mean", "std"):
        value = overlay.get(name, (0.5, 0.5, 0.5))
        if not isinstance(value, list | tuple) or not all(
            isinstance(v, float | int) for v in value
        ):
            raise ValueError(f"{what}'s {name} is {value!r}, it should be a number a channel")
    if not isinstance(overlay.get("file", ""), str | Path):
        raise ValueError(f"{what}'s file is {overlay['file']!r}, it should be a path")
    return overlay
