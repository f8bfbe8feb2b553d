"""Opening a data set by its name, from Python and from the command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsol_ext._files import is_results_folder, missing_paths
from wsol_ext._names import flag_of, nearest, unknown
from wsol_ext._options import check_options
from wsol_ext._problems import Problems
from wsol_ext.data.entries import DATASETS, DatasetEntry, DatasetFlag, DatasetSource
from wsol_ext.data.splits import split_folders

if TYPE_CHECKING:
    from wsol_ext.data.base import LocalizationDataset, Transform

__all__ = [
    "FLAGS",
    "ChosenDataset",
    "check_split_name",
    "chosen_dataset",
    "data_help",
    "evaluation_flags",
    "flag_help",
    "missing_data",
    "open_dataset",
    "register_dataset",
]


FLAGS = tuple(dict.fromkeys(flag for entry in DATASETS.values() for flag in entry.flags))
"""The flags of the command line that some data sets only have a use for: each is a field of `TrainingConfig`."""


def register_dataset(
    name: str,
    opens: "Callable[..., LocalizationDataset] | str",
    *,
    needs_root: bool = True,
    splits: tuple[str, ...] = ("train", "val", "test"),
    split_folders: bool = False,
    flags: Mapping[str, DatasetFlag] | None = None,
    source: DatasetSource | None = None,
) -> None:
    """Make a data set known to `open_dataset`, to training and to the command line.

    A package that other programs install does so in a module that it names as an entry point of the group
    `wsol_ext.plugins`; `wsol` imports those before it reads its arguments.

    Args:
        name: what the data set is called: the value of `--data`.
        opens: its class, called as `opens(root, split=split, transform=transform, **options)`, where options are those
            of `--data-options` and of its flags; or the class's place as `package.module:Class`, imported on first use.
        needs_root: whether there is a root; else the class is called without.
        splits: the splits that the class knows.
        split_folders: whether root holds a folder for each split, named as the split in any case, or `training`,
            `valid`, `validation`, `testing`. The class is then called with that folder, and without `split`; a root
            that holds none of the folders `splits` is undivided, and serves every split.
        flags: by argument of the class, the flag of the command line that gives it, out of `FLAGS`.
        source: what `wsol data list` says of it.

    Raises:
        ValueError: another data set has that name, or a flag that the command line does not have.

    Example:
        >>> from wsol_ext.data import SyntheticDataset
        >>> register_dataset("canaries", SyntheticDataset, needs_root=False)
        >>> len(open_dataset("canaries", length=3))
        3
        >>> del DATASETS["canaries"]
    """
    if name in DATASETS:
        raise ValueError(f"register_dataset: there is a data set {name!r} already")
    for flag in flags or {}:
        if flag not in FLAGS:
            raise ValueError(f"register_dataset: {unknown('flags', flag, FLAGS)}")
    DATASETS[name] = DatasetEntry(
        opens, needs_root, splits, split_folders, dict(flags or {}), source
    )


def open_dataset(
    name: str,
    root: str | Path | None = None,
    split: str = "train",
    transform: "Transform | None" = None,
    **options: Any,
) -> "LocalizationDataset":
    """Open a data set by name.

    docs/datasets.md and `wsol data list` have where each comes from, and what its root should hold; the options are
    those of its class, such as `CubDataset`.

    A folder of class folders that is not divided serves every split. Splits are known in any case and by their usual
    spellings: `Train`, `training`, `valid`, `validation`, `testing`. Where it is divided, the names in a CSV file of
    boxes start below the split's folder.

    Args:
        name: one of `DATASETS`.
        root: where the data set is.
        split: "train", "val" or "test", as the data set has it.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
        options: what else the data set's class takes.

    Returns:
        The data set.

    Raises:
        ValueError: an unknown name, no root where one is needed or one where none is, or what the class raises.
        TypeError: an option that the class does not take.

    Example:
        >>> dataset = open_dataset("synthetic", split="test", length=10)
        >>> len(dataset), dataset.has_boxes
        (10, True)
    """
    if name not in DATASETS:
        raise ValueError(f"open_dataset: {unknown('name', name, DATASETS)}")
    entry = DATASETS[name]
    if root is not None and not entry.needs_root:
        raise ValueError(f"open_dataset: root is {str(root)!r}, the {name} data set has none")
    if root is None and entry.needs_root:
        raise ValueError(
            f"open_dataset: root is None, it should be the folder of the {name} data set"
        )
    for argument, flag in entry.flags.items():
        if flag.required and not flag.evaluation and argument not in options:
            raise ValueError(f"open_dataset: {argument} is missing, it should be {flag.help}")
    if root is not None and entry.split_folders:
        folder = _split_folder(Path(root), split, entry.splits)
        return entry.open(folder, transform=transform, **options)
    if split not in entry.splits:
        splits = " or ".join(map(repr, entry.splits))
        raise ValueError(f"open_dataset: split is {split!r}, it should be {splits} for {name}")
    place = [] if root is None else [root]
    return entry.open(*place, split=split, transform=transform, **options)


def _split_folder(root: Path, split: str, splits: tuple[str, ...]) -> Path:
    if _is_split(root / split):
        return root / split
    folders = split_folders(root, splits)
    if folders and split not in folders:
        # Else a split would be taken for a class, or training images for test images.
        others = ", ".join(path.name for path in folders.values())
        raise ValueError(f"{root} has no split {split!r}, it has {others}")
    return folders.get(split, root)


@dataclass(frozen=True)
class ChosenDataset:
    """A split of a data set, as flags of the command line choose it.

    Attributes:
        name: one of `DATASETS`.
        root: where it is.
        split: the split.
        options: what else its class takes.
    """

    name: str
    root: str | None
    split: str
    options: Mapping[str, Any]

    def open(self, transform: "Transform | None" = None) -> "LocalizationDataset":
        """Open it.

        Raises:
            ValueError: `--data-options` has one that the data set does not take; or as `open_dataset`.
        """
        self.check_options()
        try:
            return open_dataset(self.name, self.root, self.split, transform, **self.options)
        except TypeError as error:
            raise ValueError(f"--data-options do not suit --data {self.name}: {error}") from error

    def check_options(self) -> None:
        """Refuse options that the data set's class does not take, or not of such a type: it is imported.

        Raises:
            ValueError: all of them, one a line.
        """
        taken = DATASETS[self.name].options()
        if taken is not None:
            check_options(f"--data-options: the {self.name} data set", self.options, taken)

    @property
    def is_of_training(self) -> bool:
        """Whether its images are those of training."""
        return self.has_images_of("train")

    def has_images_of(self, split: str) -> bool:
        """Whether its images are those of a split: a folder that is not divided, or a file, serves every one."""
        if split == self.split:
            return True
        entry = DATASETS[self.name]
        if self.root is not None and Path(self.root).is_file():
            return True
        if self.root is None or not entry.split_folders:
            return False
        own, other = (
            _split_folder(Path(self.root), each, (each,)).resolve() for each in (self.split, split)
        )
        return own == other


def chosen_dataset(
    values: Mapping[str, Any],
    split: str,
    evaluation: bool = False,
    option: str = "--split",
    asked: bool = False,
) -> ChosenDataset:
    """The data set that flags choose, those that training and evaluation share.

    Args:
        values: by name, those of `data`, `root`, `data_options` and `FLAGS`; None, or missing, where one is not given.
        split: the split.
        evaluation: whether to take the flags that only evaluation passes on, and look at the split.
        option: what the split was given as, for errors.
        asked: whether to look at the split for another reason: somebody named it.

    Raises:
        ValueError: an unknown data set or split, a path that is not given, or a flag that it has no use for; all of
            them, one a line.
    """
    name, root = values["data"], values.get("root")
    if name not in DATASETS:
        raise ValueError(unknown("--data", name, DATASETS))
    entry, problems = DATASETS[name], Problems()
    if root is None and entry.needs_root:
        problems.add(f"--root is missing, it should be the folder of the {name} data set")
    if root is not None and not entry.needs_root:
        problems.add(f"--root is {str(root)!r}, the {name} data set has none")
    options: dict[str, Any] = {}
    for argument in FLAGS:
        path, flag = values.get(argument), entry.flags.get(argument)
        if flag is None and path is not None:
            takers = " or ".join(_takers(argument))
            problems.add(f"{flag_of(argument)} is for --data {takers}, --data is {name}")
        if flag is not None and path is not None and (evaluation or not flag.evaluation):
            options |= {**flag.along, argument: str(Path(path).expanduser())}
    options |= values.get("data_options") or {}
    for argument, flag in entry.flags.items():
        if flag.required and (evaluation or not flag.evaluation) and argument not in options:
            problems.add(f"{flag_of(argument)} is missing, it should be {flag.help}")
    root = root and str(Path(root).expanduser())
    if evaluation or asked:  # training has no --split
        with problems.collected():
            _check_split(entry, root, split, option)
    problems.raise_any()
    return ChosenDataset(name, root, split, options)


def missing_data(values: Mapping[str, Any]) -> list[str]:
    """A sentence for each path to a data set's files that leads to nothing.

    Args:
        values: as `chosen_dataset` takes them. Of a known data set, the paths that it has a use for are looked at.
    """
    entry = DATASETS.get(values.get("data") or "")
    given = {**values, **(values.get("data_options") or {})}
    names = ["root"] if entry is None or entry.needs_root else []
    names += FLAGS if entry is None else entry.flags
    paths = {flag_of(name): given.get(name) for name in names}
    return missing_paths({flag: path for flag, path in paths.items() if isinstance(path, str)})


def check_split_name(split: str, root: str | None) -> None:
    """Refuse a split whose name is a misspelt one, where the data set is not known yet.

    Raises:
        ValueError: it is called nearly as one that every data set may have, and is no folder of root.
    """
    known = DatasetEntry.splits
    is_folder = root is not None and Path(root, split).expanduser().is_dir()
    if split not in known and not is_folder and nearest(split, known):
        raise ValueError(unknown("--split", split, known))


def _check_split(entry: DatasetEntry, root: str | None, split: str, option: str) -> None:
    if root is None or not entry.split_folders:
        if split not in entry.splits:
            raise ValueError(unknown(option, split, entry.splits))
        return
    # An undivided folder serves whatever training and evaluation ask for, but no misspelt split.
    known = dict.fromkeys((*entry.splits, *DatasetEntry.splits))
    if split not in known and not _is_split(Path(root, split)):
        raise ValueError(unknown(option, split, known))
    _split_folder(Path(root), split, entry.splits)


def _is_split(folder: Path) -> bool:
    return folder.is_dir() and not is_results_folder(folder)


def evaluation_flags(name: str | None) -> list[str]:
    """Which of a data set's flags only evaluation passes on; none of an unknown one."""
    flags = DATASETS[name].flags if name in DATASETS else {}
    return [argument for argument, flag in flags.items() if flag.evaluation]


def data_help() -> str:
    """What the command line's help says of `--data`."""
    return ", ".join(DATASETS)


def flag_help(argument: str) -> str:
    """What the command line's help says of one of `FLAGS`: whose it is and what it leads to."""
    return "; ".join(f"{name}: {DATASETS[name].flags[argument].help}" for name in _takers(argument))


def _takers(argument: str) -> list[str]:
    return [name for name, entry in DATASETS.items() if argument in entry.flags]
