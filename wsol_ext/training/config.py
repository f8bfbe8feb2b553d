"""What a training run is told: every field is a flag of `wsol train` and a key of its YAML file."""

# ruff: noqa: RUF009  (`_option` makes a dataclass field)

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wsol_ext._devices import check_device_name
from wsol_ext._files import missing_paths
from wsol_ext._names import flag_of, unknown
from wsol_ext._problems import Problems
from wsol_ext.data.factory import DATASETS, ChosenDataset, chosen_dataset, data_help, flag_help

__all__ = [
    "USUAL_BATCH_SIZE",
    "Augmentation",
    "Optimizer",
    "Precision",
    "Schedule",
    "TrainingConfig",
    "check_files",
]

Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["constant", "steps", "cosine"]
Augmentation = Literal["none", "standard", "erasing", "autoaugment", "strong"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

# Where and how fast a run computes, not what: a run may be continued under other values of these.
_NOT_PART_OF_A_RUN = ("out", "workers", "device", "progress")


# The batch where none is asked for: the published programs', if there are as many images.
USUAL_BATCH_SIZE = 128


def _option(
    default: Any, group: str, text: str | Callable[[], str], also: Sequence[str] = ()
) -> Any:
    """A dataclass field with what the command line's help says of it, or a function that knows, and other names."""
    metadata = {"group": group, "help": text, "also": also}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class TrainingConfig:
    """The configuration of a training run.

    Raises:
        ValueError: values outside their ranges; the message has a line for each, which names the option.
    """

    out: str = _option(
        "runs/train", "run", "the run folder: resumed where it holds an unfinished run"
    )
    seed: int = _option(0, "run", "seed of everything random")
    model: str = _option("tscam", "model", "the localization method")
    backbone: str = _option(
        "deit_small_patch16_224", "model", "a timm transformer (see wsol info --backbones)"
    )
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
    skip_broken: bool = _option(
        False, "data", "leave out training images that cannot be read, instead of ending"
    )
    workers: int = _option(2, "data", "processes that read images; 0: none beside this one")
    epochs: int = _option(60, "optimization", "passes over the training images")
    stage2_epochs: int = _option(
        0, "optimization", "passes of a method's second stage; 0: as many as --epochs"
    )
    batch_size: int = _option(
        0,
        "optimization",
        f"images a step, summed over devices; 0: {USUAL_BATCH_SIZE}, or all where there are fewer",
    )
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
    device: str = _option("auto", "hardware", "auto, cpu, cuda, cuda:1, …", also=["accelerator"])
    devices: int = _option(1, "hardware", "how many of them")
    nodes: int = _option(1, "hardware", "how many machines")
    progress: bool = _option(True, "hardware", "show progress")

    def __post_init__(self) -> None:
        problems = Problems()
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal and value not in get_args(kind):
                problems.add(unknown(flag_of(name), value, get_args(kind)))

        def require(name: str, holds: bool, wanted: str) -> None:
            if not holds:
                problems.add(f"{flag_of(name)} is {getattr(self, name)}, it should be {wanted}")

        for name in ("epochs", "devices", "nodes"):
            require(name, getattr(self, name) >= 1, "at least 1")
        whole = ("seed", "img_size", "batch_size", "workers", "validate_every", "stage2_epochs")
        for name in (*whole, "weight_decay", "min_lr", "clip_grad"):
            require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("lr", "lr_factor"):
            require(name, 0 < getattr(self, name) < math.inf, "a positive number")
        require("min_lr", not self.min_lr > self.lr > 0, f"at most the learning rate, {self.lr}")
        rising = [0, *self.milestones]
        wanted = "numbers of epochs, each above the one before"
        require("milestones", all(a < b for a, b in pairwise(rising)), wanted)
        shortest = min(self.epochs, self.stage2_epochs or self.epochs)
        wanted = f"0 to the epochs, {shortest}"
        require("warmup_epochs", 0 <= self.warmup_epochs <= max(shortest, 0), wanted)
        divides = self.processes < 1 or self.batch_size % self.processes == 0
        require("batch_size", divides, "a multiple of the devices")
        with problems.collected():
            check_device_name(self.device)
        one_of_several = ":" in self.device and self.devices > 1
        require("devices", not one_of_several, f"1 where --device is one of them, {self.device}")
        problems.raise_any()

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


def check_files(values: Mapping[str, Any]) -> None:
    """Refuse data sets and files that are not there, as far as that is known without opening them.

    Args:
        values: by name, the options of a `TrainingConfig`.

    Raises:
        ValueError: all that is missing or mistaken, a line each.
    """
    problems = Problems()
    with problems.collected():
        chosen_dataset(values, "train")
    names = []
    if entry := DATASETS.get(values["data"]):
        names += ["root", *entry.flags] if entry.needs_root else list(entry.flags)
    if not (Path(values["out"]).expanduser() / "checkpoints" / "last.ckpt").exists():
        names.append("init_from")  # a run that is continued has no need of it
    for missing in missing_paths({flag_of(name): values[name] for name in names}):
        problems.add(missing)
    problems.raise_any()
