"""Clusters on disk, found again by what they were made of."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsol_ext._files import atomic_path, make_results_folder
from wsol_ext.clustering.settings import ClusteringSettings

__all__ = ["VERSION", "ClusterCache"]

# Raised whenever the same image and settings would give other clusters, or the files another form.
VERSION = 2


class ClusterCache:
    """A folder of cluster maps: a small grey PNG an image, named by the hash of its pixels and settings.

    Several processes may use one folder: a file is there whole or not at all. One that cannot be read, or whose size
    is not the image's, counts as absent.

    Args:
        folder: made when the first map is stored.

    Example:
        >>> import tempfile
        >>> from wsol_ext.clustering import PRESETS
        >>> cache = ClusterCache(tempfile.mkdtemp())
        >>> image, settings = torch.zeros((3, 2, 4), dtype=torch.uint8), PRESETS["light"]
        >>> cache.load(image, settings) is None
        True
        >>> cache.store(image, settings, torch.tensor([[0, 1, 1, 0], [0, 0, 2, 2]]))
        >>> cache.load(image, settings)
        tensor([[0, 1, 1, 0],
                [0, 0, 2, 2]], dtype=torch.int32)
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, image: Tensor, settings: ClusteringSettings) -> Path:
        """Where the clusters of an image, (3, h, w) uint8 at the working size, lie or would lie."""
        made_of = {"version": VERSION, "shape": list(image.shape), **asdict(settings)}
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
        digest.update(image.cpu().contiguous().numpy().tobytes())
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.png"

    def load(self, image: Tensor, settings: ClusteringSettings) -> Tensor | None:
        """The stored clusters, (h, w) int32 on the CPU, or None."""
        try:
            with Image.open(self.path(image, settings), formats=("PNG",)) as picture:
                clusters = np.asarray(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return None
        if clusters.shape != tuple(image.shape[1:]) or clusters.dtype.kind not in "iu":
            return None
        return torch.from_numpy(clusters.astype(np.int32))

    def store(self, image: Tensor, settings: ClusteringSettings, clusters: Tensor) -> None:
        """Keep the clusters, (h, w) integers from 0 to 65,535, of an image."""
        deepest = np.uint8 if clusters.max() < 256 else np.uint16
        picture = Image.fromarray(clusters.cpu().numpy().astype(deepest))
        if not self.folder.exists():  # else it may be the user's own
            make_results_folder(self.folder)
        with atomic_path(self.path(image, settings)) as temporary:
            picture.save(temporary, optimize=True)
