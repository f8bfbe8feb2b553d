"""Weights in and out: our own files, and the checkpoints the methods' authors released. No pickle is ever run."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from wsol_ext import __version__
from wsol_ext._files import atomic_path
from wsol_ext.data.class_names import differing_classes
from wsol_ext.models import METHODS, LocalizationModel, create_model
from wsol_ext.models.transfer import differences

__all__ = [
    "CheckpointError",
    "find_checkpoint",
    "initialize_from",
    "load_model",
    "load_published",
    "save_model",
]

_FORMAT = "wsol_ext"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or is not what was asked for."""


def save_model(
    model: LocalizationModel, path: str | Path, class_names: list[str] | None = None
) -> None:
    """Write a model's weights, configuration and class names to one safetensors file, or leave what was there.

    Args:
        model: made by `create_model`.
        path: the file, usually named ``*.safetensors``.
        class_names: a name for each class; by default the model's own.

    Raises:
        ValueError: not as many names as classes.
        OSError: the file cannot be written; an older one is untouched.
    """
    class_names = model.class_names if class_names is None else class_names
    if class_names is not None and len(class_names) != model.num_classes:
        raise ValueError(
            f"class_names has {len(class_names)} names, the model has {model.num_classes} classes"
        )
    metadata = {
        "format": _FORMAT,
        "version": __version__,
        "config": json.dumps(model.config),
        "class_names": json.dumps(class_names),
    }
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(weights, metadata=metadata))


def load_model(path: str | Path, method: str | None = None) -> LocalizationModel:
    """A model that `save_model` wrote, in evaluation mode on the CPU, its ``class_names`` set where they were saved.

    Args:
        path: the file.
        method: where given, the method the file has to hold.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a corrupt file, one that `save_model` did not write, or another method's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        weights = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"checkpoint {path} is corrupt or no safetensors file: {error}"
        ) from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            f"checkpoint {path} was not written by wsol_ext; weights released by a method's authors load "
            "through wsol_ext.checkpoints.load_published"
        )
    try:
        config = json.loads(metadata["config"])
        class_names = json.loads(metadata["class_names"])
        if isinstance(config["img_size"], list):
            config["img_size"] = tuple(config["img_size"])
        found, backbone = config["method"], str(config["backbone"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} has damaged metadata: {error!r}") from error
    if method is not None and found != method:
        raise CheckpointError(f"checkpoint {path} holds a {found} model, not {method}")
    if not timm.is_model(
        backbone
    ):  # names such as hf-hub:… or local-dir:… make timm read elsewhere
        raise CheckpointError(
            f"checkpoint {path} names a backbone that timm does not know: {backbone}"
        )
    try:
        model = create_model(**config, pretrained=False)
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be rebuilt: {error}") from error
    _load_exactly(model, weights, str(path))
    model.class_names = class_names
    return model.eval()


def find_checkpoint(given: str | Path) -> Path:
    """The model file that is meant by its path, or by the run folder of `wsol train`.

    Raises:
        FileNotFoundError: a folder without one, such as that of a run which has not finished.
    """
    path = Path(given).expanduser()
    if not path.is_dir():
        return path
    checkpoint = path / "model.safetensors"
    if not checkpoint.exists():
        raise FileNotFoundError(f"{path} has no model.safetensors: training has not ended there")
    return checkpoint


def initialize_from(model: LocalizationModel, path: str | Path) -> list[str]:
    """Start a model from the weights of another one, usually of another method, on the same backbone.

    Every layer is taken whose weights have the same names and shapes in both. The rest starts as the method starts it
    on a backbone with these weights: what it copies from the backbone, it copies from this one. In a pyramid (`molt`)
    every transformer starts from another method's model, position embeddings resampled for its level, or from its own
    in another pyramid.

    Args:
        model: to be initialized, of a method's first stage.
        path: the other model, which `save_model` wrote, or the folder of its run.

    Returns:
        the names of the model's weights that were not taken: they start anew.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a file that `load_model` refuses, another backbone, image size or other classes; what differs
            is listed and the model is as it was.

    Example:
        >>> import tempfile
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
    other = load_model(find_checkpoint(path))
    _require_same_classes(model, other, str(path))
    try:
        return model.initialize_from(other)
    except ValueError as error:
        raise CheckpointError(f"{path} {error}") from error


def _require_same_classes(model: LocalizationModel, other: LocalizationModel, source: str) -> None:
    if other.num_classes != model.num_classes:
        raise CheckpointError(
            f"{source} knows {other.num_classes} classes, there are {model.num_classes} here"
        )
    known, here = other.class_names, model.class_names
    pairs = differing_classes(known, here) if known and here else []
    differing = [f"{theirs!r}, not {ours!r}" for theirs, ours in pairs]
    if differing:
        raise CheckpointError(f"{source} knows other classes: {'; '.join(differing)}")


def load_published(
    method: str,
    weights: str | Path | Mapping[str, Tensor],
    num_heads: int,
    **options: Any,
) -> LocalizationModel:
    """A model with weights under the names that the method's authors gave them.

    Sizes (width, depth, patch, image, classes) are read from the weights' shapes; only the number of heads leaves
    no trace there. A leading ``module.`` and a wrapping ``state_dict``, ``model`` or ``state`` key are looked
    through.

    Args:
        method: a method with `published_names`: ``tscam``, ``trt`` (of either stage), ``scm`` and ``sat`` have some.
        weights: a ``.pth`` or ``.safetensors`` file, or a state dict. Files are read with ``weights_only=True``: a
            pickle that would run code is refused.
        num_heads: attention heads of a block (DeiT-T 3, DeiT-S 6, DeiT-B 12).
        options: the method's own, as for `create_model`.

    Returns:
        the model, in evaluation mode on the CPU.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a file that cannot be read safely, or names and shapes that are not the method's; all that
            are missing or unexpected are listed.
    """
    published = {name: known.published_names for name, known in METHODS.items()}
    patterns = published.get(method)
    if patterns is None:
        names = [name for name, of_method in published.items() if of_method is not None]
        raise ValueError(f"method is {method!r}, it should be one of {', '.join(names)}")
    source = "the state dict" if isinstance(weights, Mapping) else f"checkpoint {weights}"
    state = _unwrap(weights if isinstance(weights, Mapping) else _read_state(Path(weights)), source)
    try:
        sizes = _sizes(state, num_heads)
    except KeyError as error:
        raise CheckpointError(
            f"{source} is no {method} model: {error.args[0]} is missing"
        ) from error
    options = {**METHODS[method].published_options(state), **options}
    ours = {name: _rename(name, patterns) for name in state}
    renamed = {ours[name]: weight for name, weight in state.items() if ours[name]}
    model = create_model(
        method,
        "vit_tiny_patch16_224",
        pretrained=False,
        **sizes,
        **options,
    )
    _load_exactly(model, renamed, source)
    return model.eval()


def _rename(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in patterns:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return f"backbone.vit.{name}"


def _read_state(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"checkpoint {path} is corrupt: {error}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds, by how the file is damaged
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(
            f"checkpoint {path} cannot be read as plain weights: {reason}"
        ) from error


def _unwrap(state: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    for key in ("state_dict", "model", "state"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(v, Tensor) for v in state.values())
    ):
        raise CheckpointError(f"{source} holds no state dict: names with a tensor each")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _sizes(state: Mapping[str, Tensor], num_heads: int) -> dict[str, Any]:
    """The number of classes and the backbone's sizes, as `create_model` takes them."""
    width, _, patch_height, patch_width = state["patch_embed.proj.weight"].shape
    depth = 1 + max(
        (int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.", name))), default=-1
    )
    side = round((state["pos_embed"].size(1) - 1) ** 0.5)
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"num_heads is {num_heads}, it should divide the width, {width}")
    return {
        "num_classes": state["head.weight"].size(0),
        "img_size": (side * patch_height, side * patch_width)
        if patch_height != patch_width
        else side * patch_height,
        "backbone_options": {
            "embed_dim": width,
            "depth": depth,
            "num_heads": num_heads,
            "patch_size": patch_height,
            "mlp_ratio": state["blocks.0.mlp.fc1.weight"].size(0) / width,
            "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        },
    }


def _load_exactly(model: LocalizationModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights that fit one to one, or say what does not."""
    problems = differences(model.state_dict(), weights)
    if problems:
        raise CheckpointError(
            f"{source} does not fit a {model.config['method']} model: {'; '.join(problems)}"
        )
    model.load_state_dict(dict(weights))
