"""Files of weights: the same bytes for the same weights, headers read before tensors, and what else a file may be."""

import argparse
import json
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from wsol_ext._files import atomic_path
from wsol_ext._names import some


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or is not what was asked for.

    Attributes:
        details: all of what the message gives the first of; empty where it gives all.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = list(details)


class Header(NamedTuple):
    """What a safetensors file says of itself before its tensors.

    Attributes:
        metadata: texts by name.
        tensors: tensors without values, on the meta device, by name.
    """

    metadata: dict[str, str]
    tensors: dict[str, Tensor]


def read_header(path: Path) -> Header:
    """The header of a safetensors file, in a time that does not depend on the size of its tensors.

    Raises:
        SafetensorError: the file is no safetensors file, or a damaged one.
    """
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    return Header(metadata, {n: torch.empty(shape, device="meta") for n, shape in shapes.items()})


def write_safetensors(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all; equal weights and metadata make equal files.

    Raises:
        OSError: the file cannot be written.
    """
    data = memoryview(save(dict(weights), metadata=metadata))
    # safetensors keeps metadata in a hash map and writes it in another order each time. The header is its length, in
    # eight bytes, and JSON, which spaces may follow: they keep what comes after aligned.
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(
        json.loads(bytes(data[8 : 8 + length])), sort_keys=True, separators=(",", ":")
    )
    text = header.encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join((struct.pack("<Q", len(text)), text, data[8 + length :])))


# How a file begins that was saved in place of the weights.
_INSTEAD = {
    b"version https://git-lfs": "a git-lfs pointer, not the file itself: `git lfs pull` fetches that",
    b"<!doctype html": "a web page: what was downloaded is not the file itself",
    b"<html": "a web page: what was downloaded is not the file itself",
}

LIGHTNING, TORCH = "a Lightning checkpoint", "a torch file"


def other_kind(path: Path) -> str | None:
    """What a file is that is no safetensors file, as a sentence says it after "is"; None: nothing that is known.

    `LIGHTNING` and `TORCH` are two of the answers. Nothing in the file is run.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        return "empty"
    for beginning, kind in _INSTEAD.items():
        if start.lstrip().lower().startswith(beginning):
            return kind
    if start.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path)
    # A pickle, as torch.save wrote them before it wrote archives: its protocol comes second.
    if start[0] == 0x80 and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return TORCH
    return None


def _kind_of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if not pickles:
                return "a zip archive: what it holds has to be unpacked first"
            with archive.open(pickles[0]) as file:
                start = file.read(1 << 16)
    except Exception:  # zipfile raises half a dozen kinds, by how the file is damaged
        return "a torch file or zip archive, and a damaged one"
    return LIGHTNING if b"pytorch-lightning_version" in start else TORCH


def read_tensors(path: Path, source: str, entry: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file by name, as `unwrapped` finds them. No pickle is run.

    Raises:
        CheckpointError: the file cannot be read safely, or as `unwrapped`.
    """
    state = unwrapped(_read(path, source), source, entry)
    _require_plain(state, source, path.stat().st_size)
    return state


def read_plain_tensors(path: Path, source: str) -> dict[str, Tensor]:
    """All tensors of a safetensors or torch file by name, of a tensor alone by "". No pickle is run.

    Raises:
        CheckpointError: the file cannot be read safely, or holds something else.
    """
    found: Any = _read(path, source)
    named = {"": found} if isinstance(found, Tensor) else found
    if not isinstance(named, Mapping) or not all(isinstance(t, Tensor) for t in named.values()):
        raise CheckpointError(f"{source} holds something other than tensors by name")
    _require_plain(named, source, path.stat().st_size)
    return {str(name): tensor.detach() for name, tensor in named.items()}


def _read(path: Path, source: str) -> Mapping[str, Any]:
    try:
        return load_file(path)
    except SafetensorError as error:
        if path.suffix == ".safetensors" and other_kind(path) is None:
            raise CheckpointError(f"{source} is corrupt: {error}") from error
    _require_stored(path, source)
    try:
        # An open file, as torch would take the name of one for what it is.
        with torch.serialization.safe_globals(_BESIDE_WEIGHTS), open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds, by how the file is damaged
        kind = other_kind(path)
        if kind not in (None, TORCH, LIGHTNING):
            raise CheckpointError(f"{source} is {kind}") from error
        text = _COLOURS.sub("", str(error)).strip()
        reason = text.splitlines()[0] if text else repr(error)
        if "weights_only" in text:  # torch advises to run it
            reason = "it holds more, such as a whole network; what its program saves of state_dict() alone is read"
        raise CheckpointError(f"{source} cannot be read as plain weights: {reason}") from error


def _require_stored(path: Path, source: str) -> None:
    """Refuse an archive that would be larger in memory than on disk: torch compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # no archive, or a damaged one: torch says so
        return
    if size > path.stat().st_size:
        raise CheckpointError(f"{source} is a compressed archive, which torch did not write")


def _require_plain(state: Mapping[str, Tensor], source: str, size: int) -> None:
    """Refuse tensors that are more than the numbers that a file holds of them: what they cost, its size shall bound."""
    total = 0
    for name, tensor in state.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(f"{source}: {name} is no plain tensor of numbers")
        total += tensor.numel() * tensor.element_size()
    if total > 2 * size:  # some share their values, such as tied layers
        raise CheckpointError(f"{source} has {size} bytes, its tensors would have {total}")


def _stand_in(module: str, name: str) -> type:
    """What is made in the place of something that a pickle names: nothing."""

    def ignore(self: Any, *_: Any) -> None:
        pass

    return type(name, (), {"__module__": module, "__init__": ignore, "__setstate__": ignore})


# What programs keep beside weights: the arguments they were started with, and the best accuracy as a number of numpy's.
_BESIDE_WEIGHTS: list[Any] = [
    argparse.Namespace,
    _stand_in("numpy", "dtype"),
    _stand_in("numpy.core.multiarray", "scalar"),
    _stand_in("numpy._core.multiarray", "scalar"),
]
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# The first that is there; averaged weights only where there are no others, or they are asked for.
_WRAPPINGS = (
    *("state_dict", "model", "state", "teacher", "student", "module", "net", "network"),
    *("model_ema", "state_dict_ema", "ema"),
)
_DEEPEST = 8  # one in another; a pickle can be in itself
_WRAPPED = re.compile(r"((module|_orig_mod)\.)+")


def unwrapped(found: Mapping[str, Any], source: str, entry: str | None = None) -> dict[str, Tensor]:
    """A state dict without what programs wrap it in: outer keys, and `module.` and `_orig_mod.` before its names.

    Args:
        found: what a file holds.
        source: its name, for errors.
        entry: the outer key to look under, such as ``model_ema``; by default the first of those that are usual.

    Raises:
        CheckpointError: no names with a tensor each; the message has the keys that are there.
    """
    outer = found
    if entry is not None:
        if not isinstance(found, Mapping) or not isinstance(found.get(entry), Mapping):
            raise CheckpointError(f"{source} has no entry {entry!r}; it has {_keys(found)}")
        found = found[entry]
    for _ in range(_DEEPEST):
        if not isinstance(found, Mapping) or _is_state(found):
            break
        inner = next((k for k in _WRAPPINGS if isinstance(found.get(k), Mapping)), None)
        if inner is None:
            break
        found = found[inner]
    if not isinstance(found, Mapping) or not _is_state(found):
        raise CheckpointError(
            f"{source} holds no state dict, names with a tensor each; it has {_keys(outer)}"
        )
    return {
        _WRAPPED.sub("", name, count=1) if _WRAPPED.match(name) else name: t
        for name, t in found.items()
    }


def _is_state(found: Mapping[str, Any]) -> bool:
    return bool(found) and all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in found.items()
    )


def _keys(found: Any) -> str:
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    return f"the keys {some([str(key) for key in found])}" if found else "nothing"
