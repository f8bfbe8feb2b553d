"""The heat maps that an evaluation keeps for its report: of the few images that its gallery has them for."""

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from wsol_ext._files import atomic_path
from wsol_ext._names import printable
from wsol_ext.evaluation import Example

__all__ = ["heat_png", "read_heat_maps", "write_heat_maps"]

_FILE, _SIDE = "heat_maps.npz", 48


def write_heat_maps(folder: Path, examples: Sequence[Example]) -> None:
    """Write `heat_maps.npz`: `index` (n,) int64, places in the data set, and `maps` (n, 48, 48) uint8.

    Each map lies over its whole picture, 0 where it is lowest and 255 where it is highest. Without examples there is no
    such file, nor one of before.
    """
    path = folder / _FILE
    if not examples:
        path.unlink(missing_ok=True)
        return
    maps = np.stack([_levels(example) for example in examples])
    index = np.array([example.index for example in examples], np.int64)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, index=index, maps=maps)


def read_heat_maps(folder: Path) -> dict[int, NDArray[np.uint8]]:
    """The maps (h, w) that a folder of results keeps, by places in the data set.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    path = folder / _FILE
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            index, maps = file["index"], file["maps"]
        if maps.dtype != np.uint8 or maps.ndim != 3 or index.shape != maps.shape[:1]:
            raise ValueError(f"maps are {maps.dtype} {maps.shape}, of {index.shape} places")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{printable(path)} is damaged: {error}; write it anew by wsol evaluate"
        ) from error
    return dict(zip(index.tolist(), maps, strict=True))


def heat_png(levels: NDArray[np.uint8]) -> bytes:
    """A map as a PNG to lay over its picture, which browsers smooth: low parts are more transparent."""
    image = Image.fromarray(levels)
    colours = colormaps["turbo"](np.arange(256))[:, :3]
    image.putpalette((colours * 255).astype(np.uint8).tobytes())
    opacity = bytes(round(127.5 * (0.35 + 0.65 * level / 255)) for level in range(256))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=opacity, optimize=True)
    return file.getvalue()


def _levels(example: Example) -> NDArray[np.uint8]:
    score_map = example.score_map.float()[None, None]
    score_map = F.interpolate(score_map, (_SIDE, _SIDE), mode="bilinear", antialias=True)[0, 0]
    low, high = score_map.min(), score_map.max()
    spread = torch.where(high > low, high - low, torch.ones(()))
    return ((score_map - low) / spread * 255).round().byte().numpy()
