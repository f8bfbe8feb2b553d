"""Files of weights: the same bytes for the same weights, headers read before tensors, and what else a file may be."""

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from wsol_ext._files import atomic_path


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
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError):
        return "a torch file or zip archive, and a damaged one"
    return LIGHTNING if b"pytorch-lightning_version" in start else TORCH
