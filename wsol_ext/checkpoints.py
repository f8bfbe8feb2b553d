"""Weights in and out: our own files, and the checkpoints the methods' authors released. No pickle is ever run."""

import json
import math
import re
import reprlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wsol_ext import __version__
from wsol_ext._files import sha256_of
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
from wsol_ext.data.class_names import class_mismatch, differing_classes
from wsol_ext.data.transforms import MEAN
from wsol_ext.models import METHODS, BackboneFile, LocalizationModel, create_model
from wsol_ext.models.misfits import MisfitError, differences
from wsol_ext.models.vit import without_values

__all__ = [
    "find_checkpoint",
    "initialize_from",
    "is_authors",
    "load_model",
    "load_published",
    "require_same_classes",
    "save_model",
    "start_from",
]

_FORMAT = "wsol_ext"
_MOST_BACKBONE_TENSORS = 1000  # a ViT-g of 40 blocks has 720
# Options of timm's transformers that say how many modules there are.
_COUNTS = ("depth", "depth_token_only", "cls_attn_layers", "num_blocks")
# Of tensors of a kind that torch or the model lacks.
_UNREADABLE = (SafetensorError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


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
        "format": _FORMAT,
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


def load_model(
    path: str | Path,
    method: str | None = None,
    backbone_weights: str | Path | None = None,
    published_heads: int | None = None,
) -> LocalizationModel:
    """A model that `save_model` wrote, or that its method's authors released, in evaluation mode on the CPU.

    Its ``class_names`` are set where they were saved. Nothing is built before the file was found to hold the tensors of
    the model that it describes: what a hostile file costs is bounded by its size. Of an authors' file, names and shapes
    tell the method; `load_published` takes it with other options.

    Args:
        path: the file, or the folder of a run of `wsol train`; of authors, a ``.pth`` or ``.safetensors``, read with
            ``weights_only=True``.
        method: where given, the method the file has to hold.
        backbone_weights: the file of its frozen backbone, where that is no longer where it was, nor beside the model.
        published_heads: attention heads of a block, which an authors' file does not say (DeiT-T 3, DeiT-S 6, DeiT-B
            12); None: width // 64, as all of these have, and a warning says so.

    Raises:
        FileNotFoundError: no such file, or a folder without a model; or its frozen backbone's file is not to be found.
        CheckpointError: a corrupt file, one that is neither `save_model`'s nor a method's authors', or another
            method's; or a file of another backbone; or an authors' file of a width that does not tell the heads.
        ValueError: `published_heads` does not divide the width.
    """
    path = find_checkpoint(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    tensors = metadata = None
    try:
        header = read_header(path)
        tensors, metadata = header.tensors, header.metadata
    except SafetensorError as error:
        if other_kind(path) != TORCH:
            raise CheckpointError(f"checkpoint {path} {_no_model(path, error)}") from error
    if metadata is None or metadata.get("format") != _FORMAT:
        model = _load_authors(path, tensors, method, published_heads)
        holds_backbone = True
    else:
        model = _load_own(path, header, method, backbone_weights)
        holds_backbone = "backbone_file" not in metadata
        if published_heads is not None:
            warnings.warn(f"published_heads is not used: {path} says how many it has", stacklevel=2)
    if backbone_weights is not None and holds_backbone:
        warnings.warn(f"backbone_weights is not used: {path} holds its backbone", stacklevel=2)
    return model


def is_authors(path: str | Path) -> bool:
    """Whether a file of weights is another program's, such as that of a method's authors, and not `save_model`'s.

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        return read_header(path).metadata.get("format") != _FORMAT
    except SafetensorError:
        return True


def _load_authors(
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
    except _UNREADABLE as error:
        raise CheckpointError(f"{source} cannot be read: {error!r}") from error
    return model.eval()


def _load_own(
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
    except _UNREADABLE as error:
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
    """What a file is that is of neither safetensors nor torch, and the way on."""
    kind = other_kind(path)
    if kind == LIGHTNING:
        return (
            f"is {kind}, from which training goes on: the same `wsol train` command ends the run and writes its "
            "model.safetensors; give that, or the run's folder"
        )
    if kind is None and path.suffix != ".safetensors":
        return "is no file of weights: it begins as neither torch's files do nor safetensors'"
    return f"is {kind}" if kind else f"is corrupt or no safetensors file: {error}"


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
    _require_fit(model, renamed, source)
    model.load_state_dict(renamed)
    return model.eval()


def _read_published(path: Path, source: str, entry: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    return read_tensors(path, source, entry)


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


def _require_fit(model: LocalizationModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that do not fit one to one, and say what does not."""
    problems = differences(model.state_dict(), weights)
    if problems:
        misfit = MisfitError(f"{source} does not fit a {model.config['method']} model", problems)
        raise CheckpointError(str(misfit), misfit.details)
