"""The localization methods, each a thin model composed of the operators on a timm backbone."""

from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from wsol_ext._names import unknown
from wsol_ext.data.transforms import ImageSize, height_width
from wsol_ext.models.backbones import named_backbone
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
from wsol_ext.models.molt import MOLT
from wsol_ext.models.options import check_options, signature_of
from wsol_ext.models.sat import SAT
from wsol_ext.models.scm import SCM
from wsol_ext.models.trilite import TriLite
from wsol_ext.models.trt import TRT
from wsol_ext.models.tscam import TSCAM
from wsol_ext.models.vit import Backbone

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
    "TriLite",
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
        backbone: a timm VisionTransformer with a class token, see `Backbone`.
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
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(
            f"num_classes is {num_classes!r}, it should be a whole number of at least 1"
        )
    _check_method_options(method, options)
    img_size = METHODS[method].usual_img_size if img_size is None else img_size
    height_width("create_model", img_size)
    found = named_backbone(backbone)
    backbone_options = {**found.options, **(backbone_options or {})}
    overlay = _checked_overlay(backbone, backbone_options.pop("pretrained_cfg_overlay", None))
    weights = None
    if backbone_weights is not None:
        weights = read_backbone(backbone_weights)
    elif "file" in overlay:
        weights = read_backbone(overlay["file"], "pretrained_cfg_overlay: file")

    def make_backbone(size: ImageSize) -> Backbone:
        return Backbone(
            backbone,
            pretrained=pretrained,
            img_size=size,
            weights=weights,
            pretrained_cfg_overlay=overlay,
            **backbone_options,
        )

    try:
        model = METHODS[method].build(make_backbone, num_classes, img_size, **options)
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


def _check_method_options(method: str, options: dict[str, Any]) -> None:
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
