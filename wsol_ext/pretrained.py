"""A model as a folder that is whole: what `save_pretrained` writes, on the disk or on the Hugging Face hub.

Names of files and functions are those of huggingface_hub's `PyTorchModelHubMixin`. `model.safetensors` is
`save_model`'s, so every command takes the folder as it takes a run's.
"""

import dataclasses
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wsol_ext import __version__
from wsol_ext._files import named, read_yaml, sha256_of, write_json, write_text
from wsol_ext._names import check_licence, printable, some
from wsol_ext._weight_files import CheckpointError, read_tensors
from wsol_ext.checkpoints import find_checkpoint, load_model, save_model
from wsol_ext.data.images import is_readable_name
from wsol_ext.models import LocalizationModel
from wsol_ext.thresholds import StoredThreshold, run_folder, store_threshold, stored_threshold

if TYPE_CHECKING:
    from wsol_ext._model_card import Origin

__all__ = [
    "find_pretrained",
    "from_pretrained",
    "is_pretrained",
    "require_agreement",
    "save_pretrained",
]

_MODEL, _CONFIG, _THRESHOLD, _CARD = (
    "model.safetensors",
    "config.json",
    "threshold.json",
    "README.md",
)
_LARGEST = 1 << 26  # bytes of a config.json: a million class names have room
_HUB = "hf-hub:"
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def save_pretrained(
    model: LocalizationModel,
    save_directory: str | Path,
    *,
    run: str | Path | None = None,
    license: str | None = None,
    converted_from: str | Path | None = None,
) -> Path:
    """Write a model as a folder that needs no other file, and can be shared.

    | file | what |
    | --- | --- |
    | `model.safetensors` | weights, a frozen backbone's too, configuration and class names: `save_model`'s |
    | `config.json` | configuration and class names again, for people and other programs |
    | `threshold.json` | the best threshold, where the run was evaluated: `wsol_ext.thresholds` |
    | `README.md` | the model card, with what the run tells; one that is there already stays as it is |

    `run` may be such a folder itself: its threshold and its card are then taken over.

    Args:
        model: made by `create_model` or `load_model`.
        save_directory: the folder; an older model of `save_pretrained` in it is replaced.
        run: the folder of the run that trained it: card and threshold are filled from there.
        license: how the card names the licence, such as "apache-2.0"; None: the card says that nobody has stated one.
        converted_from: the checkpoint of a method's authors that it was, for the card to name.

    Returns:
        the folder.

    Raises:
        FileExistsError: `save_directory` holds a run, files of another program's model, or, unless it is a clone of a
            repository or a model of `save_pretrained` lies there already, pictures. Other files stay beside the model,
            and a warning names them.
        ValueError: `run` is no run's folder or has trained another model, or `license` is no name of one.
        OSError: a file cannot be written; the message names it.

    Example:
        >>> import tempfile, wsol_ext
        >>> model = wsol_ext.create_model("tscam", "vit_tiny_patch16_224", num_classes=3, pretrained=False, img_size=32)
        >>> folder = model.save_pretrained(f"{tempfile.mkdtemp()}/mine")
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
        >>> wsol_ext.from_pretrained(folder).config == model.config
        True
    """
    from wsol_ext._model_card import (  # of the metrics, which reading has no use for
        Origin,
        model_card,
    )

    folder = named(save_directory)
    if license is not None:
        check_licence(license)
    _require_ours(folder)
    origin = Origin() if run is None else _origin(model, named(run))
    if converted_from is not None:
        origin = dataclasses.replace(origin, converted_from=Path(converted_from))
    weights = folder / _MODEL
    save_model(model, weights, whole=True)
    write_json(folder / _CONFIG, _description(model))
    digest = sha256_of(weights)
    threshold = origin.threshold
    if threshold is not None:
        threshold = dataclasses.replace(threshold, checkpoint=digest)
        store_threshold(folder, threshold)
    else:
        _remove_threshold_of_another(folder, digest)
    if not (folder / _CARD).exists():
        card = model_card(model, origin, license) if origin.card is None else origin.card
        write_text(folder / _CARD, card)
    return folder


def from_pretrained(
    pretrained_model_name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> LocalizationModel:
    """The model of a folder that `save_pretrained` wrote, in evaluation mode on the CPU.

    Args:
        pretrained_model_name_or_path: the folder, for which no network is touched; or, where there is no such folder,
            a repository of the Hugging Face hub, `OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION`.
        revision: of the repository: a branch, a tag or a commit.
        cache_dir: where downloads are kept.
        token: for a private repository, as huggingface_hub takes it.
        local_files_only: take what was downloaded before.

    Raises:
        FileNotFoundError: no such folder and no name of a repository; a folder or repository without a model.
        CheckpointError: a file that `load_model` refuses, or a `config.json` that says something else than the weights.
        ConnectionError: the repository cannot be downloaded.
    """
    folder = find_pretrained(
        pretrained_model_name_or_path,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    model = load_model(folder)
    require_agreement(model, folder)
    return model


def find_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder that `from_pretrained` reads, the one given or a repository's in the cache; arguments are the same."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source).removeprefix(_HUB)
    if not isinstance(source, str) or not _REPOSITORY.fullmatch(name):
        raise FileNotFoundError(
            f"{source}: no such folder, nor does a repository of the hub have such a name (OWNER/NAME)"
        )
    repository, _, asked = name.partition("@")
    return _downloaded(
        source,
        repo_id=repository,
        revision=revision or asked or None,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )


def is_pretrained(folder: Path) -> bool:
    """Whether a folder is one that `save_pretrained` wrote, by its `config.json`."""
    try:
        return _read_config(folder).get("library_name") == "wsol_ext"
    except (OSError, ValueError):
        return False


def _downloaded(source: str, **arguments: Any) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    def failed(error: Exception) -> str:
        reason = str(error).strip().partition("\n")[0]
        return f"{source}: no such folder, and the hub's repository cannot be had: {reason}"

    try:
        found = huggingface_hub.snapshot_download(
            **arguments, allow_patterns=[_MODEL, _CONFIG, _THRESHOLD]
        )
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(failed(error)) from error
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConnectionError(failed(error)) from error
    return Path(found)


def _description(model: LocalizationModel) -> dict[str, Any]:
    """What `config.json` says of a model."""
    described = {
        "library_name": "wsol_ext",
        "library_version": __version__,
        **model.config,
        "class_names": model.class_names,
    }
    return json.loads(json.dumps(described))  # where tuples are lists


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    try:
        found = json.loads(data.decode("utf-8")) if len(data) <= _LARGEST else None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error!r}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} should hold values by name")
    return found


def require_agreement(model: LocalizationModel, folder: Path) -> None:
    """Refuse a `config.json` that says something else than the weights beside it: which is meant, nobody knows.

    Args:
        model: what `load_model` made of the folder.
        folder: one that `save_pretrained` wrote; any other is taken as it is.

    Raises:
        CheckpointError: they differ; the message says in what.
    """
    if not is_pretrained(folder):
        return
    there, here = _read_config(folder), _description(model)
    names = [name for name in {**here, **there} if name != "library_version"]
    differing = [name for name in names if there.get(name) != here.get(name)]
    if differing:
        raise CheckpointError(
            f"{folder / _CONFIG} says something else than {_MODEL} beside it, of {some(differing)}: what is meant, "
            "load_model and save_pretrained write anew (`model.class_names` are its class names)"
        )


def _require_ours(folder: Path) -> None:
    """Refuse a folder in which something would be lost."""
    if (folder / "config.yaml").exists():
        raise FileExistsError(f"{folder} is the folder of a run; choose another one")
    others = [name for name in (_MODEL, _CONFIG) if (folder / name).exists()]
    if others and not is_pretrained(folder):
        raise FileExistsError(
            f"{folder} holds {' and '.join(others)}, which save_pretrained did not write; choose another folder"
        )
    if not folder.is_dir() or (folder / ".git").exists() or is_pretrained(folder):
        return
    if (picture := _picture_in(folder)) is not None:
        raise FileExistsError(
            f"{folder} holds pictures, such as {picture}; choose another folder, or a new one in it"
        )
    names = (path.name for path in folder.iterdir())
    beside = sorted(n for n in names if not n.startswith((".", "README", "LICENSE")))
    if beside:
        warnings.warn(
            f"{folder} holds other files, which stay beside the model: {some(beside)}", stacklevel=3
        )


def _picture_in(folder: Path) -> str | None:
    """The first picture in a folder, or in one of its folders, by its suffix."""
    for here, _, files in os.walk(folder):
        for name in sorted(files):
            if is_readable_name(name):
                return printable(Path(here, name).relative_to(folder).as_posix())
    return None


def _remove_threshold_of_another(folder: Path, digest: str) -> None:
    try:
        stored = stored_threshold(folder)
    except ValueError:
        stored = None
    if stored is None or stored.checkpoint != digest:
        (folder / _THRESHOLD).unlink(missing_ok=True)


def _origin(model: LocalizationModel, run: Path) -> "Origin":
    """What a run tells of its model.

    Raises:
        ValueError: it is no run's folder, or the model is not what it has trained.
    """
    from wsol_ext._model_card import Origin

    folder = run_folder(run)
    if folder is None:
        raise ValueError(f"run is {run}, it should be the folder of a run, or its {_MODEL}")
    checkpoint = find_checkpoint(folder)
    _require_trained_there(model, checkpoint)
    threshold = stored_threshold(folder)
    card = folder / _CARD
    return Origin(
        card=card.read_text(encoding="utf-8", errors="replace")
        if is_pretrained(folder) and card.exists()
        else None,
        config=_of_yaml(folder / "config.yaml"),
        data=_of_json(folder / "data.json"),
        last_epoch=_of_json(folder / "metrics.json"),
        evaluation=_of_json(folder / "evaluation" / "evaluation.json")
        or _of_json(folder / "evaluation.json"),
        threshold=_own(threshold, checkpoint),
    )


def _own(threshold: StoredThreshold | None, checkpoint: Path) -> StoredThreshold | None:
    if threshold is None or threshold.checkpoint != sha256_of(checkpoint):
        return None
    return threshold


def _require_trained_there(model: LocalizationModel, checkpoint: Path) -> None:
    own = model.state_dict()
    theirs = read_tensors(checkpoint, f"checkpoint {checkpoint}")
    if not all(n in own and torch.equal(own[n].cpu(), weight) for n, weight in theirs.items()):
        raise ValueError(f"run is {checkpoint.parent}, which has trained another model than this")


def _of_yaml(path: Path) -> Mapping[str, Any]:
    return read_yaml(path) if path.is_file() else {}


def _of_json(path: Path) -> Mapping[str, Any]:
    """What a file of the run says; what is damaged or missing, the card does without."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
