"""What a training run is told: every field is a flag of `wsol train` and a key of its YAML file."""

# ruff: noqa: RUF009  (`_option` makes a dataclass field)

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wsol_ext._devices import check_device_name
from wsol_ext._files import missing_paths
from wsol_ext._names import flag_of, unknown
from wsol_ext._numbers import require_number, require_whole
from wsol_ext._problems import Problems, check_folder
from wsol_ext._seeds import check_seed
from wsol_ext.data.factory import ChosenDataset, chosen_dataset, data_help, flag_help, missing_data

__all__ = [
    "USUAL_BATCH_SIZE",
    "Augmentation",
    "Optimizer",
    "Precision",
    "Schedule",
    "TrainingConfig",
    "check_files",
    "identity_of",
]

Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["constant", "steps", "cosine"]
Augmentation = Literal["none", "standard", "erasing", "autoaugment", "randaugment", "strong"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

_NUMBERS: Mapping[Any, Callable[[str, Any], None]] = {int: require_whole, float: require_number}
# Where and how fast a run computes, not what: a run may be continued under other values of these.
_NOT_PART_OF_A_RUN = ("out", "workers", "device", "progress", "backbone_weights")


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
        None,
        "model",
        "start from another model's weights instead: a run's folder, a .safetensors file, or a checkpoint that a "
        "method's authors released",
    )
    published_heads: int | None = _option(
        None,
        "model",
        "attention heads of the authors' checkpoint that --init-from is; by default its width / 64",
    )
    backbone_weights: str | None = _option(
        None, "model", "a file with the backbone's weights (timm's, Facebook's, Hugging Face's)"
    )
    backbone_sha256: str = _option("", "model", "the SHA-256 that this file must have; filled in")
    freeze_backbone: bool | None = _option(
        None, "model", "train what the method adds to it alone; by default as the method does"
    )
    keep_classifier: bool = _option(
        False, "model", "start from the pretrained weights' classifier too: of the same classes"
    )
    img_size: int = _option(0, "model", "side of the network's input, pixels; 0: the method's own")
    train_img_size: int = _option(
        0, "model", "side of its input while training, pixels; 0: the method's share of --img-size"
    )
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
    resize: int = _option(
        0, "data", "standard: side that images are resized to before the crop; 0: 8/7 of the crop's"
    )
    cache_tokens: str | None = _option(
        None, "data", "folder that keeps what a frozen backbone makes of the images"
    )
    cached_views: int = _option(
        1, "data", "with --cache-tokens: augmented views of each image, one of which an epoch sees"
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
    drop_last: bool = _option(
        True, "optimization", "leave out an epoch's last batch where it is incomplete"
    )
    optimizer: Optimizer = _option("adamw", "optimization", "the optimizer")
    lr: float = _option(5e-5, "optimization", "the highest learning rate")
    weight_decay: float = _option(5e-4, "optimization", "weight decay")
    selective_decay: bool = _option(
        False, "optimization", "no weight decay on biases, norms, embeddings and tokens"
    )
    decay_tokens: bool = _option(
        False, "optimization", "selective decay spares biases and norms alone"
    )
    schedule: Schedule = _option("steps", "optimization", "how the learning rate falls")
    milestones: list[int] = _option(
        [], "optimization", "steps: after these epochs, times --lr-factor"
    )
    stage2_milestones: list[int] = _option(
        [], "optimization", "those of a method's second stage; none: --milestones again"
    )
    lr_factor: float = _option(0.1, "optimization", "steps: the factor at a milestone")
    min_lr: float = _option(0.0, "optimization", "cosine: the learning rate it ends at")
    warmup_epochs: float = _option(0.0, "optimization", "epochs of linear warm-up")
    label_smoothing: float = _option(
        0.0, "optimization", "share of a label given to all classes; 0 in a second stage"
    )
    clip_grad: float = _option(0.0, "optimization", "clip the gradient's norm; 0: never")
    validate_every: int = _option(
        0, "optimization", "epochs between measurements of test accuracy; 0: never"
    )
    select: str | None = _option(
        None,
        "optimization",
        "split whose boxes choose the epoch that is kept, such as val; by default the last epoch is",
    )
    patience: int = _option(
        0, "optimization", "with --select: stop so many epochs after the best; 0: never"
    )
    precision: Precision = _option("32-true", "hardware", "number format of the computation")
    device: str = _option("auto", "hardware", "auto, cpu, cuda, cuda:1, …", also=["accelerator"])
    devices: int = _option(1, "hardware", "how many of them")
    nodes: int = _option(1, "hardware", "how many machines")
    progress: bool = _option(
        True, "hardware", "show bars, or lines in a log, and a line for each epoch"
    )

    def __post_init__(self) -> None:
        problems, no_numbers = Problems(), False
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal and value not in get_args(kind):
                problems.add(unknown(flag_of(name), value, get_args(kind)))
            if kind in _NUMBERS:
                try:
                    _NUMBERS[kind](flag_of(name), value)
                except TypeError as error:
                    no_numbers = True
                    problems.add(str(error))
        if no_numbers:
            problems.raise_any()  # what is no number has no range

        def require(name: str, holds: bool, wanted: str) -> None:
            if not holds:
                problems.add(f"{flag_of(name)} is {getattr(self, name)}, it should be {wanted}")

        for name in ("epochs", "devices", "nodes", "cached_views"):
            require(name, getattr(self, name) >= 1, "at least 1")
        with problems.collected():
            check_seed(self.seed)
        whole = ("img_size", "batch_size", "workers", "validate_every", "stage2_epochs")
        sizes = ("train_img_size", "resize", "patience")
        for name in (*whole, *sizes, "weight_decay", "min_lr", "clip_grad"):
            require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("lr", "lr_factor"):
            require(name, 0 < getattr(self, name) < math.inf, "a positive number")
        require("min_lr", not self.min_lr > self.lr > 0, f"at most the learning rate, {self.lr}")
        wanted = "numbers of epochs, each above the one before"
        for name in ("milestones", "stage2_milestones"):
            rising = [0, *getattr(self, name)]
            require(name, all(a < b for a, b in pairwise(rising)), wanted)
        require("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")
        begins_pretrained = self.pretrained and self.init_from is None
        wanted = "false where --pretrained is false or --init-from is given"
        require("keep_classifier", begins_pretrained or not self.keep_classifier, wanted)
        shortest = min(self.epochs, self.stage2_epochs or self.epochs)
        wanted = f"0 to the epochs, {shortest}"
        require("warmup_epochs", 0 <= self.warmup_epochs <= max(shortest, 0), wanted)
        divides = self.processes < 1 or self.batch_size % self.processes == 0
        require("batch_size", divides, "a multiple of the devices")
        wanted = "64 hexadecimal digits"
        digest = re.fullmatch("([0-9a-f]{64})?", self.backbone_sha256)
        require("backbone_sha256", digest is not None, wanted)
        several = self.cached_views > 1
        if several and self.cache_tokens is None:
            problems.add(
                f"--cached-views is {self.cached_views}, without --cache-tokens it should be 1"
            )
        elif several and self.augmentation == "none":
            problems.add(
                f"--cached-views is {self.cached_views}, it should be 1: --augmentation none gives one view"
            )
        if self.published_heads is not None:
            require("published_heads", self.published_heads >= 1, "at least 1")
            if self.init_from is None:
                problems.add("--published-heads is for --init-from, which is not given")
        if self.init_from is not None and self.backbone_weights is not None:
            problems.add(
                "--backbone-weights and --init-from both give the backbone's weights: one of them"
            )
        if self.patience and self.select is None:
            problems.add(f"--patience is {self.patience}, without --select it should be 0")
        if self.select == "train":
            problems.add(
                "--select is train, it should be a split that is not trained on, such as val"
            )
        if self.resize and self.augmentation != "standard":
            problems.add("--resize is for --augmentation standard")
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
        return identity_of(asdict(self))

    def dataset(self, split: str) -> ChosenDataset:
        """A split of the data set.

        Raises:
            ValueError: an unknown data set, one whose folder is not given, or a flag that it has no use for.
        """
        return chosen_dataset(asdict(self), split)


def identity_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The `identity` of a configuration, of all its values by name."""
    deciding = {name: value for name, value in values.items() if name not in _NOT_PART_OF_A_RUN}
    # Whether, not where.
    return {**deciding, "cache_tokens": values.get("cache_tokens") is not None}


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
    missing = missing_data(values)
    missing += missing_paths({"--backbone-weights": values["backbone_weights"]})
    if not (Path(values["out"]).expanduser() / "checkpoints" / "last.ckpt").exists():
        # A run that is continued has no need of it.
        missing += missing_paths({"--init-from": values["init_from"]})
    for each in missing:
        problems.add(each)
    if values.get("cache_tokens") is not None:
        check_folder("--cache-tokens", Path(values["cache_tokens"]).expanduser(), problems)
    problems.raise_any()
