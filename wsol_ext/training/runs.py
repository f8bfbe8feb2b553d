"""A run and its folder: created, refused, resumed, finished."""

import errno
import fcntl
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from rich.console import Console

import wsol_ext
from wsol_ext._files import write_json, write_text
from wsol_ext.checkpoints import CheckpointError, save_model
from wsol_ext.models import LocalizationModel
from wsol_ext.report.figures import loss_figure, save_figure
from wsol_ext.training.callbacks import (
    AtomicCheckpoints,
    EpochProgress,
    History,
    SaveEachEpoch,
    SeedEachEpoch,
    StopOnNaN,
    TrainingError,
)
from wsol_ext.training.config import TrainingConfig
from wsol_ext.training.data import TrainingData
from wsol_ext.training.module import Localizer

__all__ = ["RunFolder", "TrainingError", "train"]


class RunFolder:
    """Where a run keeps its files.

    | file | what |
    | --- | --- |
    | `config.yaml` | every option, resolved |
    | `metrics.csv`, `loss.png` | loss, accuracy and learning rate by epoch |
    | `checkpoints/last.ckpt` | everything the next epoch needs |
    | `model.safetensors` | the trained model, once training has ended |
    | `metrics.json` | the last epoch's row, once training has ended |

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.model = self.path / "model.safetensors"
        self.metrics = self.path / "metrics.json"

    @property
    def finished(self) -> bool:
        """Whether training has ended here."""
        return self.model.exists() and self.metrics.exists()

    def prepare(self, config: TrainingConfig, overwrite: bool = False) -> None:
        """Make the folder ready for a run of this configuration: new, or the same run's.

        Args:
            config: the run's configuration.
            overwrite: move another run's folder aside (`NAME.old-1`, …) and start anew.

        Raises:
            FileExistsError: the folder holds a run of another configuration, or other files.
            OSError: the folder cannot be made or written.
        """
        if overwrite and self.config.exists():
            self._move_aside()
        if self.config.exists():
            self._require_same(config)
        elif self.path.is_dir() and any(not p.name.startswith(".") for p in self.path.iterdir()):
            raise FileExistsError(
                f"--out {self.path} holds files that are no training run; choose another folder"
            )
        else:
            write_text(self.config, yaml.safe_dump(config.as_dict(), sort_keys=False))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: two runs writing to one would ruin both. A killed run's lock is free.

        Raises:
            TrainingError: another process holds it.
        """
        # Beside the folder, which --overwrite moves away.
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # a file where a folder should be
            raise NotADirectoryError(
                errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.path)
            ) from error
        with open(self.path.with_name(f".{self.path.name}.lock"), "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise TrainingError(
                    f"--out {self.path} is in use by another training run"
                ) from error
            for left in self.path.rglob(".*.tmp.*"):  # by a run that was killed while it wrote
                left.unlink()
            yield

    def _require_same(self, config: TrainingConfig) -> None:
        try:
            found = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{self.config} is damaged; give --overwrite to start anew") from error
        # An option that came after that run was made had its default's effect.
        found = {**TrainingConfig().as_dict(), **(found if isinstance(found, dict) else {})}
        asked = config.identity()
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

    def _move_aside(self) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(aside)


def train(config: TrainingConfig, overwrite: bool = False) -> RunFolder:
    """Train a model, or continue the same run where it was left; a finished run is left as it is.

    An interrupted run, killed even, continues from its last whole epoch and ends with the same
    weights, bit for bit, as an unbroken one on the same machine.

    Args:
        config: the run's configuration.
        overwrite: move a run of another configuration in that folder aside.

    Returns:
        The run's folder, with the files that `RunFolder` lists.

    Raises:
        FileExistsError: the folder holds another run.
        TrainingError: the loss became NaN, or another process trains in that folder.
        CheckpointError: the run's last checkpoint is damaged.
        ValueError: an option outside its range.
        OSError: data cannot be read, or the folder cannot be written.
    """
    quiet_lightning()
    folder = RunFolder(config.out)
    console = Console(quiet=not config.progress, stderr=True)
    if _rank() > 0:
        data = TrainingData(config)
        return _fit(folder, config, console, data, _model(config, data))
    if overwrite and any(int(os.environ.get(n, 1)) > 1 for n in ("WORLD_SIZE", "SLURM_NTASKS")):
        raise ValueError(
            "--overwrite would move the folder under the other processes of this launcher; move it yourself first"
        )
    if folder.config.exists() and not overwrite:
        folder.prepare(config)
        if folder.finished:
            console.print(f"{folder.path} is finished: nothing to train", highlight=False)
            return folder
    data = TrainingData(config)  # before anything is written: most mistakes are about data or model
    model = _model(config, data)
    with folder.locked():
        folder.prepare(config, overwrite)
        return _fit(folder, config, console, data, model)


def _rank() -> int:
    """This process's rank, as torchrun, SLURM or Lightning's own launcher tell it."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return int(os.environ.get("LOCAL_RANK", 0)) + int(os.environ.get("NODE_RANK", 0))


def _model(config: TrainingConfig, data: TrainingData) -> LocalizationModel:
    pl.seed_everything(config.seed, verbose=False)
    return wsol_ext.create_model(
        config.model,
        backbone=config.backbone,
        num_classes=len(data.class_names),
        pretrained=config.pretrained,
        img_size=config.img_size,
        backbone_options=config.backbone_options,
        **config.model_options,
    )


def _fit(
    folder: RunFolder,
    config: TrainingConfig,
    console: Console,
    data: TrainingData,
    model: LocalizationModel,
) -> RunFolder:
    history = History(folder.path)
    trainer = _trainer(folder, config, console, history)
    resume = folder.checkpoint if folder.checkpoint.exists() else None
    if resume is not None:
        _check_readable(resume)
        console.print(f"continuing {folder.path}", highlight=False)
    localizer = Localizer(model, config, data.steps_per_epoch)
    try:
        trainer.fit(localizer, data, ckpt_path=resume, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from stop
    if trainer.is_global_zero:
        save_model(model, folder.model, data.class_names)
        save_figure(loss_figure(history.rows), folder.path / "loss.png")
        write_json(folder.metrics, history.rows[-1])
        console.print(f"{folder.model}\nevaluate it: wsol evaluate {folder.path}", highlight=False)
    return folder


def _trainer(
    folder: RunFolder, config: TrainingConfig, console: Console, history: History
) -> pl.Trainer:
    callbacks: list[pl.Callback] = [
        SeedEachEpoch(config.seed),
        StopOnNaN(folder.checkpoint),
        history,
        EpochProgress(console, history),
        SaveEachEpoch(folder.checkpoint),
    ]
    return pl.Trainer(
        default_root_dir=folder.path,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        precision=config.precision,
        max_epochs=config.epochs,
        gradient_clip_val=config.clip_grad or None,
        check_val_every_n_epoch=config.validate_every or None,
        limit_val_batches=None if config.validate_every else 0,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _check_readable(checkpoint: Path) -> None:
    try:
        torch.load(checkpoint, map_location="meta", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds, by how the file is damaged
        raise CheckpointError(
            f"checkpoint {checkpoint} is corrupt or holds more than plain weights; "
            "remove it to start over, or give --overwrite"
        ) from error


def quiet_lightning() -> None:
    """Silence Lightning's advice and its lines about hardware; what a user must know, we say."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning.*", "torch.optim.lr_scheduler", "torch.utils.data.*"):
        warnings.filterwarnings("ignore", module=module)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
    warnings.filterwarnings("ignore", message=".*num_workers.*")


def read_config(path: str | Path) -> dict[str, Any]:
    """The options of a run folder's `config.yaml`.

    Raises:
        ValueError: the file is no YAML mapping; the message names it.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML file: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} should hold options by name")
    return found
