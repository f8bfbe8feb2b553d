"""A run's folder: which files it has, whose it is, who may write to it."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from wsol_ext._files import (
    hold,
    holds_others,
    mark_results_folder,
    named,
    read_yaml,
    remove_leftovers,
    write_text,
)
from wsol_ext._names import some
from wsol_ext.checkpoints import CheckpointError
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.training.callbacks import TrainingError
from wsol_ext.training.config import TrainingConfig, identity_of
from wsol_ext.training.stages import Stage

__all__ = ["RunFolder"]


class RunFolder:
    """Where a run keeps its files.

    | file | what |
    | --- | --- |
    | `config.yaml` | every option, resolved |
    | `data.json` | what it was begun on: by class how many images, a hash of their names, one of their sizes in bytes |
    | `metrics.csv`, `loss.png` | loss, accuracy and learning rate by epoch |
    | `checkpoints/last.ckpt` | everything the next epoch needs |
    | `stage1.safetensors`, … | the model that a stage which is not the last has trained |
    | `model.safetensors` | the trained model, once training has ended |
    | `metrics.json` | the last epoch's row, once training has ended |
    | `selection.json` | which epoch `--select` kept, by which pictures, once training has ended |
    | `threshold.json` | where its maps are cut, once it was evaluated with boxes: `wsol_ext.thresholds` |

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = named(path)
        self.config = self.path / "config.yaml"
        self.data = self.path / "data.json"
        self.checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.model = self.path / "model.safetensors"
        self.metrics = self.path / "metrics.json"
        self._descriptions: dict[Path, str] = {}
        self._is_marked = False

    @property
    def finished(self) -> bool:
        """Whether training has ended here."""
        return self.model.exists() and self.metrics.exists()

    def trained(self, stage: Stage) -> Path:
        """The file of the model that a stage has trained."""
        return self.model if stage.is_last else self.path / f"stage{stage.number}.safetensors"

    def resumable_stage(self, count: int) -> int | None:
        """Which of `count` stages the checkpoint continues, from 1, or None where there is no checkpoint.

        Raises:
            CheckpointError: the checkpoint is damaged.
        """
        if not self.checkpoint.exists():
            return None
        try:
            found = torch.load(self.checkpoint, map_location="meta", weights_only=True)
            stage = int(found.get("stage", 1))
            if not 1 <= stage <= count:
                raise ValueError(f"stage {stage} of {count}")
            return stage
        except Exception as error:  # torch raises half a dozen kinds, by how the file is damaged
            raise CheckpointError(
                f"checkpoint {self.checkpoint} is corrupt or holds more than plain weights; "
                "remove it to start over, or give --overwrite"
            ) from error

    @property
    def begun(self) -> bool:
        """Whether an epoch has ended here, so that there is something to lose."""
        return any(self.path.glob("checkpoints/last.ckpt")) or any(self.path.glob("*.safetensors"))

    def require_same(self, config: TrainingConfig) -> None:
        """Refuse a folder that a run of this configuration cannot begin or continue in.

        Args:
            config: the run's configuration; a batch size of 0, which the data decides, agrees with any.

        Raises:
            FileExistsError: the folder holds a run of another configuration, or other files.
            ValueError: its `config.yaml` is damaged.
        """
        if not self.config.exists():
            ours = ("checkpoints", "metrics.csv", self.data.name)  # a run whose config.yaml is lost
            if self.path.is_dir() and any(
                not p.name.startswith(".") and p.name not in ours for p in self.path.iterdir()
            ):
                raise FileExistsError(
                    f"--out {self.path} holds files that are no training run; choose another folder"
                )
            return
        if not self.begun:
            return
        try:
            there = read_yaml(self.config)
        except ValueError as error:
            raise ValueError(f"{self.config} is damaged; give --overwrite to start anew") from error
        # An option that came after that run was made had its default's effect.
        there = identity_of({**TrainingConfig().as_dict(), **there})
        here = yaml.safe_load(yaml.safe_dump(config.identity()))  # where tuples are lists
        differing = {
            name: f"{name} {there.get(name)!r} there, {value!r} here"
            for name, value in here.items()
            if there.get(name) != value and (name, value) != ("batch_size", 0)
        }
        if differing:
            way_on = (
                f"; to train on from its weights, give --init-from {self.path} and another --out"
                if list(differing) == ["epochs"] and self.finished
                else ""
            )
            raise FileExistsError(
                f"--out {self.path} holds a run of another configuration ({'; '.join(differing.values())}); "
                f"choose another folder, or give --overwrite to move that run aside{way_on}"
            )

    def require_same_data(self, dataset: LocalizationDataset) -> None:
        """Refuse to go on with other images, or other classes, than the run was begun with.

        Raises:
            FileExistsError: they differ; the message says in what.
        """
        if not self.begun or not self.data.exists():
            return
        if json.loads(self.data.read_text(encoding="utf-8")).get("left_out") and self.finished:
            return  # which of its images could not be read, nobody looks for again
        there, here = json.loads(self.data.read_text(encoding="utf-8")), _contents(dataset)
        if not all("sizes" in one for one in there["classes"]):  # an older version's
            for one in here["classes"]:
                del one["sizes"]
        if there["classes"] == here["classes"]:
            return
        raise FileExistsError(
            f"--out {self.path} was begun on other images ({_difference(there, here)}); "
            "choose another folder, or give --overwrite to move that run aside"
        )

    def prepare(
        self, config: TrainingConfig, dataset: LocalizationDataset | None = None, left_out: int = 0
    ) -> None:
        """Make the folder ready for a run of this configuration: new, or the same run's.

        Args:
            config: the run's configuration.
            dataset: its training images.
            left_out: how many others could not be read.

        Raises:
            OSError: the folder cannot be made or written; or as `require_same`.
        """
        self.require_same(config)
        begun, self._is_marked = self.begun, not holds_others(self.path)
        self._descriptions = {self.config: yaml.safe_dump(config.as_dict(), sort_keys=False)}
        if dataset is not None:
            contents = {**_contents(dataset), "left_out": left_out}
            self._descriptions[self.data] = json.dumps(contents, indent=2) + "\n"
        self.restore(all_of_them=not begun)

    def restore(self, all_of_them: bool = False) -> None:
        """Write what describes the run, where somebody removed it, or all of it."""
        if self._is_marked:
            mark_results_folder(self.path, "train")
        for path, text in self._descriptions.items():
            if all_of_them or not path.exists():
                write_text(path, text)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: two runs writing to one would ruin both. A killed run's lock is free.

        Raises:
            TrainingError: another process holds it.
        """
        taken = TrainingError(f"--out {self.path} is in use by another training run")
        with hold(self.path, taken):
            if self.config.exists():
                for folder in (self.path, self.checkpoint.parent):
                    remove_leftovers(folder)
            yield


def _contents(dataset: LocalizationDataset) -> dict[str, Any]:
    """How many images each class has, and hashes of their names and sizes: little to keep, however many there are."""
    classes = [_Images(name) for name in dataset.class_names]
    for index, (name, label) in enumerate(zip(dataset.image_names, dataset.labels, strict=True)):
        classes[label].add(name, dataset.file_bytes(index))
    return {"images": len(dataset), "classes": [one.as_dict() for one in classes]}


class _Images:
    """The images of a class: what tells them from others. No time stamps, which copies do not keep."""

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name
        self.count = 0
        self.names, self.sizes = hashlib.sha256(), hashlib.sha256()

    def add(self, name: str, size: int | None) -> None:
        self.count += 1
        self.names.update(os.fsencode(name) + b"\0")
        self.sizes.update(f"{size} ".encode())

    def as_dict(self) -> dict[str, Any]:
        hashes = {"names": self.names.hexdigest(), "sizes": self.sizes.hexdigest()}
        return {"name": self.class_name, "images": self.count, **hashes}


def _difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What a sentence says of two `_contents` that differ."""
    old, new = ({one["name"]: one for one in each["classes"]} for each in (there, here))
    for title, one, other in (("lost", old, new), ("new", new, old)):
        names = [name for name in one if name not in other]
        if names:
            return f"{title}: the {'class' if len(names) == 1 else 'classes'} {some(names)}"
    if list(old) != list(new):
        return "its classes stand in another order here"
    counts = [
        f"{name} had {old[name]['images']} images, {new[name]['images']} here"
        for name in old
        if old[name]["images"] != new[name]["images"]
    ]
    if counts:
        return some(counts, separator="; ")
    renamed = [name for name in old if old[name]["names"] != new[name]["names"]]
    if renamed:
        return f"images of {some(renamed)} have other names here"
    replaced = [name for name in old if old[name] != new[name]]
    return f"images of {some(replaced)} are other files here, whose sizes differ"
