"""What happens beside the training step: seeding, history, checkpoints, progress."""

import hashlib
import io
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wsol_ext._files import atomic_path, sha256_of, write_csv
from wsol_ext._names import flag_of
from wsol_ext._progress import LogLines
from wsol_ext._seeds import mix_seed
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.training.stages import Stage

__all__ = [
    "ADVICE",
    "AtomicCheckpoints",
    "EpochProgress",
    "History",
    "SameEverywhere",
    "SaveEachEpoch",
    "SeedEachEpoch",
    "StopOnNaN",
    "TrainingError",
]

# How often a GPU is asked whether the loss is still finite: asking waits for it.
_CHECK_EVERY = 50

# Options that may differ between machines: where something lies there, which is compared by what it holds.
_PLACES = ("root", "image_root", "boxes", "init_from")

# What to do where training diverges.
ADVICE = "Try a lower --lr, --warmup-epochs or --clip-grad 1"


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what is kept."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, whole or absent on disk, and never read by running a pickle."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint under another name and rename it into place."""
        # Through memory: torch.save turns a full disk into an error that does not say so.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint of tensors and plain values; anything else is refused."""
        return torch.load(path, map_location=map_location, weights_only=True)


class SameEverywhere(Callback):
    """Raise `TrainingError` where the processes of a run would not train as one.

    Machines that hold other images would divide other lists, so that an epoch repeats some and lacks others; one that
    does not see the run's folder would begin where the others go on. Neither is noticed otherwise.

    Args:
        stage: the stage that is trained.
        dataset: the training images.
        checkpoint: what the run goes on from, if it does.
    """

    def __init__(
        self, stage: Stage, dataset: LocalizationDataset, checkpoint: Path | None = None
    ) -> None:
        self.stage = stage
        self.dataset = dataset
        self.checkpoint = checkpoint

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Compare what the processes were told and found, as soon as they can talk to each other."""
        if trainer.world_size == 1:
            return
        options = self.stage.config.identity()
        mine = {flag_of(name): value for name, value in options.items() if name not in _PLACES}
        mine["the stage"] = self.stage.number
        mine["the training images"] = _images(self.dataset)
        mine["the checkpoint"] = (
            "none" if self.checkpoint is None else f"one with hash {sha256_of(self.checkpoint)[:8]}"
        )
        _require_same_everywhere(mine)


def _images(dataset: LocalizationDataset) -> str:
    """What tells one list of images and their classes from another."""
    digest = hashlib.sha256()
    for name, label in zip(dataset.image_names, dataset.labels, strict=True):
        digest.update(f"{label} {name}\0".encode("utf-8", "surrogateescape"))
    digest.update("\0".join(dataset.class_names).encode("utf-8", "surrogateescape"))
    return f"{len(dataset)} with hash {digest.hexdigest()[:8]}"


def _require_same_everywhere(mine: Mapping[str, Any]) -> None:
    """Compare with the first process: every process raises the same, so that none is left waiting."""
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, (platform.node(), dict(mine)))
    host, first = everywhere[0]
    for rank, (other_host, other) in enumerate(everywhere):
        differing = [
            f"{name}: {other[name]} there, {first[name]} here"
            for name in first
            if other[name] != first[name]
        ]
        if differing:
            raise TrainingError(
                f"process {rank} on {other_host} differs from process 0 on {host} ({'; '.join(differing)}); all "
                "processes need the same command and images, and an --out that every machine sees"
            )


class SeedEachEpoch(Callback):
    """Seed every generator from (seed, epoch, process), so that epochs do not depend on those before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Seed Python, numpy and torch."""
        seed = mix_seed(self.seed, trainer.current_epoch, trainer.global_rank)
        pl.seed_everything(seed & 0xFFFFFFFF, verbose=False)


class StopOnNaN(Callback):
    """Raise `TrainingError` when the loss is not finite, before anything of it is saved."""

    def __init__(self, checkpoint: Path, stage: Stage) -> None:
        self.checkpoint = checkpoint
        self.stage = stage
        self._sum: torch.Tensor | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start anew."""
        self._sum = None

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add up the losses (a NaN stays one) and look at the sum now and then."""
        loss = outputs["loss"].detach()
        self._sum = loss if self._sum is None else self._sum + loss
        if self._sum.device.type == "cpu" or batch_idx % _CHECK_EVERY == 0:
            self._check(trainer, batch_idx, self._sum)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Look at the sum and at the weights."""
        weights = torch.stack([p.detach().sum() for p in module.parameters()]).sum()
        total = weights if self._sum is None else self._sum + weights
        self._check(trainer, int(trainer.num_training_batches) - 1, total)

    def _check(self, trainer: pl.Trainer, step: int, value: torch.Tensor) -> None:
        if torch.isfinite(value):
            return
        kept = (
            f"the checkpoint of the last good epoch is {self.checkpoint}"
            if self.checkpoint.exists()
            else "there is no checkpoint yet"
        )
        raise TrainingError(
            f"the loss became NaN or infinite in {self.stage.title}epoch {trainer.current_epoch + 1}, "
            f"at step {step + 1}; {kept}. {ADVICE}"
        )


class History(Callback):
    """A row of means an epoch, kept in the checkpoint and written to `metrics.csv`.

    Args:
        folder: the run's.
        stage: the stage that is trained; rows name it where there are several.
        rows: those of the stages before, which go on here.
    """

    def __init__(self, folder: Path, stage: Stage, rows: list[dict[str, float]]) -> None:
        self.folder = folder
        self.stage = stage
        self.rows = rows
        self.measured: dict[
            str, float
        ] = {}  # of this epoch by another callback, that its row shows too
        self._started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Add the epoch's row and write the file."""
        row: dict[str, float] = {"stage": self.stage.number} if self.stage.count > 1 else {}
        row["epoch"] = trainer.current_epoch + 1
        row |= {name: value.item() for name, value in trainer.callback_metrics.items()}
        every = trainer.check_val_every_n_epoch
        if every and row["epoch"] % every:  # Lightning still shows an earlier epoch's
            row.pop("test_accuracy", None)
        row |= self.measured
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = round(time.perf_counter() - self._started, 3)
        self.rows.append(row)
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        """Write `metrics.csv`; a metric that an epoch lacks is an empty field."""
        write_csv(self.folder / "metrics.csv", self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Rows of an earlier part of the run."""
        self.rows[:] = state_dict["rows"]


class SaveEachEpoch(Checkpoint):
    """`checkpoints/last.ckpt` after every epoch: what a killed run continues from.

    A `Checkpoint`, since Lightning calls these after all other callbacks, whose state they save.

    Args:
        path: the checkpoint's.
        stage: the stage that is trained.
        describe: writes what else belongs beside the checkpoint, where somebody removed it.
    """

    def __init__(self, path: Path, stage: Stage, describe: Callable[[], None]) -> None:
        self.path = path
        self.stage = stage
        self.describe = describe

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save everything the next epoch needs."""
        if trainer.is_global_zero:  # before: a checkpoint that does not say of what is no run
            self.describe()
        trainer.save_checkpoint(self.path)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say which stage it belongs to: see `RunFolder.resumable_stage`."""
        checkpoint["stage"] = self.stage.number


class EpochProgress(Callback):
    """A bar over the steps of the running epoch, or lines in a log, and a line for each that ended.

    Args:
        console: where to print.
        history: of the rows to print.
        clock: of the lines in a log, gives seconds.
    """

    def __init__(
        self, console: Console, history: History, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console
        self.history = history
        self.clock = clock
        self._bar: Progress | None = None
        self._lines: LogLines | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Put up the bar."""
        if not trainer.is_global_zero:
            return
        title = f"{self.history.stage.title}epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        steps = int(trainer.num_training_batches)
        if not self.console.is_terminal:
            self._lines = LogLines(title, steps, self.console, self.clock)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        self._bar.add_task(title, total=steps)
        self._bar.start()

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])
        elif self._lines is not None:
            self._lines.advance()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take the bar down and print the epoch's line."""
        self._stop()
        if not trainer.is_global_zero or not self.history.rows:
            return
        row = self.history.rows[-1]
        parts = [f"{self.history.stage.title}epoch {int(row['epoch']):>3}/{trainer.max_epochs}"]
        parts.append(f"loss {row['loss']:.4f}")
        for name in ("accuracy", "test_accuracy", "select_localization", "select_classification"):
            if name in row:
                parts.append(f"{name.replace('_', ' ')} {100 * row[name]:.1f}%")
        parts += [f"lr {row['lr']:.2g}", f"{row['seconds']:.1f} s"]
        self.console.out("  ".join(parts), highlight=False)

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
