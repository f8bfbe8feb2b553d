"""Weights in and out: our own files, and the checkpoints the methods' authors released. No pickle is ever run."""

import json
import re
import reprlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wsol_ext import __version__
from wsol_ext._weight_files import (
    LIGHTNING,
    TORCH,
    Header,
    other_kind,
    read_header,
    write_safetensors,
)
from wsol_ext.data.class_names import differing_classes
from wsol_ext.models import METHODS, LocalizationModel, create_model
from wsol_ext.models.transfer import MisfitError, differences
from wsol_ext.models.vit import without_values

__all__ = [
    "CheckpointError",
    "find_checkpoint",
    "initialize_from",
    "load_model",
    "load_published",
    "save_model",
]

_FORMAT = "wsol_ext"
# Options of timm's transformers that say how many modules there are.
_COUNTS = ("depth", "depth_token_only", "cls_attn_layers", "num_blocks")
_HEAD_WIDTH = 64  # channels of an attention head, in every DeiT and nearly every ViT


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or is not what was asked for.

    Attributes:
        details: all of what the message gives the first of; empty where it gives all.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = list(details)


def save_model(
    model: LocalizationModel, path: str | Path, class_names: Sequence[str] | None = None
) -> None:
    """Write a model's weights, configuration and class names to one safetensors file, or leave what was there.

    Equal models make equal files, byte for byte.

    Args:
        model: made by `create_model`.
        path: the file, usually named ``*.safetensors``.
        class_names: a name for each class; by default the model's own.

    Raises:
        ValueError: not as many names as classes, or names that are no strings.
        OSError: the file cannot be written; an older one is untouched.
    """
    class_names = model.class_names if class_names is None else class_names
    problem = _class_names_problem(class_names, model.num_classes)
    if problem:
        raise ValueError(problem)
    metadata = {
        "format": _FORMAT,
        "version": __version__,
        "config": json.dumps(model.config),
        "class_names": json.dumps(class_names),
    }
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    write_safetensors(Path(path), weights, metadata)


def load_model(path: str | Path, method: str | None = None) -> LocalizationModel:
    """A model that `save_model` wrote, in evaluation mode on the CPU, its ``class_names`` set where they were saved.

    Nothing is built before the file's header was found to hold the tensors of the model that it describes: what a
    hostile file costs is bounded by its size.

    Args:
        path: the file, or the folder of a run of `wsol train`.
        method: where given, the method the file has to hold.

    Raises:
        FileNotFoundError: no such file, or a folder without a model.
        CheckpointError: a corrupt file, one that `save_model` did not write, or another method's.
    """
    path = find_checkpoint(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        header = read_header(path)
    except SafetensorError as error:
        raise CheckpointError(f"checkpoint {path} {_no_model(path, error)}") from error
    config, class_names = _read_metadata(header.metadata, path)
    if method is not None and config["method"] != method:
        raise CheckpointError(f"checkpoint {path} holds a {config['method']} model, not {method}")
    _require_tensors_of(config, header, path)
    try:
        model = create_model(**config, pretrained=False)
        model.load_state_dict(load_file(path))
    except (
        SafetensorError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # tensors of a kind that torch or the model lacks
        raise CheckpointError(f"checkpoint {path} cannot be read: {error!r}") from error
    model.class_names = class_names
    return model.eval()


def _no_model(path: Path, error: SafetensorError) -> str:
    """What a file is that is no safetensors file, and the way on."""
    kind = other_kind(path)
    if kind == LIGHTNING:
        return (
            f"is {kind}, from which training goes on: the same `wsol train` command ends the run and writes its "
            "model.safetensors; give that, or the run's folder"
        )
    if kind == TORCH:
        return (
            f"is {kind}; in Python, wsol_ext.checkpoints makes a model of weights that a method's authors released: "
            f"save_model(load_published(METHOD, {str(path)!r}, num_heads=HEADS), 'model.safetensors')"
        )
    return f"is {kind}" if kind else f"is corrupt or no safetensors file: {error}"


def _read_metadata(
    metadata: Mapping[str, str], path: Path
) -> tuple[dict[str, Any], list[str] | None]:
    """The arguments of `create_model` and the class names that a file holds, each of its type."""
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            f"checkpoint {path} was not written by wsol_ext; weights released by a method's authors load "
            "through wsol_ext.checkpoints.load_published"
        )
    try:
        config, class_names = (json.loads(metadata[name]) for name in ("config", "class_names"))
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} has damaged metadata: {error!r}") from error
    problem = _config_problem(config) or _class_names_problem(class_names, config["num_classes"])
    if problem:
        raise CheckpointError(f"checkpoint {path} has damaged metadata: {problem}")
    if not timm.is_model(config["backbone"]):  # names as hf-hub:… make timm read elsewhere
        raise CheckpointError(
            f"checkpoint {path} names a backbone that timm does not know: {config['backbone']}"
        )
    if isinstance(config["img_size"], list):
        config["img_size"] = tuple(config["img_size"])
    return config, class_names


def _config_problem(config: Any) -> str | None:
    """What is wrong with the configuration in a file; its options are `create_model`'s to check."""
    if not isinstance(config, dict):
        return f"config is {reprlib.repr(config)}, it should be names with values"
    for name, (holds, wanted) in _CONFIG.items():
        if name not in config:
            return f"config has no {name}"
        if not holds(config[name]):
            return f"config's {name} is {reprlib.repr(config[name])}, it should be {wanted}"
    return None


def _class_names_problem(class_names: Any, num_classes: int) -> str | None:
    """What is wrong with a model's class names; None may stand for them all."""
    if class_names is None:
        return None
    if not isinstance(class_names, list | tuple):
        return f"class_names is {reprlib.repr(class_names)}, it should be a name for each class"
    if len(class_names) != num_classes:
        return f"class_names has {len(class_names)} names, the model has {num_classes} classes"
    for number, name in enumerate(class_names):
        if not isinstance(name, str):
            return f"class_names[{number}] is {reprlib.repr(name)}, it should be a string"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_size(value: Any) -> bool:
    return _is_count(value) or (
        isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))
    )


# What every configuration has, whether it holds, and in words.
_CONFIG: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (_is_text, "a method's name"),
    "backbone": (_is_text, "a backbone's name"),
    "num_classes": (_is_count, "a whole number of at least 1"),
    "img_size": (_is_size, "a side, or a height and a width, in pixels"),
    "backbone_options": (lambda value: isinstance(value, dict), "names with values"),
}


def _require_tensors_of(config: dict[str, Any], header: Header, path: Path) -> None:
    """Refuse a file whose tensors are not those of the model that it describes, in a time that the file bounds."""
    most = len(header.tensors)
    # Modules take time without their values too, and each has a tensor at least.
    for name, value in {**config, **config["backbone_options"]}.items():
        count = len(value) if isinstance(value, list | dict) else value if name in _COUNTS else 0
        if isinstance(count, int) and count > most:
            raise CheckpointError(
                f"checkpoint {path} has damaged metadata: config's {name} asks for {count} of what the file has "
                f"{most} tensors for"
            )
    try:
        with without_values():
            model = create_model(**config, pretrained=False)
    except Exception as error:  # of a configuration's values, and there is nothing else here
        raise CheckpointError(f"checkpoint {path} cannot be rebuilt: {error}") from error
    _require_fit(model, header.tensors, f"checkpoint {path}")


def find_checkpoint(given: str | Path) -> Path:
    """The model file that is meant by its path, or by the run folder of `wsol train`.

    Raises:
        FileNotFoundError: a folder without one, such as that of a run which has not finished.
    """
    path = Path(given).expanduser()
    if not path.is_dir():
        return path
    checkpoint = path / "model.safetensors"
    if checkpoint.exists():
        return checkpoint
    if (path / "config.yaml").exists():
        raise FileNotFoundError(f"{path} has no model.safetensors: training has not ended there")
    raise FileNotFoundError(f"{path} is no folder of a run: it has no model.safetensors")


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
    other = load_model(path)
    _require_same_classes(model, other, str(path))
    try:
        return model.initialize_from(other)
    except ValueError as error:
        raise CheckpointError(f"{path} {error}", getattr(error, "details", ())) from error


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
            are missing or unexpected are in its `details`.
        ValueError: an unknown method, or a number of heads that does not divide the width. One that DeiTs of this
            width do not have is warned of.
    """
    published = {name: known.published_names for name, known in METHODS.items()}
    patterns = published.get(method)
    if patterns is None:
        names = [name for name, of_method in published.items() if of_method is not None]
        raise ValueError(f"method is {method!r}, it should be one of {', '.join(names)}")
    source = "the state dict" if isinstance(weights, Mapping) else f"checkpoint {weights}"
    state = _unwrap(weights if isinstance(weights, Mapping) else _read_state(weights), source)
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
    _require_fit(model, renamed, source)
    model.load_state_dict(renamed)
    return model.eval()


def _rename(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in patterns:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return f"backbone.vit.{name}"


def _read_state(given: str | Path) -> Mapping[str, Any]:
    path = Path(given).expanduser()
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
        kind = other_kind(path)
        if kind not in (None, TORCH, LIGHTNING):
            raise CheckpointError(f"checkpoint {path} is {kind}") from error
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
    if not _is_count(num_heads) or width % num_heads:
        raise ValueError(f"num_heads is {num_heads!r}, it should divide the width, {width}")
    if width % _HEAD_WIDTH == 0 and num_heads != width // _HEAD_WIDTH:
        warnings.warn(
            f"load_published: num_heads is {num_heads}; DeiTs and ViTs of this width, {width}, have "
            f"{width // _HEAD_WIDTH}, and with another number the weights mean something else",
            stacklevel=3,
        )
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


def _require_fit(model: LocalizationModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that do not fit one to one, and say what does not."""
    problems = differences(model.state_dict(), weights)
    if problems:
        misfit = MisfitError(f"{source} does not fit a {model.config['method']} model", problems)
        raise CheckpointError(str(misfit), misfit.details)
