"""What a frozen backbone makes of images, computed once: an epoch then costs what the method's head costs."""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wsol_ext._files import remove_leftovers, sha256_of
from wsol_ext._progress import bar
from wsol_ext._seeds import mix_seed
from wsol_ext._weight_files import read_header, write_safetensors
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.data.transforms import drawn_from
from wsol_ext.models import LocalizationModel
from wsol_ext.training.config import TrainingConfig

__all__ = ["CachedFeatures", "FeatureCache", "collate_features"]

_SHARD = 64  # images in a file
_BATCH = 16  # images through the backbone at a time: the same with and without others missing, whatever trains
_ROUNDED = ("patches", "class_token")  # to bfloat16; what is small stays float32
_OPEN = 128  # files that a process keeps open
_STALE = 24 * 3600.0  # seconds after which a temporary file's writer is taken for dead


@dataclass(frozen=True)
class _Shard:
    """A file of the cache: one view of some images."""

    path: Path
    images: range
    view: int


class FeatureCache:
    """Files of features in a folder, each named by a hash of everything that it was made of.

    So a picture that changes, another backbone or another augmentation are other files, and nothing needs to be found
    out of date; runs that share some of it share those files. A file is whole or absent: kills lose one at most, and
    processes that fill a folder together at worst do something twice. The folder may be removed at any time that no
    run is using it.

    Args:
        folder: where the files lie.
        model: what makes the features; of a method that `caches_features`, its backbone frozen.
        dataset: the training images, with their augmentation; or images that are measured on, as evaluation sees them.
        config: the run's: image size, augmentation, seed and views.
        training: whether it is the former: in the run's `cached_views`, at the size it trains at. The latter have one
            view, at `img_size`.
    """

    def __init__(
        self,
        folder: str | Path,
        model: LocalizationModel,
        dataset: LocalizationDataset,
        config: TrainingConfig,
        training: bool = True,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.model, self.dataset = model, dataset
        self.views = config.cached_views if training else 1
        self._digests = [_image_digest(dataset, k) for k in range(len(dataset))]
        self._seed = config.seed
        self._side = (training and config.train_img_size) or config.img_size
        augmentation = config.augmentation if training else "evaluation"
        made_of = {
            "version": 1,
            "backbone": _backbone_digest(model),
            "features": f"{type(model).__module__}.{type(model).__qualname__}",
            **model.feature_options(),
            "size": self._side,
            "resize": config.resize if training else "evaluation",
            "augmentation": augmentation,
            "seed": config.seed if augmentation not in ("none", "evaluation") else 0,
        }
        starts = range(0, len(dataset), _SHARD)
        self.shards = [
            self._shard(made_of, range(start, min(start + _SHARD, len(dataset))), view)
            for view in range(self.views)
            for start in starts
        ]

    def _shard(self, made_of: dict[str, Any], images: range, view: int) -> _Shard:
        contents = {**made_of, "view": view, "images": [self._digests[k] for k in images]}
        name = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:40]
        return _Shard(self.folder / f"{name}.safetensors", images, view)

    def fill(
        self,
        device: torch.device,
        workers: int,
        console: Console,
        progress: bool = True,
        first: int = 0,
    ) -> "CachedFeatures":
        """Compute what is missing.

        Args:
            device: where.
            workers: processes that read images.
            console: where to say how much there will be, before it begins.
            progress: whether to show a bar, where the console says anything.
            first: which missing file to begin with: processes that share the work begin at several.

        Returns:
            the features, in the place of images.

        Raises:
            ImageError: a picture that cannot be read.
            OSError: a file cannot be written, such as on a full disk; the others stay.
        """
        missing = [shard for shard in self.shards if not _is_whole(shard)]
        if missing:
            self._remove_stale()
            console.out(self._announcement(missing), highlight=False)
            start = first % len(missing)
            images = sum(len(shard.images) for shard in missing)
            with bar("tokens", images, progress and not console.quiet) as advance:
                self.model.eval().to(device)
                for shard in missing[start:] + missing[:start]:
                    if not _is_whole(shard):  # another process may have been here
                        self._write(shard, device, workers)
                    for _ in shard.images:
                        advance()
        return CachedFeatures(self.dataset, self.shards, self.views)

    def _announcement(self, missing: Sequence[_Shard]) -> str:
        count = len(self.dataset)
        side = self._side
        images = torch.zeros(1, 3, side, side, device=next(self.model.parameters()).device)
        sample = self.model.features(images)
        bytes_each = sum(
            _stored(name, t).numel() * _stored(name, t).element_size() for name, t in sample.items()
        )
        total = count * self.views * bytes_each
        there = 1 - sum(len(shard.images) for shard in missing) / (count * self.views)
        views = f" in {self.views} views each" if self.views > 1 else ""
        return f"{self.folder}: tokens of {count} images{views}, {total / 1e9:.2f} GB on disk" + (
            f", {there:.0%} of it there" if there else ""
        )

    def _remove_stale(self) -> None:
        """What killed processes left; others may be writing."""
        if self.folder.is_dir():
            now = time.time()
            with suppress(OSError):
                remove_leftovers(self.folder, older_than=now - _STALE)

    @torch.inference_mode()
    def _write(self, shard: _Shard, device: torch.device, workers: int) -> None:
        views = _Views(self.dataset, shard, [self._digests[k] for k in shard.images], self._seed)
        batches: Iterator[Tensor] = iter(
            DataLoader(views, batch_size=_BATCH, num_workers=min(workers, len(views) // _BATCH))
        )
        parts = [self.model.features(images.to(device)) for images in batches]
        features = {
            name: torch.cat([_stored(name, part[name]).cpu() for part in parts]).contiguous()
            for name in parts[0]
        }
        write_safetensors(shard.path, features, {})


def _stored(name: str, features: Tensor) -> Tensor:
    return features.to(torch.bfloat16 if name in _ROUNDED else torch.float32)


def _is_whole(shard: _Shard) -> bool:
    try:
        tensors = read_header(shard.path).tensors
    except (OSError, SafetensorError):
        return False
    return all(len(tensor) == len(shard.images) for tensor in tensors.values()) and bool(tensors)


def _image_digest(dataset: LocalizationDataset, index: int) -> str:
    """A hash of what is in a picture; of its pixels where it is no file."""
    path = dataset.image_path(index)
    if path is not None and path.is_file():
        return sha256_of(path)
    return hashlib.sha256(dataset.load_image(index).tobytes()).hexdigest()


def _backbone_digest(model: LocalizationModel) -> str:
    """A hash of everything that makes features: the backbone's weights, and how it is put together."""
    digest = hashlib.sha256()
    config = {n: model.config[n] for n in ("backbone", "backbone_options", "img_size")}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    weights = model.state_dict()
    for name in sorted(model.backbone_weights()):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Views(Dataset[Tensor]):
    """One view of some images, its augmentation drawn by a seed of its own."""

    def __init__(
        self, dataset: LocalizationDataset, shard: _Shard, digests: Sequence[str], seed: int
    ) -> None:
        self.dataset, self.shard, self.digests, self.seed = dataset, shard, digests, seed

    def __len__(self) -> int:
        return len(self.shard.images)

    def __getitem__(self, index: int) -> Tensor:
        # By the picture, not by its place: the picture before it may be removed.
        own = mix_seed(self.seed, int(self.digests[index][:15], 16), self.shard.view)
        with drawn_from(own):
            image: Tensor = self.dataset[self.shard.images[index]]["image"]
        return image


class CachedFeatures(Dataset[dict[str, Any]]):
    """The features of a data set's images; which view of an image an epoch sees, its draw's seed decides.

    Args:
        dataset: the images, for their labels.
        shards: the files.
        views: how many there are of each image.
    """

    def __init__(self, dataset: LocalizationDataset, shards: Sequence[_Shard], views: int) -> None:
        self.labels = list(dataset.labels)
        self.views = views
        self._files = [shard.path for shard in shards]
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        return self.view(draw.sample, draw.seed % self.views)

    def view(self, index: int, view: int = 0) -> dict[str, Any]:
        """The `features` of one view of an image, and its `label`."""
        per_view = len(self._files) // self.views
        shard, row = divmod(index, _SHARD)
        file = self._file(self._files[view * per_view + shard])
        # A slice of one: safetensors 0.4 takes no numbers.
        features = {name: file.get_slice(name)[row : row + 1][0] for name in file.keys()}  # noqa: SIM118
        return {"features": features, "label": self.labels[index]}

    def _file(self, path: Path) -> Any:
        """An open file, mapped into memory."""
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) >= _OPEN:
            self._open.popitem(last=False)
        self._open[path] = safe_open(path, framework="pt").__enter__()
        return self._open[path]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def collate_features(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join samples of `CachedFeatures` into a batch: `features` (B, …), as they are stored, and `labels` (B,) int64."""
    names = samples[0]["features"]
    return {
        "features": {
            name: torch.stack([sample["features"][name] for sample in samples]) for name in names
        },
        "labels": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
    }
