"""A run's folder: which files it has, whose it is, who may write to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml

from wsol_ext._files import hold, move_aside, named, remove_leftovers, write_text
from wsol_ext.checkpoints import CheckpointError
from wsol_ext.training.callbacks import TrainingError
from wsol_ext.training.config import TrainingConfig
from wsol_ext.training.stages import Stage


class RunFolder:
    """Where a run keeps its files.

    | file | what |
    | --- | --- |
    | `config.yaml` | every option, resolved |
    | `metrics.csv`, `loss.png` | loss, accuracy and learning rate by epoch |
    | `checkpoints/last.ckpt` | everything the next epoch needs |
    | `stage1.safetensors`, … | the model that a stage which is not the last has trained |
    | `model.safetensors` | the trained model, once training has ended |
    | `metrics.json` | the last epoch's row, once training has ended |

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = named(path)
        self.config = self.path / "config.yaml"
        self.checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.model = self.path / "model.safetensors"
        self.metrics = self.path / "metrics.json"

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

    def require_same(self, config: TrainingConfig) -> None:
        """Refuse a folder that a run of this configuration cannot begin or continue in.

        Raises:
            FileExistsError: the folder holds a run of another configuration, or other files.
            ValueError: its `config.yaml` is damaged.
        """
        if not self.config.exists():
            if self.path.is_dir() and any(not p.name.startswith(".") for p in self.path.iterdir()):
                raise FileExistsError(
                    f"--out {self.path} holds files that are no training run; choose another folder"
                )
            return
        try:
            found = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{self.config} is damaged; give --overwrite to start anew") from error
        # An option that came after that run was made had its default's effect.
        found = {**TrainingConfig().as_dict(), **(found if isinstance(found, dict) else {})}
        asked = yaml.safe_load(yaml.safe_dump(config.identity()))  # where tuples are lists
        differing = [
            f"{name} {found.get(name)!r} there, {value!r} here"
            for name, value in asked.items()
            if found.get(name) != value
        ]
        if differing:
            raise FileExistsError(
                f"--out {self.path} holds a run of another configuration ({'; '.join(differing)}); "
                "choose another folder, or give --overwrite to move that run aside"
            )

    def prepare(self, config: TrainingConfig, overwrite: bool = False) -> None:
        """Make the folder ready for a run of this configuration: new, or the same run's.

        Args:
            config: the run's configuration.
            overwrite: move another run's folder aside (`NAME.old-1`, …) and start anew.

        Raises:
            OSError: the folder cannot be made or written; or as `require_same`.
        """
        if overwrite and self.config.exists():
            move_aside(self.path)
        self.require_same(config)
        if not self.config.exists():
            write_text(self.config, yaml.safe_dump(config.as_dict(), sort_keys=False))

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
