"""The checkpoints that the methods' authors released: their programs' names, and sizes found in the shapes."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from wsol_ext._names import some
from wsol_ext._published import (
    HEAD_WIDTH,
    AbsentError,
    Published,
    is_count,
    published_as,
    published_methods,
    recognized,
)
from wsol_ext._weight_files import CheckpointError, read_tensors, unwrapped
from wsol_ext.checkpoints.fitting import UNREADABLE, require_fit
from wsol_ext.models import METHODS, LocalizationModel, create_model

__all__ = ["load_authors", "load_published"]


def load_published(
    method: str,
    weights: str | Path | Mapping[str, Tensor],
    num_heads: int | None = None,
    *,
    entry: str | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> LocalizationModel:
    """A model with weights under the names that the method's authors gave them.

    Sizes (width, depth, patch, image, classes) are read from the weights' shapes; only the number of heads leaves
    no trace there. Leading ``module.`` and ``_orig_mod.``, however often, and a wrapping ``state_dict``, ``model`` or
    ``state`` key are looked through.

    Args:
        method: a method with `published_names`: ``tscam``, ``trt`` (of either stage), ``scm``, ``sat`` and ``trilite``
            have some.
        weights: a ``.pth`` or ``.safetensors`` file, or a state dict. Files are read with ``weights_only=True``: a
            pickle that would run code is refused.
        num_heads: attention heads of a block (DeiT-T 3, DeiT-S 6, DeiT-B 12); None: width // 64, as all of these have.
        entry: the key to look under, where that is none of those above: ``model_ema``, ``net``.
        backbone_options: passed to timm beside the sizes, such as ``{"drop_path_rate": 0.1}`` to train on.
        options: the method's own, as for `create_model`.

    Returns:
        the model, in evaluation mode on the CPU.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a file that cannot be read safely, or names and shapes that are not the method's; all that
            are missing or unexpected are in its `details`.
        ValueError: an unknown method, or a number of heads that does not divide the width. One that DeiTs of this
            width do not have is warned of.
    """
    known = METHODS.get(method)
    if known is None or known.published_names is None:
        raise ValueError(
            f"method is {method!r}, it should be one of {', '.join(published_methods())}"
        )
    source = "the state dict" if isinstance(weights, Mapping) else f"checkpoint {weights}"
    state = (
        unwrapped(weights, source, entry)
        if isinstance(weights, Mapping)
        else _read_published(Path(weights).expanduser(), source, entry)
    )
    try:
        found = published_as(method, state, num_heads)
    except AbsentError as error:
        raise CheckpointError(
            f"{source} is no {method} model: {error}; it has {some(list(state))}"
        ) from error
    _check_heads(found, num_heads, "num_heads")
    sizes = found.arguments
    sizes["backbone_options"] |= dict(backbone_options or {})
    model = create_model(**{**sizes, **options}, pretrained=False)
    renamed = found.renamed(state)
    require_fit(model, renamed, source)
    model.load_state_dict(renamed)
    return model.eval()


def _read_published(path: Path, source: str, entry: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    return read_tensors(path, source, entry)


def load_authors(
    path: Path, shapes: Mapping[str, Tensor] | None, method: str | None, heads: int | None
) -> LocalizationModel:
    """A model of an authors' file: of safetensors, whose shapes are known, or else of torch."""
    source = f"checkpoint {path}"
    values = read_tensors(path, source) if shapes is None else None
    state = unwrapped(shapes, source) if values is None and shapes is not None else values
    assert state is not None
    found = recognized(state, source, heads, first=method)
    if method is not None and found.method != method:
        raise CheckpointError(f"{source} holds a {found.method} model, not {method}")
    if heads is None and found.usual_heads is None:
        raise CheckpointError(
            f"{source} holds a {found.method} model of its authors, and its width, {found.width}, does not tell how "
            f"many attention heads it has, as it is no multiple of {HEAD_WIDTH}: give them as published_heads "
            "(--published-heads)"
        )
    _check_heads(found, heads, f"{source}: published_heads (--published-heads)")
    if heads is None:
        warnings.warn(
            f"{path} holds a {found.method} model of its authors; --published-heads is taken to be "
            f"{found.usual_heads}, its width, {found.width}, over {HEAD_WIDTH}",
            stacklevel=3,
        )
    try:
        if values is None:
            values = unwrapped(load_file(path), source)
        model = create_model(**found.arguments, pretrained=False)
        model.load_state_dict(found.renamed(values))
    except CheckpointError:
        raise
    except UNREADABLE as error:
        raise CheckpointError(f"{source} cannot be read: {error!r}") from error
    return model.eval()


def _check_heads(found: Published, given: int | None, option: str) -> None:
    """Refuse a number of attention heads that the weights cannot have, and warn of one that is unusual.

    Raises:
        ValueError: it does not divide the width, or is not given where the width does not tell it.
    """
    width, usual = found.width, found.usual_heads
    if given is None and usual is None:
        raise ValueError(
            f"{option} is not given, and a width of {width} does not tell it: it is no multiple of {HEAD_WIDTH}"
        )
    if given is None:
        return
    if not is_count(given) or width % given:
        raise ValueError(f"{option} is {given!r}, it should divide the width, {width}")
    if usual is not None and given != usual:
        warnings.warn(
            f"{option} is {given}; DeiTs and ViTs of this width, {width}, have {usual}, and with another number "
            "the weights mean something else",
            stacklevel=3,
        )
