"""Weights in and out: our own files, and the checkpoints the methods' authors released. No pickle is ever run."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor

from wsol_ext import __version__
from wsol_ext._files import atomic_path
from wsol_ext.data.class_names import differing_classes
from wsol_ext.models import MOLT, LocalizationModel, create_model
from wsol_ext.models.base import SingleBackboneModel

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
    if isinstance(model, MOLT):
        return _initialize_pyramid(model, other, str(path))
    if not isinstance(model, SingleBackboneModel) or not isinstance(other, SingleBackboneModel):
        method, source = model.config["method"], other.config["method"]
        raise CheckpointError(f"{path} holds a {source} model, which a {method} cannot start from")
    _require_same_backbone(model, other, str(path))
    own, weights = model.state_dict(), other.state_dict()
    taken = _whole_layers(own, weights)
    model.backbone.load_state_dict(other.backbone.state_dict())
    options = {name: value for name, value in model.config.items() if name not in _CREATE_ARGUMENTS}
    started = type(model)(model.backbone, model.num_classes, **options)
    model.load_state_dict({**started.state_dict(), **taken})
    return [name for name in own if name not in taken]


def _initialize_pyramid(model: MOLT, other: LocalizationModel, source: str) -> list[str]:
    """Start from another pyramid, or every transformer from the same model, position embeddings resampled."""
    if isinstance(other, MOLT):
        for ours, theirs in zip(model.tscams, other.tscams, strict=False):
            for problem in _differing_heads(ours, theirs):
                raise CheckpointError(f"{source} has another backbone: {problem}")
        _load_exactly(model, other.state_dict(), source)
        return []
    assert isinstance(other, SingleBackboneModel)
    started: dict[str, Tensor] = {}
    for number, transformer in enumerate(model.tscams):
        positions = _resampled_positions(other, transformer)
        problems = _backbone_differences(transformer, other, positions)
        if problems:
            raise CheckpointError(f"{source} has another backbone: {'; '.join(problems)}")
        weights = other.state_dict() | {f"backbone.{n}": w for n, w in positions.items()}
        taken = _whole_layers(transformer.state_dict(), weights)
        started |= {f"transformers.{number}.{name}": weight for name, weight in taken.items()}
    model.load_state_dict(started, strict=False)
    return [name for name in model.state_dict() if name not in started]


def _resampled_positions(
    other: SingleBackboneModel, model: SingleBackboneModel
) -> dict[str, Tensor]:
    """The other's position embeddings on this model's grid, where only the grids differ."""
    own, given = (cast(Tensor, m.backbone.vit.pos_embed) for m in (model, other))
    if own.shape == given.shape or own.shape[2:] != given.shape[2:]:
        return {}
    grid = cast(PatchEmbed, model.backbone.vit.patch_embed).grid_size
    prefix = own.size(1) - grid[0] * grid[1]
    resampled = resample_abs_pos_embed(given.detach(), list(grid), num_prefix_tokens=prefix)
    return {"vit.pos_embed": resampled}


def _whole_layers(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that fit a model's own, of layers all of whose weights do."""
    fits = {n for n, w in own.items() if n in weights and weights[n].shape == w.shape}
    anew = {_layer(name) for name in own.keys() - fits}
    return {name: weights[name] for name in fits if _layer(name) not in anew}


# What `create_model` names itself: all else in a model's `config` are its method's own options.
_CREATE_ARGUMENTS = ("method", "backbone", "num_classes", "img_size", "backbone_options")


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _require_same_backbone(
    model: SingleBackboneModel, other: SingleBackboneModel, source: str
) -> None:
    problems = _backbone_differences(model, other, {})
    if problems:
        theirs, ours = (f"{m.config['backbone']} at {m.config['img_size']}" for m in (other, model))
        raise CheckpointError(
            f"{source} has another backbone: {theirs}, not {ours}: {'; '.join(problems)}"
        )


def _backbone_differences(
    model: SingleBackboneModel, other: SingleBackboneModel, instead: Mapping[str, Tensor]
) -> list[str]:
    """What keeps the other's backbone from being this model's, if some of its weights were these."""
    theirs = {**other.backbone.state_dict(), **instead}
    problems = _differences(model.backbone.state_dict(), theirs)
    return problems + _differing_heads(model, other)


def _differing_heads(model: SingleBackboneModel, other: SingleBackboneModel) -> list[str]:
    """What the weights' shapes do not show; nothing where both have as many attention heads."""
    theirs, ours = (cast(Block, m.backbone.vit.blocks[0]).attn.num_heads for m in (other, model))
    return [] if theirs == ours else [f"{theirs} attention heads, not {ours}"]


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
        method: ``tscam``, ``trt`` (of either stage), ``scm`` or ``sat``.
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
    if method not in _PUBLISHED_NAMES:
        raise ValueError(f"method is {method!r}, it should be one of {', '.join(_PUBLISHED_NAMES)}")
    source = "the state dict" if isinstance(weights, Mapping) else f"checkpoint {weights}"
    state = _unwrap(weights if isinstance(weights, Mapping) else _read_state(Path(weights)), source)
    try:
        sizes = _sizes(state, num_heads)
    except KeyError as error:
        raise CheckpointError(
            f"{source} is no {method} model: {error.args[0]} is missing"
        ) from error
    if method == "trt":
        options.setdefault("stage", 2 if any(n.startswith("camfuse_block.") for n in state) else 1)
    names = {name: _rename(name, _PUBLISHED_NAMES[method]) for name in state}
    renamed = {ours: state[name] for name, ours in names.items() if ours}
    model = create_model(
        method,
        "vit_tiny_patch16_224",
        pretrained=False,
        **sizes,
        **options,
    )
    _load_exactly(model, renamed, source)
    return model.eval()


# For each method: patterns over the authors' parameter names, and ours, "" where we keep none. The first that matches
# renames; what none matches belongs to the backbone, whose names are timm's.
_PUBLISHED_NAMES: dict[str, list[tuple[str, str]]] = {
    "tscam": [(r"head\.(weight|bias)", r"head.\1")],
    "trt": [
        (r"(head|score_norm|score_head)\.(.+)", r"\1.\2"),
        (r"score_layer\.(.+)", r"score_block.\1"),
        (r"camfuse_block\.cam_tr\.(.+)", r"cam_block.\1"),
        (r"camfuse_block\.(cam_norm|cam_head)\.(.+)", r"\1.\2"),
    ],
    "scm": [
        (r"head\.(weight|bias)", r"head.\1"),
        (r"layers\.(\d+)\.fuse\._loss_rate", r"layers.\1.strength"),
        (r"layers\.(\d+)\.thred", r"layers.\1.threshold"),
    ],
    "sat": [
        (r"head\.(weight|bias)", r"head.\1"),
        (r"loc_(token|embed)", r"spatial_\1"),
        (r"weight", ""),  # the blur, a constant
    ],
}


def _rename(name: str, patterns: list[tuple[str, str]]) -> str:
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
    problems = _differences(model.state_dict(), weights)
    if problems:
        raise CheckpointError(
            f"{source} does not fit a {model.config['method']} model: {'; '.join(problems)}"
        )
    model.load_state_dict(dict(weights))


def _differences(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """What keeps weights from fitting a model's own one to one, a line for each kind."""
    problems = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            for name in own
            if name in weights and own[name].shape != weights[name].shape
        ],
    }
    return [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
