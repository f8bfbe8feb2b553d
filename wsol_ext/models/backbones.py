"""timm's backbones by name: what a name stands for, and whether its weights can be had."""

import json
import socket
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import timm
import torch

from wsol_ext._names import nearest

__all__ = ["NamedBackbone", "named_backbone", "pretrained_arguments"]

_HUB_SOURCES = ("hf-hub", "hf_hub")
_PICKLED = "pytorch_model.bin"  # as timm names weights, beside which it prefers model.safetensors
_PATIENCE = 3.0  # seconds that a host has to answer in


class NamedBackbone(NamedTuple):
    """What a backbone's name stands for.

    Attributes:
        architecture: the name by which timm makes the same network on any machine.
        options: what a configuration beside the weights adds to it, as timm's VisionTransformer takes it.
    """

    architecture: str
    options: dict[str, Any]


def named_backbone(name: str) -> NamedBackbone:
    """What a name stands for.

    Args:
        name: as timm has them: ``NAME``, ``NAME.TAG``, ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``, whose
            `config.json` may be downloaded.

    Raises:
        ValueError: timm knows no such model or tag, or there is no configuration in that place.
        ConnectionError: it is not in the cache, and the hub cannot be reached.
    """
    source, colon, place = name.partition(":")
    if not colon:
        _require_known(name)
        return NamedBackbone(name, {})
    if source == "local-dir":
        return _read_config(name, Path(place).expanduser() / "config.json")
    if source in _HUB_SOURCES:
        return _read_config(name, _config_from_hub(name, place))
    raise ValueError(f"backbone {name!r}: before a colon there should be local-dir or hf-hub")


def pretrained_arguments(name: str) -> dict[str, Any]:
    """The arguments by which `timm.create_model` finds a backbone's weights: in the cache, without a network, or there.

    Raises:
        ValueError: timm has no weights of that name.
        ConnectionError: they are not in the cache, and where they are kept cannot be reached.
    """
    source, colon, place = name.partition(":")
    if source == "local-dir":
        return {"model_name": f"local-dir:{Path(place).expanduser()}"}
    if colon:
        cached = _cached_weights(name, place)
        return {"model_name": f"local-dir:{cached.parent}" if cached else name}
    trained = timm.get_pretrained_cfg(name)
    if trained is None:  # a name that has changed
        return {"model_name": name}
    if not trained.has_weights:
        raise ValueError(
            f"backbone {name!r} has no pretrained weights in timm: --pretrained false trains it from scratch"
        )
    if trained.hf_hub_id:
        cached = _cached_weights(name, trained.hf_hub_id, trained.hf_hub_filename or _PICKLED)
        overlay = {"pretrained_cfg_overlay": {"file": str(cached), "custom_load": False}}
        return {"model_name": name, **(overlay if cached else {})}
    if isinstance(trained.url, str):
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        if not (folder / Path(urlsplit(trained.url).path).name).exists():
            _require_reachable(name, trained.url, folder)
    return {"model_name": name}


def _cached_weights(name: str, place: str, file: str = _PICKLED) -> Path | None:
    """A repository's weights as a safetensors file in the cache; None where timm has to find or download them.

    Raises:
        ConnectionError: they are in the cache in no form, and the hub cannot be reached.
    """
    safe = _cached(place, file.replace(_PICKLED, "model.safetensors"))
    if safe is None and _cached(place, file) is None:
        _require_hub(name, place)
    return safe if safe is not None and safe.suffix == ".safetensors" else None


def _require_known(name: str) -> None:
    if "/" in name:
        raise ValueError(
            f"backbone {name!r} looks like a folder or a repository: local-dir:{name} or hf-hub:{name} names one"
        )
    if not timm.is_model(name):
        known = timm.list_models(module=["vision_transformer", "deit"])
        raise ValueError(
            f"backbone {name!r} is not a model that timm knows{nearest(name, known) or '.'} "
            "`wsol info --backbones` lists what there is"
        )
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture, _, tag = name.partition(".")
        tags = [n.partition(".")[2] for n in timm.list_models(architecture, include_tags=True)]
        raise ValueError(
            f"backbone {name!r}: {architecture} has no tag {tag}{nearest(tag, tags) or '.'} "
            f"It has {', '.join(filter(None, tags)) or 'none'}"
        ) from error


def _read_config(name: str, path: Path) -> NamedBackbone:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        trained = config.get("pretrained_cfg", config)
        found = {**trained, **config}
        architecture, options = found["architecture"], dict(found.get("model_args") or {})
    except FileNotFoundError as error:
        raise ValueError(f"backbone {name!r}: {path} does not exist") from error
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"backbone {name!r}: {path} is no configuration of a timm model ({error!r})"
        ) from error
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ValueError(
            f"backbone {name!r}: {path} names an architecture that timm does not know, {architecture!r}"
        )
    for given_anyway in ("img_size", "num_classes", "dynamic_img_size"):
        options.pop(given_anyway, None)
    # What timm takes from the configuration of weights, and would not find by the architecture's name.
    if found.get("global_pool") is not None:
        options.setdefault("global_pool", found["global_pool"])
    if (channels := (found.get("input_size") or [3])[0]) != 3:
        options.setdefault("in_chans", channels)
    return NamedBackbone(architecture, options)


def _config_from_hub(name: str, place: str) -> Path:
    from huggingface_hub import hf_hub_download

    cached = _cached(place, "config.json")
    if cached is not None:
        return cached
    _require_hub(name, place)
    repository, _, revision = place.partition("@")
    try:
        return Path(hf_hub_download(repository, "config.json", revision=revision or None))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"backbone {name!r}: its config.json cannot be downloaded: {reason}"
        ) from error


def _cached(place: str, file: str) -> Path | None:
    """A file of a repository on the hub, `OWNER/NAME` or `OWNER/NAME@REVISION`, if it was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = place.partition("@")
    found = try_to_load_from_cache(repository, file, revision=revision or None)
    return Path(found) if isinstance(found, str) else None  # else None, or a mark of its absence


def _require_hub(name: str, place: str) -> None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{place.partition('@')[0].replace('/', '--')}"
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(_unavailable(name, folder, "HF_HUB_OFFLINE keeps it from the hub"))
    _require_reachable(name, constants.ENDPOINT, folder)


def _require_reachable(name: str, url: str, folder: Path) -> None:
    """Find out in seconds what the libraries that download find out in a minute of trials."""
    if urllib.request.getproxies().keys() & {"http", "https", "all"}:
        return  # which hosts can be reached, the proxy knows
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=_PATIENCE).close()
    except OSError as error:
        reason = f"{host} cannot be reached ({error})"
        raise ConnectionError(_unavailable(name, folder, reason)) from error


def _unavailable(name: str, folder: Path, reason: str) -> str:
    return (
        f"the pretrained weights of {name} are not in the cache, and {reason}. Copy {folder} from a machine that has "
        "it (HF_HOME and TORCH_HOME say where caches lie), or start from a file of the backbone's weights "
        "(--backbone-weights FILE), from another model (--init-from), or from none (--pretrained false)"
    )
