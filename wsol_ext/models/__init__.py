"""The localization methods, each a thin model composed of the operators on a timm backbone."""

from inspect import Parameter, signature
from typing import Any

from wsol_ext._names import unknown
from wsol_ext.data.transforms import ImageSize, height_width
from wsol_ext.models.backbones import named_backbone
from wsol_ext.models.base import (
    METHODS,
    LocalizationModel,
    Localized,
    Parts,
    SingleBackboneModel,
    register_method,
)
from wsol_ext.models.molt import MOLT
from wsol_ext.models.options import check_options, signature_of
from wsol_ext.models.sat import SAT
from wsol_ext.models.scm import SCM
from wsol_ext.models.trt import TRT
from wsol_ext.models.tscam import TSCAM
from wsol_ext.models.vit import Backbone, BlocksError, TokenBackbone, any_backbone

__all__ = [
    "METHODS",
    "MOLT",
    "SAT",
    "SCM",
    "TRT",
    "TSCAM",
    "Backbone",
    "LocalizationModel",
    "Localized",
    "Parts",
    "SingleBackboneModel",
    "TokenBackbone",
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
        backbone_options: passed to timm, such as ``{"drop_path_rate": 0.1}``.
        options: the method's own.

    Raises:
        ValueError: an unknown method, backbone or option, one of a wrong type, or a number of classes below 1.
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

    kind = Backbone if METHODS[method].needs_blocks else any_backbone

    def make_backbone(size: ImageSize) -> TokenBackbone:
        return kind(backbone, pretrained=pretrained, img_size=size, **backbone_options)

    try:
        model = METHODS[method].build(make_backbone, num_classes, img_size, **options)
    except BlocksError as error:
        others = ", ".join(name for name, other in METHODS.items() if not other.needs_blocks)
        raise BlocksError(
            f"{error}, as {method} does; {others} run such a backbone as a whole"
        ) from error
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
    return model


def _check_method_options(method: str, options: dict[str, Any]) -> None:
    init, build = METHODS[method].__init__, METHODS[method].build
    if any(p.kind is Parameter.VAR_KEYWORD for p in signature(init).parameters.values()):
        return  # it has to know itself
    given = {"self", "backbone", *signature(LocalizationModel.build).parameters}
    taken = {name: p for name, p in signature_of(init, build).items() if name not in given}
    check_options(f"method {method!r}", options, taken)
