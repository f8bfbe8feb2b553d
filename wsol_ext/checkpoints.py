"""Weights in and out: our own files, and the checkpoints the methods' authors released. No pickle is ever run."""

import json
import math
import re
import reprlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wsol_ext import __version__
from wsol_ext._files import sha256_of
from wsol_ext._names import some
from wsol_ext._weight_files import (
    LIGHTNING,
    TORCH,
    Header,
    other_kind,
    read_header,
    read_tensors,
    unwrapped,
    write_safetensors,
)
from wsol_ext._weight_files import (
    CheckpointError as CheckpointError,
)  # here for those who know it from here
from wsol_ext.data.class_names import class_mismatch
from wsol_ext.data.transforms import MEAN
from wsol_ext.models import METHODS, BackboneFile, LocalizationModel, create_model
from wsol_ext.models.misfits import MisfitError, differences
from wsol_ext.models.vit import is_dinov2, without_values

__all__ = [
    "find_checkpoint",
    "initialize_from",
    "load_model",
    "load_published",
    "require_same_classes",
    "save_model",
]

_FORMAT = "wsol_ext"
_MOST_BACKBONE_TENSORS = 1000  # a ViT-g of 40 blocks has 720
# Options of timm's transformers that say how many modules there are.
_COUNTS = ("depth", "depth_token_only", "cls_attn_layers", "num_blocks")
_HEAD_WIDTH = 64  # channels of an attention head, in every DeiT and nearly every ViT


def save_model(
    model: LocalizationModel, path: str | Path, class_names: Sequence[str] | None = None
) -> None:
    """Write a model's weights, configuration and class names to one safetensors file, or leave what was there.

    Equal models make equal files, byte for byte. The weights of a frozen backbone that came from a file are not written
    again: the file is named, with its hash, and `load_model` looks for it.

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
    elsewhere: set[str] = set()
    if model.backbone_is_frozen and model.backbone_file is not None:
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


def load_model(
    path: str | Path, method: str | None = None, backbone_weights: str | Path | None = None
) -> LocalizationModel:
    """A model that `save_model` wrote, in evaluation mode on the CPU, its ``class_names`` set where they were saved.

    Nothing is built before the file's header was found to hold the tensors of the model that it describes: what a
    hostile file costs is bounded by its size.

    Args:
        path: the file, or the folder of a run of `wsol train`.
        method: where given, the method the file has to hold.
        backbone_weights: the file of its frozen backbone, where that is no longer where it was, nor beside the model.

    Raises:
        FileNotFoundError: no such file, or a folder without a model; or its frozen backbone's file is not to be found.
        CheckpointError: a corrupt file, one that `save_model` did not write, or another method's; or a file of another
            backbone.
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
    where = _backbone_file(header.metadata, path, backbone_weights)
    try:
        model = create_model(**_with_file(config, where), pretrained=False)
        weights = load_file(path)
        if where is not None:
            own = model.state_dict()
            weights = {**{name: own[name] for name in model.backbone_weights()}, **weights}
        model.load_state_dict(weights)
    except MisfitError as error:
        raise CheckpointError(f"checkpoint {path}: {error}", error.details) from error
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
        elsewhere = model.backbone_weights()
        own = model.state_dict()
        tensors = {**{name: own[name] for name in elsewhere}, **tensors}
    _require_fit(model, tensors, f"checkpoint {path}")


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
    here = model.class_names or [str(label) for label in range(model.num_classes)]
    require_same_classes(other, here, path)
    try:
        return model.initialize_from(other)
    except ValueError as error:
        raise CheckpointError(f"{path} {error}", getattr(error, "details", ())) from error


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
    published = {name: known.published_names for name, known in METHODS.items()}
    patterns = published.get(method)
    if patterns is None:
        names = [name for name, of_method in published.items() if of_method is not None]
        raise ValueError(f"method is {method!r}, it should be one of {', '.join(names)}")
    source = "the state dict" if isinstance(weights, Mapping) else f"checkpoint {weights}"
    state = (
        unwrapped(weights, source, entry)
        if isinstance(weights, Mapping)
        else _read_published(Path(weights).expanduser(), source, entry)
    )
    renamed = {ours: state[theirs] for theirs, ours in _renamed(state, patterns).items() if ours}
    try:
        sizes = _sizes(renamed, METHODS[method], num_heads)
    except KeyError as error:
        raise CheckpointError(
            f"{source} is no {method} model: {error.args[0]} is missing; it has {some(list(state))}"
        ) from error
    options = {**METHODS[method].published_options(state), **options}
    sizes["backbone_options"] |= dict(backbone_options or {})
    model = create_model(method, pretrained=False, **sizes, **options)
    _require_fit(model, renamed, source)
    model.load_state_dict(renamed)
    return model.eval()


def _read_published(path: Path, source: str, entry: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    return read_tensors(path, source, entry)


def _renamed(names: Iterable[str], patterns: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Our names by the authors' ones; "" where we have no use for it."""
    return {name: _rename(name, patterns) for name in names}


def _rename(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in patterns:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return f"{_BACKBONE}{name}"


_BACKBONE = "backbone.vit."


def _sizes(
    state: Mapping[str, Tensor], method: type[LocalizationModel], num_heads: int | None
) -> dict[str, Any]:
    """The number of classes and the backbone with its sizes, as `create_model` takes them.

    Raises:
        KeyError: the name of a weight that tells them, and is not there.
    """
    classes = state[f"{method.published_classifier}.weight"].size(0)
    vit = {n.removeprefix(_BACKBONE): t for n, t in state.items() if n.startswith(_BACKBONE)}
    width, _, patch_height, patch_width = vit["patch_embed.proj.weight"].shape
    depth = 1 + max(
        (int(m[1]) for name in vit if (m := re.match(r"blocks\.(\d+)\.", name))), default=-1
    )
    side = round((vit["pos_embed"].size(1) - 1) ** 0.5)
    usual = width // _HEAD_WIDTH if width % _HEAD_WIDTH == 0 else None
    if num_heads is None and usual is None:
        raise ValueError(
            f"num_heads is not given, and a width of {width} does not tell it: it is no multiple of {_HEAD_WIDTH}"
        )
    num_heads = usual if num_heads is None else num_heads
    if num_heads is None or not _is_count(num_heads) or width % num_heads:
        raise ValueError(f"num_heads is {num_heads!r}, it should divide the width, {width}")
    if usual is not None and num_heads != usual:
        warnings.warn(
            f"load_published: num_heads is {num_heads}; DeiTs and ViTs of this width, {width}, have "
            f"{usual}, and with another number the weights mean something else",
            stacklevel=3,
        )
    size = (
        (side * patch_height, side * patch_width)
        if patch_height != patch_width
        else side * patch_height
    )
    options: dict[str, Any] = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": num_heads,
        "patch_size": patch_height,
        "mlp_ratio": vit["blocks.0.mlp.fc1.weight"].size(0) / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in vit,
    }
    if is_dinov2(
        method.published_backbone
    ):  # whose positions are stored for one size, whatever the images'
        options["position_size"] = size
        size = method.usual_img_size
    return {
        "backbone": method.published_backbone,
        "num_classes": classes,
        "img_size": size,
        "backbone_options": options,
    }


def _require_fit(model: LocalizationModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that do not fit one to one, and say what does not."""
    problems = differences(model.state_dict(), weights)
    if problems:
        misfit = MisfitError(f"{source} does not fit a {model.config['method']} model", problems)
        raise CheckpointError(str(misfit), misfit.details)
