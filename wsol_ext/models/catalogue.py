"""Which method takes which of timm's models, found by trying them without their values."""

import ast
import inspect
import re
import sys
from functools import cache
from typing import NamedTuple

import timm
from torch import nn

from wsol_ext.data.transforms import ImageSize
from wsol_ext.models.base import METHODS
from wsol_ext.models.meta_device import without_values
from wsol_ext.models.vit import Backbone, TokenBackbone, any_backbone

__all__ = ["Tried", "candidates", "names_like", "try_backbone"]


class Tried(NamedTuple):
    """What became of a trial.

    Attributes:
        name: timm's.
        methods: those that take it.
        refusal: why none does, "" where one does.
        patch_size, prefix_tokens, row_of: see `TokenBackbone`.
    """

    name: str
    methods: tuple[str, ...] = ()
    refusal: str = ""
    patch_size: tuple[int, int] = (0, 0)
    prefix_tokens: int = 0
    row_of: str | None = None


def names_like(pattern: str) -> list[str]:
    """timm's architectures by a part of their name, or by all of it with wildcards.

    Example:
        >>> names_like("deit_*_distilled_patch16_224")
        ['deit_base_distilled_patch16_224', 'deit_small_distilled_patch16_224', 'deit_tiny_distilled_patch16_224']
    """
    return timm.list_models(pattern if set("*?[") & set(pattern) else f"*{pattern}*")


def candidates() -> list[str]:
    """timm's architectures less those whose code shows that no method can take them, such as convolutional ones."""
    return [n for n in timm.list_models() if _could_be(timm.model_entrypoint(n).__module__)]


def try_backbone(name: str) -> Tried:
    """Make a model of each method on a backbone, of the image size that it was trained on, without values."""
    try:
        with without_values():
            backbone = any_backbone(name, False, _trained_size(name))
            refusals = {method: _refusal(method, backbone) for method in METHODS}
    except Exception as error:  # of a thousand models that others write, some cannot be made
        own = isinstance(error, ValueError)
        return Tried(name, refusal=str(error) if own else f"backbone {name!r}: {error!r}")
    taken = tuple(method for method, refusal in refusals.items() if not refusal)
    return Tried(
        name,
        taken,
        "" if taken else f"backbone {name!r}: {next(iter(refusals.values()))}",
        backbone.patch_size,
        backbone.prefix_tokens,
        backbone.row_of,
    )


def _trained_size(name: str) -> ImageSize:
    trained = timm.get_pretrained_cfg(name)
    _, height, width = trained.input_size if trained is not None else (3, 224, 224)
    return height, width


def _refusal(method: str, backbone: TokenBackbone) -> str:
    if METHODS[method].needs_blocks and not isinstance(backbone, Backbone):
        return f"{method} runs blocks one by one"
    try:
        METHODS[method].build(lambda _: backbone, 2, backbone.img_size)
    except ValueError as error:
        return str(error)
    return ""


@cache
def _could_be(module: str) -> bool:
    """Whether some class in one of timm's modules has both a patch embedding and blocks."""
    kinds = filter(inspect.isclass, vars(sys.modules[module]).values())
    return any(issubclass(kind, nn.Module) and _has_patches_and_blocks(kind) for kind in kinds)


def _has_patches_and_blocks(kind: type[nn.Module]) -> bool:
    try:
        text = _classes(kind.__module__)[kind.__name__]
    except (OSError, TypeError, KeyError):  # without its source nobody knows
        return True
    return all(
        re.search(rf"self\.({names})\b.* = ", text)
        for names in ("patch_embed|embeds|stem", "blocks", "norm")
    )


@cache
def _classes(module: str) -> dict[str, str]:
    """The source of each class of a module by its name. `inspect.getsource` would parse all of it for each."""
    text = inspect.getsource(sys.modules[module])
    lines = text.splitlines(keepends=True)
    return {
        node.name: "".join(lines[node.lineno - 1 : node.end_lineno])
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    }
