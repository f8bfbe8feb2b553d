"""The files of our own models: safetensors, whose metadata describe the model. None is trusted."""

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
from safetensors.torch import load_file

from wsol_ext import __version__
from wsol_ext._files import sha256_of
from wsol_ext._published import is_count
from wsol_ext._weight_files import CheckpointError, Header, write_safetensors
from wsol_ext.checkpoints.fitting import UNREADABLE, require_fit
from wsol_ext.data.transforms import MEAN
from wsol_ext.models import BackboneFile, LocalizationModel, create_model
from wsol_ext.models.meta_device import without_values
from wsol_ext.models.misfits import MisfitError

__all__ = ["FORMAT", "load_own", "save_model"]

FORMAT = "wsol_ext"
_MOST_BACKBONE_TENSORS = 1000  # a ViT-g of 40 blocks has 720
# Options of timm's transformers that say how many modules there are.
_COUNTS = ("depth", "depth_token_only", "cls_attn_layers", "num_blocks")


def save_model(
    model: LocalizationModel,
    path: str | Path,
    class_names: Sequence[str] | None = None,
    whole: bool = False,
) -> None:
    """Write a model's weights, configuration and class names to one safetensors file, or leave what was there.

    Equal models make equal files, byte for byte. The weights of a frozen backbone that came from a file are not written
    again: the file is named, with its hash, and `load_model` looks for it.

    Args:
        model: made by `create_model`.
        path: the file, usually named ``*.safetensors``.
        class_names: a name for each class; by default the model's own.
        whole: write those of such a backbone too, so that the file needs no other.

    Raises:
        ValueError: not as many names as classes, or names that are no strings.
        OSError: the file cannot be written; an older one is untouched.
    """
    class_names = model.class_names if class_names is None else class_names
    problem = _class_names_problem(class_names, model.num_classes)
    if problem:
        raise ValueError(problem)
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "config": json.dumps(model.config),
        "class_names": json.dumps(class_names),
    }
    elsewhere: set[str] = set()
    if model.backbone_is_frozen and model.backbone_file is not None and not whole:
        metadata["backbone_file"] = json.dumps(_described(model.backbone_file))
        elsewhere = model.backbone_weights()
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name not in elsewhere
    }
    write_safetensors(Path(path), weights, metadata)


def _described(file: BackboneFile) -> dict[str, Any]:
    mean, std = file.normalization
    return {
        "path": str(file.path.absolute()),
        "sha256": file.sha256,
        "mean": list(mean),
        "std": list(std),
    }


def load_own(
    path: Path, header: Header, method: str | None, backbone_weights: str | Path | None
) -> LocalizationModel:
    """A model that `save_model` wrote."""
    config, class_names = _read_metadata(header.metadata, path)
    if method is not None and config["method"] != method:
        raise CheckpointError(f"checkpoint {path} holds a {config['method']} model, not {method}")
    _require_tensors_of(config, header, path)
    where = _backbone_file(header.metadata, path, backbone_weights)
    try:
        model = create_model(**_with_file(config, where), pretrained=False)
        weights = load_file(path)
        if where is not None:
            weights = model.with_own_backbones(weights)
        model.load_state_dict(weights)
    except MisfitError as error:
        raise CheckpointError(f"checkpoint {path}: {error}", error.details) from error
    except UNREADABLE as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error!r}") from error
    model.class_names = class_names
    return model.eval()


def _require_tensors_of(config: dict[str, Any], header: Header, path: Path) -> None:
    """Refuse a file whose tensors are not those of the model that it describes, in a time that the file bounds."""
    most = len(header.tensors)
    if "backbone_file" in header.metadata:  # has the others
        most += _MOST_BACKBONE_TENSORS
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
    tensors = header.tensors
    if "backbone_file" in header.metadata:
        tensors = model.with_own_backbones(tensors)
    require_fit(model, tensors, f"checkpoint {path}")


class _Where(NamedTuple):
    """A frozen backbone's file, and what its weights expect."""

    path: Path
    overlay: dict[str, Any]


def _with_file(config: dict[str, Any], where: _Where | None) -> dict[str, Any]:
    if where is None:
        return config
    options = {**config["backbone_options"], "pretrained_cfg_overlay": where.overlay}
    return {**config, "backbone_options": options, "backbone_weights": where.path}


def _backbone_file(
    metadata: Mapping[str, str], path: Path, given: str | Path | None
) -> _Where | None:
    """Where the frozen backbone is that a file does not hold; None where it holds it."""
    if "backbone_file" not in metadata:
        return None
    described = _read_backbone_file(metadata, path)
    recorded = Path(described["path"])
    wanted = described["sha256"]
    overlay = {"mean": described["mean"], "std": described["std"]}
    places = (
        [Path(given).expanduser()] if given is not None else [recorded, path.parent / recorded.name]
    )
    there = [place for place in places if place.is_file()]
    for place in there:
        if sha256_of(place) == wanted:
            return _Where(place, overlay)
    if there:
        raise CheckpointError(
            f"{there[0]} is not the frozen backbone of {path}: its SHA-256 is {sha256_of(there[0])}, not {wanted}"
        )
    raise FileNotFoundError(
        f"{path} leaves its frozen backbone to {recorded} (SHA-256 {wanted}), which is not at "
        f"{' or '.join(map(str, places))}: give it as backbone_weights (--backbone-weights)"
    )


def _read_backbone_file(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        found = json.loads(metadata["backbone_file"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} has damaged metadata: {error!r}") from error
    wanted: dict[str, Callable[[Any], bool]] = {
        "path": _is_text,
        "sha256": lambda value: bool(_is_text(value) and re.fullmatch("[0-9a-f]{64}", value)),
        "mean": _is_pixel,
        "std": lambda value: _is_pixel(value) and all(v > 0 for v in value),
    }
    wrong = [
        n for n, holds in wanted.items() if not isinstance(found, dict) or not holds(found.get(n))
    ]
    if wrong or "\0" in found["path"]:
        raise CheckpointError(
            f"checkpoint {path} has damaged metadata: backbone_file is {reprlib.repr(found)}"
        )
    return found


def _is_pixel(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == len(MEAN)
        and all(isinstance(v, float | int) and math.isfinite(v) for v in value)
    )


def _read_metadata(
    metadata: Mapping[str, str], path: Path
) -> tuple[dict[str, Any], list[str] | None]:
    """The arguments of `create_model` and the class names that a file holds, each of its type."""
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
    named_files = {"backbone_weights"} & config.keys()
    named_files |= {"pretrained_cfg_overlay"} & config["backbone_options"].keys()
    if named_files:  # a file would make this program read others
        return f"config has {named_files.pop()}, which save_model does not write"
    if not isinstance(config.get("freeze_backbone", True), bool):
        return (
            f"config's freeze_backbone is {config['freeze_backbone']!r}, it should be true or false"
        )
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


def _is_size(value: Any) -> bool:
    return is_count(value) or (
        isinstance(value, list) and len(value) == 2 and all(map(is_count, value))
    )


# What every configuration has, whether it holds, and in words.
_CONFIG: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (_is_text, "a method's name"),
    "backbone": (_is_text, "a backbone's name"),
    "num_classes": (is_count, "a whole number of at least 1"),
    "img_size": (_is_size, "a side, or a height and a width, in pixels"),
    "backbone_options": (lambda value: isinstance(value, dict), "names with values"),
}
