"""A run: begun, resumed, trained through its stages, finished."""

import logging
import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from rich.console import Console

import wsol_ext
from wsol_ext._devices import usable_device
from wsol_ext._files import move_aside, write_json
from wsol_ext._kept_epoch import KeptEpoch, store_kept_epoch
from wsol_ext._names import flag_of, some
from wsol_ext._problems import Problems
from wsol_ext._processes import is_launched, rank_in_training
from wsol_ext.checkpoints import load_model, save_model, start_from
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.data.factory import evaluation_flags
from wsol_ext.data.transforms import eval_transform
from wsol_ext.models import METHODS, LocalizationModel
from wsol_ext.models.foreign_weights import read_backbone, stored_classifier
from wsol_ext.models.meta_device import without_values
from wsol_ext.models.networks import pretrained_classifier
from wsol_ext.report.figures import loss_figure, save_figure
from wsol_ext.training.callbacks import (
    AtomicCheckpoints,
    EpochProgress,
    History,
    SameEverywhere,
    SaveEachEpoch,
    SeedEachEpoch,
    StopOnNaN,
)
from wsol_ext.training.config import USUAL_BATCH_SIZE, TrainingConfig
from wsol_ext.training.data import TrainingData, open_splits
from wsol_ext.training.features import CachedFeatures, FeatureCache
from wsol_ext.training.folder import RunFolder
from wsol_ext.training.module import Localizer
from wsol_ext.training.selection import SelectBest
from wsol_ext.training.stages import Stage, check_model_of, resolved, stages_of

__all__ = ["quiet_lightning", "train"]


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
    config = resolved(config)
    folder = RunFolder(config.out)
    first = rank_in_training() == 0
    console = Console(quiet=not first, stderr=True)
    if first and overwrite and is_launched():
        raise ValueError(
            "--overwrite would move the folder under the other processes of this launcher; move it yourself first"
        )
    if first and not overwrite:
        _require_same(folder, config)
    if folder.finished and not overwrite:  # as every process sees: none waits for another
        dataset = _dataset_if_there(config) if first else None
        if dataset is not None:
            folder.require_same_data(dataset)
        console.out(f"{folder.path} is finished: nothing to train", highlight=False)
        return folder
    with folder.locked() if first else nullcontext():
        # Before the folder is made: most mistakes are about data or model.
        data = _open_data(config, begins=overwrite or not folder.checkpoint.exists())
        if first and not overwrite:
            folder.require_same_data(data.splits.train)
        start = _start(folder, stages_of(data.config), data, console, overwrite)
        if first:
            if overwrite and folder.config.exists():
                move_aside(folder.path)
            folder.prepare(data.config, data.splits.train, data.splits.left_out)
        _say_what_was_decided(config, data, console)
        _train_stages(folder, data, start, console)
    return folder


def _require_same(folder: RunFolder, config: TrainingConfig) -> None:
    """Refuse a folder of another run, and say with it what else is mistaken.

    Raises:
        FileExistsError: the folder holds another run, and nothing else is wrong.
        ValueError: all that is mistaken, a line each.
    """
    try:
        folder.require_same(config)
    except FileExistsError as error:
        problems = Problems()
        with problems.collected():
            raise
        with problems.collected():
            _check(config, begins=False).raise_any()
        with problems.collected():
            open_splits(config, look_over=False)
        if len(problems.found) == 1:
            raise error from None
        problems.raise_any()


def _open_data(config: TrainingConfig, begins: bool) -> TrainingData:
    """The run's data; what is wrong with device and model is said with what is wrong with it.

    Raises:
        ValueError: all that is mistaken, a line each.
        OSError: an image cannot be read.
    """
    problems = _check(config, begins)
    if problems.found:  # every picture is looked at where nothing else is left to be mended
        with problems.collected():
            open_splits(config, look_over=False)
        problems.raise_any()
    return TrainingData(config)


def _check(config: TrainingConfig, begins: bool) -> Problems:
    """What is wrong with a configuration beside its data."""
    problems = Problems()
    with problems.collected():
        usable_device(config.device)
    with problems.collected():
        check_model_of(config)
        with without_values():
            model = _model(stages_of(config)[0], ["one", "another"])
        height, width = model.backbones()[0].patch_size
        if config.train_img_size % height or config.train_img_size % width:
            problems.add(
                f"--train-img-size is {config.train_img_size}, it should be a multiple of the patch, "
                f"{height} x {width}"
            )
    with problems.collected():
        if begins and config.init_from is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they come when it is used
                load_model(config.init_from, published_heads=config.published_heads)
        elif begins and config.backbone_weights is not None:
            read_backbone(config.backbone_weights, "--backbone-weights")
    return problems


def _dataset_if_there(config: TrainingConfig) -> LocalizationDataset | None:
    """The training images; None where they are gone, which a finished run has no need of."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return config.dataset("train").open(eval_transform(config.img_size))
    except (ValueError, OSError):
        return None


def _say_what_was_decided(asked: TrainingConfig, data: TrainingData, console: Console) -> None:
    decided, images = data.config, len(data.splits.train)
    if not asked.batch_size and decided.batch_size != USUAL_BATCH_SIZE:
        console.out(
            f"--batch-size {decided.batch_size}: there are {images} training images",
            highlight=False,
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if usable_device(decided.device) == "cpu" and decided.devices > (cores or 1):
        warnings.warn(
            f"--devices is {decided.devices}: so many processes share the {cores} cores of this machine",
            stacklevel=2,
        )


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
    overwrite: bool,
) -> _Start:
    number = None if overwrite else folder.resumable_stage(len(stages))
    if number is None:
        return _Start(stages, _first_model(stages[0], data, console), resume=False)
    # The checkpoint has all weights, those of the stage before too, whose own file may be gone.
    left = stages[number - 1 :]
    model = _model(left[0], data.class_names)
    if model.backbone_is_frozen:  # all but these
        model = _first_model(left[0], data, console)
    return _Start(left, model, resume=True)


def _model(stage: Stage, class_names: list[str], with_weights: bool = False) -> LocalizationModel:
    config = stage.config
    pl.seed_everything(config.seed, verbose=False)
    model = wsol_ext.create_model(
        config.model,
        backbone=config.backbone,
        num_classes=len(class_names),
        pretrained=with_weights and config.pretrained,
        img_size=config.img_size,
        backbone_options=config.backbone_options,
        backbone_weights=config.backbone_weights if with_weights else None,
        freeze_backbone=config.freeze_backbone,
        **config.model_options,
    )
    model.class_names = class_names
    file = model.backbone_file
    if file is not None and file.sha256 != config.backbone_sha256:
        raise ValueError(
            f"--backbone-weights {file.path} has the SHA-256 {file.sha256}, not {config.backbone_sha256}"
        )
    if config.cache_tokens is not None and not (model.caches_features and model.backbone_is_frozen):
        caching = [name for name, method in METHODS.items() if method.caches_features]
        raise ValueError(
            f"--cache-tokens is for {', '.join(caching)} with --freeze-backbone: what they read of it stays the same"
        )
    return model


def _first_model(stage: Stage, data: TrainingData, console: Console) -> LocalizationModel:
    """The model that a run begins with."""
    source = stage.config.init_from
    model = _model(stage, data.class_names, with_weights=source is None)
    if (file := model.backbone_file) is not None:
        unused = f"; left out: {some(list(file.left_out))}" if file.left_out else ""
        console.out(f"backbone from {file.path}, {file.layout}'s names{unused}", highlight=False)
    if source is not None:
        other = load_model(source, published_heads=stage.config.published_heads)
        anew = start_from(model, other, source)
        parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in anew)) or "nothing"
        taken = len(model.state_dict()) - len(anew)
        line = f"{taken} weights from {source}; anew: {parts}"
        if other.num_classes != model.num_classes:
            line += f"; {other.num_classes} classes there, {model.num_classes} here: the classifier starts anew"
        console.out(line, highlight=False)
    if stage.config.keep_classifier:
        try:
            model.take_classifier(*_classifier(stage.config))
        except ValueError as error:
            raise ValueError(f"--keep-classifier: {error}") from error
    return model


def _classifier(config: TrainingConfig) -> tuple[torch.Tensor, torch.Tensor]:
    if config.backbone_weights is not None:
        return stored_classifier(read_backbone(config.backbone_weights, "--backbone-weights"))
    return pretrained_classifier(config.backbone)


def _next_model(stage: Stage, data: TrainingData, previous: LocalizationModel) -> LocalizationModel:
    """The model of a stage after the first."""
    model = _model(stage, data.class_names)
    model.continue_from(previous)
    model.backbone_file = previous.backbone_file
    return model


def _train_stages(folder: RunFolder, data: TrainingData, start: _Start, console: Console) -> None:
    if start.resume:
        console.out(f"continuing {folder.path}", highlight=False)
    model, rows = start.model, list[dict[str, float]]()
    for stage in start.stages:
        first = stage is start.stages[0]
        if not first:
            model = _next_model(stage, data, previous=model)
        history = History(folder.path, stage, rows)
        checkpoint = folder.checkpoint if first and start.resume else None
        stage_data = data.for_stage(stage)
        stage_data.features = _features(data.splits.train, model, stage.config, console)
        selection = _selection(data.splits.select, model, stage.config, history, console)
        same = SameEverywhere(stage, data.splits.train, checkpoint)
        trainer = _trainer(folder, console, history, selection, same)
        _fit(trainer, model, stage_data, stage, checkpoint)
        kept = None
        if selection is not None:
            kept = selection.restore(model, epochs=int(rows[-1]["epoch"]))
            console.out(f"kept: epoch {kept}", highlight=False)
        if trainer.is_global_zero:
            folder.restore()
            save_model(model, folder.trained(stage))
            if stage.is_last:
                _finish(folder, data, rows, kept, console)


def _features(
    dataset: LocalizationDataset,
    model: LocalizationModel,
    config: TrainingConfig,
    console: Console,
    training: bool = True,
) -> CachedFeatures | None:
    """A frozen backbone's tokens in the place of images, where they are to be cached."""
    if config.cache_tokens is None:
        return None
    cache = FeatureCache(config.cache_tokens, model, dataset, config, training)
    device = torch.device(usable_device(config.device))
    return cache.fill(device, config.workers, console, config.progress, rank_in_training())


def _selection(
    dataset: LocalizationDataset | None,
    model: LocalizationModel,
    config: TrainingConfig,
    history: History,
    console: Console,
) -> SelectBest | None:
    if dataset is None:
        return None
    features = None
    if model.localizes_features:
        features = _features(dataset, model, config, console, training=False)
    return SelectBest(dataset, config, history, features)


def _fit(
    trainer: pl.Trainer,
    model: LocalizationModel,
    data: TrainingData,
    stage: Stage,
    checkpoint: Path | None,
) -> None:
    localizer = Localizer(model.train(), stage.config, data.steps_per_epoch)
    try:
        trainer.fit(localizer, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from stop


def _finish(
    folder: RunFolder,
    data: TrainingData,
    rows: list[dict[str, float]],
    kept: KeptEpoch | None,
    console: Console,
) -> None:
    if kept is not None:
        store_kept_epoch(folder.path, kept)
    save_figure(loss_figure(rows), folder.path / "loss.png")
    write_json(folder.metrics, rows[-1])
    lines = [f"{folder.model}", f"boxes for your images: wsol localize {folder.path} IMAGES"]
    lines += [f"evaluate it: wsol evaluate {folder.path}{_missing_to_evaluate(data.config)}"]
    console.out("\n".join(lines), highlight=False)


def _missing_to_evaluate(config: TrainingConfig) -> str:
    """The flags that `wsol evaluate` needs beside the run's folder: boxes, where a run has none of its own."""
    wanted = [flag for flag in evaluation_flags(config.data) if getattr(config, flag) is None]
    return "".join(f" {flag_of(flag)} {flag.upper()}.csv" for flag in wanted)


def _trainer(
    folder: RunFolder,
    console: Console,
    history: History,
    selection: SelectBest | None,
    same: SameEverywhere,
) -> pl.Trainer:
    stage, config = history.stage, history.stage.config
    device = torch.device(usable_device(config.device))
    callbacks: list[pl.Callback] = [
        same,
        SeedEachEpoch(config.seed),
        StopOnNaN(folder.checkpoint, stage),
        *([] if selection is None else [selection]),  # the history shows what it measures
        history,
        EpochProgress(console if config.progress else Console(quiet=True, stderr=True), history),
        SaveEachEpoch(folder.checkpoint, stage, folder.restore),
    ]
    return pl.Trainer(
        default_root_dir=folder.path,
        accelerator=device.type,
        devices=config.devices if device.index is None else [device.index],
        num_nodes=config.nodes,
        precision=config.precision,
        max_epochs=config.epochs,
        gradient_clip_val=config.clip_grad or None,
        check_val_every_n_epoch=config.validate_every or None,
        limit_val_batches=None if config.validate_every else 0,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=[AtomicCheckpoints(), *_slurm()],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _slurm() -> list[SLURMEnvironment]:
    """Slurm's tasks as processes, where Lightning would find them by itself, but without its own way to go on.

    On SIGUSR1 that would save amid an epoch, as `hpc_ckpt_1.ckpt`, and then begin every stage there.
    """
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]


def quiet_lightning() -> None:
    """Silence Lightning's advice and its lines about hardware; what a user must know, we say."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning.*", "torch.optim.lr_scheduler", "torch.utils.data.*"):
        warnings.filterwarnings("ignore", module=module)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
    warnings.filterwarnings("ignore", message=".*num_workers.*")
