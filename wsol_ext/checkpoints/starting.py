"""A model that starts from the weights of another, and whether two know the same classes."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from wsol_ext._weight_files import CheckpointError
from wsol_ext.checkpoints.loading import load_model
from wsol_ext.data.class_names import class_mismatch, differing_classes
from wsol_ext.models import LocalizationModel

__all__ = ["initialize_from", "require_same_classes", "start_from"]


def initialize_from(
    model: LocalizationModel, path: str | Path, published_heads: int | None = None
) -> list[str]:
    """Start a model from the weights of another one, usually of another method, on the same backbone.

    Every layer is taken whose weights have the same names and shapes in both: of another number of classes all but the
    classifier. The rest starts as the method starts it on a backbone with these weights: what it copies from the
    backbone, it copies from this one. In a pyramid (`molt`) every transformer starts from another method's model,
    position embeddings resampled for its level, or from its own in another pyramid.

    Args:
        model: to be initialized, of a method's first stage.
        path: the other model, as `load_model` takes it.
        published_heads: see `load_model`.

    Returns:
        the names of the model's weights that were not taken: they start anew.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a file that `load_model` refuses, another backbone or image size; what differs is listed and
            the model is as it was.

    Example:
        >>> import tempfile
        >>> from wsol_ext import create_model
        >>> from wsol_ext.checkpoints import save_model
        >>> tiny = {"embed_dim": 24, "depth": 2, "num_heads": 3}
        >>> tscam, trt = (
        ...     create_model(method, "vit_tiny_patch16_224", 3, False, 32, tiny)
        ...     for method in ("tscam", "trt")
        ... )
        >>> path = f"{tempfile.mkdtemp()}/model.safetensors"
        >>> save_model(tscam, path)
        >>> sorted({name.split(".")[0] for name in initialize_from(trt, path)})
        ['head', 'score_block', 'score_head', 'score_norm']
    """
    return start_from(model, load_model(path, published_heads=published_heads), path)


def start_from(model: LocalizationModel, other: LocalizationModel, path: str | Path) -> list[str]:
    """What `initialize_from` does, with the other model at hand; `path` is where it is from, as messages start.

    As many classes under other names are warned of.
    """
    try:
        anew = model.initialize_from(other)
    except ValueError as error:
        raise CheckpointError(f"{path} {error}", getattr(error, "details", ())) from error
    if model.num_classes == other.num_classes and model.class_names and other.class_names:
        differing = differing_classes(other.class_names, model.class_names)
        if differing:
            there, here = differing[0]
            warnings.warn(
                f"{path} knows other classes, {len(differing)} of {model.num_classes}: {there!r} there is {here!r} "
                "here; its weights are taken all the same",
                stacklevel=3,
            )
    return anew


def require_same_classes(
    model: LocalizationModel, class_names: Sequence[str], path: str | Path
) -> None:
    """Refuse a model whose labels mean other classes than those here: its numbers would be silently wrong.

    Args:
        model: the model; one that has no names for its classes contradicts none, if there are as many.
        class_names: the classes here; mere numbers, `["0", "1", …]`, contradict none either.
        path: where the model is from, as the message starts.

    Raises:
        CheckpointError: it knows other classes.
    """
    knows = model.class_names or [str(label) for label in range(model.num_classes)]
    mismatch = class_mismatch(knows, class_names, "the images it was trained on", "those here")
    if mismatch is not None:
        raise CheckpointError(f"{path} knows other classes: {mismatch}")
