"""What a training run is told: every field is a flag of `wsol train` and a key of its YAML file."""

# ruff: noqa: RUF009  (`_option` makes a dataclass field)

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wsol_ext._names import flag_of, unknown
from wsol_ext.data.factory import ChosenDataset, chosen_dataset, data_help, flag_help

__all__ = ["Augmentation", "Optimizer", "Precision", "Schedule", "TrainingConfig"]

Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["constant", "steps", "cosine"]
Augmentation = Literal["none", "standard", "erasing", "autoaugment", "strong"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

# Where and how fast a run computes, not what: a run may be continued under other values of these.
_NOT_PART_OF_A_RUN = ("out", "workers", "accelerator", "progress")


def _option(default: Any, group: str, text: str | Callable[[], str]) -> Any:
    """A dataclass field with what the command line's help says of it, or a function that knows."""
    metadata = {"group": group, "help": text}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class TrainingConfig:
    """The configuration of a training run.

    Raises:
        ValueError: a value outside its range; the message names the option.
    """

    out: str = _option(
        "runs/train", "run", "the run folder: resumed where it holds an unfinished run"
    )
    seed: int = _option(0, "run", "seed of everything random")
    model: str = _option("tscam", "model", "the localization method")
    backbone: str = _option("deit_small_patch16_224", "model", "a timm VisionTransformer")
    pretrained: bool = _option(True, "model", "start from timm's pretrained weights")
    init_from: str | None = _option(
        None, "model", "start from another run's weights instead: its folder or .safetensors file"
    )
    img_size: int = _option(0, "model", "side of the network's input, pixels; 0: the method's own")
    backbone_options: dict[str, Any] = _option(
        {}, "model", "passed to timm: depth, drop_path_rate, …"
    )
    model_options: dict[str, Any] = _option({}, "model", "the method's own options")
    data: str = _option("folder", "data", data_help)
    root: str | None = _option(None, "data", "where the data set lies")
    image_root: str | None = _option(None, "data", lambda: flag_help("image_root"))
    boxes: str | None = _option(None, "data", lambda: flag_help("boxes"))
    data_options: dict[str, Any] = _option(
        {}, "data", "passed to the data set: length, num_classes, …"
    )
    augmentation: Augmentation = _option(
        "standard", "data", "standard is resize, random crop, flip"
    )
    workers: int = _option(2, "data", "processes that read images; 0: none beside this one")
    epochs: int = _option(60, "optimization", "passes over the training images")
    stage2_epochs: int = _option(
        0, "optimization", "passes of a method's second stage; 0: as many as --epochs"
    )
    batch_size: int = _option(128, "optimization", "images a step, summed over devices")
    optimizer: Optimizer = _option("adamw", "optimization", "the optimizer")
    lr: float = _option(5e-5, "optimization", "the highest learning rate")
    weight_decay: float = _option(5e-4, "optimization", "weight decay")
    selective_decay: bool = _option(
        False, "optimization", "no weight decay on biases, norms, embeddings and tokens"
    )
    schedule: Schedule = _option("steps", "optimization", "how the learning rate falls")
    milestones: list[int] = _option(
        [], "optimization", "steps: after these epochs, times --lr-factor"
    )
    lr_factor: float = _option(0.1, "optimization", "steps: the factor at a milestone")
    min_lr: float = _option(0.0, "optimization", "cosine: the learning rate it ends at")
    warmup_epochs: float = _option(0.0, "optimization", "epochs of linear warm-up")
    clip_grad: float = _option(0.0, "optimization", "clip the gradient's norm; 0: never")
    validate_every: int = _option(
        0, "optimization", "epochs between measurements of test accuracy; 0: never"
    )
    precision: Precision = _option("32-true", "hardware", "number format of the computation")
    accelerator: str = _option("auto", "hardware", "auto, cpu, gpu, …")
    devices: int = _option(1, "hardware", "how many of them")
    nodes: int = _option(1, "hardware", "how many machines")
    progress: bool = _option(True, "hardware", "show progress")

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise ValueError(unknown(flag_of(name), value, get_args(kind)))
        for name in ("epochs", "batch_size", "devices", "nodes"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("seed", "img_size", "workers", "validate_every", "stage2_epochs"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("weight_decay", "min_lr", "clip_grad"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("lr", math.isfinite(self.lr) and self.lr > 0, "a positive number")
        self._require("min_lr", self.min_lr <= self.lr, f"at most the learning rate, {self.lr}")
        shortest = min(self.epochs, self.stage2_epochs or self.epochs)
        wanted = f"0 to the epochs, {shortest}"
        self._require("warmup_epochs", 0 <= self.warmup_epochs <= shortest, wanted)
        self._require(
            "batch_size", self.batch_size % self.processes == 0, "a multiple of the devices"
        )

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{flag_of(name)} is {getattr(self, name)}, it should be {wanted}")

    @property
    def processes(self) -> int:
        """Over how many processes a batch is divided."""
        return self.devices * self.nodes

    def as_dict(self) -> dict[str, Any]:
        """Every option and its value, as a YAML file has them."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """The options that decide what comes out: two runs that agree on them are the same run."""
        return {
            name: value for name, value in asdict(self).items() if name not in _NOT_PART_OF_A_RUN
        }

    def dataset(self, split: str) -> ChosenDataset:
        """A split of the data set.

        Raises:
            ValueError: an unknown data set, one whose folder is not given, or a flag that it has no use for.
        """
        return chosen_dataset(asdict(self), split)
