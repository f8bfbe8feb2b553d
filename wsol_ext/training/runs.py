"""A run and its folder: created, refused, resumed, finished."""

import errno
import fcntl
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import yaml
from rich.console import Console

import wsol_ext
from wsol_ext._files import remove_leftovers, write_json, write_text
from wsol_ext.checkpoints import CheckpointError, initialize_from, load_model, save_model
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
from wsol_ext.training.stages import Stage, stages_of

__all__ = ["RunFolder", "TrainingError", "train"]


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
        self.path = Path(path).expanduser()
        if self.path.name in ("", ".."):  # such as the current folder, which has a name too
            self.path = self.path.resolve()
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
        with open(self.path.parent / f".{self.path.name}.lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise TrainingError(
                    f"--out {self.path} is in use by another training run"
                ) from error
            if self.config.exists():
                for folder in (self.path, self.checkpoint.parent):
                    remove_leftovers(folder)
            yield

    def _require_same(self, config: TrainingConfig) -> None:
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

    def _move_aside(self) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(aside)


def train(config: TrainingConfig, overwrite: bool = False) -> RunFolder:
    """Train a model through all its stages, or continue the same run; a finished run is left as it is.

    An interrupted run, killed even, continues from its last whole epoch and ends with the weights of an
    unbroken one: on the CPU of the same machine the very same, bit for bit.

    Args:
        config: the run's configuration.
        overwrite: move a run of another configuration in that folder aside.

    Returns:
        The run's folder, with the files that `RunFolder` lists.

    Raises:
        FileExistsError: the folder holds another run.
        TrainingError: the loss became NaN, or another process trains in that folder.
        CheckpointError: the run's last checkpoint is damaged, or `init_from` is no model to start this one from.
        ValueError: an option outside its range.
        OSError: data cannot be read, or the folder cannot be written.
    """
    quiet_lightning()
    stages = stages_of(config)
    folder = RunFolder(config.out)
    console = Console(quiet=not config.progress or _rank() > 0, stderr=True)
    if _rank() > 0:
        if folder.finished:  # as the first process sees too, which does not wait for this one
            return folder
        data = TrainingData(config)
        return _train_stages(folder, data, _start(folder, stages, data, console), console)
    if overwrite and any(int(os.environ.get(n, 1)) > 1 for n in ("WORLD_SIZE", "SLURM_NTASKS")):
        raise ValueError(
            "--overwrite would move the folder under the other processes of this launcher; move it yourself first"
        )
    if folder.config.exists() and not overwrite:
        folder.prepare(config)
        if folder.finished:
            console.out(f"{folder.path} is finished: nothing to train", highlight=False)
            return folder
    with folder.locked():
        # Before the folder is made: most mistakes are about data or model.
        data = TrainingData(config)
        start = _start(folder, stages, data, console, overwrite)
        folder.prepare(config, overwrite)
        return _train_stages(folder, data, start, console)


def _rank() -> int:
    """This process's rank, as torchrun, SLURM or Lightning's own launcher tell it."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return int(os.environ.get("LOCAL_RANK", 0)) + int(os.environ.get("NODE_RANK", 0))


class _Start(NamedTuple):
    """Where training begins or goes on."""

    stages: list[Stage]  # those to be trained yet
    model: LocalizationModel  # of the first of them
    resume: bool  # from the folder's checkpoint


def _start(
    folder: RunFolder,
    stages: list[Stage],
    data: TrainingData,
    console: Console,
    overwrite: bool = False,
) -> _Start:
    number = None if overwrite else folder.resumable_stage(len(stages))
    if number is None:
        return _Start(stages, _first_model(stages[0], data, console), resume=False)
    if number == 1:
        return _Start(stages, _model(stages[0], data), resume=True)
    stage, before = stages[number - 1], stages[number - 2]
    model = _next_model(stage, data, load_model(folder.trained(before)))
    return _Start(stages[number - 1 :], model, resume=True)


def _model(stage: Stage, data: TrainingData, pretrained: bool = False) -> LocalizationModel:
    config = stage.config
    pl.seed_everything(config.seed, verbose=False)
    model = wsol_ext.create_model(
        config.model,
        backbone=config.backbone,
        num_classes=len(data.class_names),
        pretrained=pretrained,
        img_size=config.img_size,
        backbone_options=config.backbone_options,
        **config.model_options,
    )
    model.class_names = data.class_names
    return model


def _first_model(stage: Stage, data: TrainingData, console: Console) -> LocalizationModel:
    """The model that a run begins with."""
    source = stage.config.init_from
    model = _model(stage, data, pretrained=stage.config.pretrained and source is None)
    if source is not None:
        anew = initialize_from(model, source)
        parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in anew)) or "nothing"
        taken = len(model.state_dict()) - len(anew)
        console.out(f"{taken} weights from {source}; anew: {parts}", highlight=False)
    return model


def _next_model(stage: Stage, data: TrainingData, previous: LocalizationModel) -> LocalizationModel:
    """The model of a stage after the first."""
    model = _model(stage, data)
    model.continue_from(previous)
    return model


def _train_stages(
    folder: RunFolder, data: TrainingData, start: _Start, console: Console
) -> RunFolder:
    if start.resume:
        console.out(f"continuing {folder.path}", highlight=False)
    model, history = start.model, History(folder.path, start.stages[0])
    for stage in start.stages:
        first = stage is start.stages[0]
        if not first:
            model, history.stage = _next_model(stage, data, previous=model), stage
        _fit(folder, data, model, history, console, resume=first and start.resume)
    return folder


def _fit(
    folder: RunFolder,
    data: TrainingData,
    model: LocalizationModel,
    history: History,
    console: Console,
    resume: bool,
) -> None:
    """Train the stage that `history` is at, and save what it made."""
    stage = history.stage
    data.config = stage.config
    trainer = _trainer(folder, console, history)
    localizer = Localizer(model.train(), stage.config, data.steps_per_epoch)
    checkpoint = folder.checkpoint if resume else None
    try:
        trainer.fit(localizer, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from stop
    if trainer.is_global_zero:
        save_model(model, folder.trained(stage))
        if stage.is_last:
            _finish(folder, history.rows, console)


def _finish(folder: RunFolder, rows: list[dict[str, float]], console: Console) -> None:
    save_figure(loss_figure(rows), folder.path / "loss.png")
    write_json(folder.metrics, rows[-1])
    console.out(f"{folder.model}\nevaluate it: wsol evaluate {folder.path}", highlight=False)


def _trainer(folder: RunFolder, console: Console, history: History) -> pl.Trainer:
    stage, config = history.stage, history.stage.config
    callbacks: list[pl.Callback] = [
        SeedEachEpoch(config.seed),
        StopOnNaN(folder.checkpoint, stage),
        history,
        EpochProgress(console, history),
        SaveEachEpoch(folder.checkpoint, stage),
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
