"""Data sets by name, for the command line."""

from pathlib import Path
from typing import Any

from wsol_ext.data.base import LocalizationDataset, Transform
from wsol_ext.data.cub import CubDataset
from wsol_ext.data.folder import FolderDataset
from wsol_ext.data.synthetic import SyntheticDataset
from wsol_ext.data.wsol_metadata import WsolMetadataDataset

DATASETS = ("cub", "folder", "synthetic", "wsol")
"""The names that `open_dataset` knows."""


def open_dataset(
    name: str,
    root: str | Path | None = None,
    split: str = "train",
    transform: Transform | None = None,
    **options: Any,
) -> LocalizationDataset:
    """Open a data set by name.

    | name | root | options |
    | --- | --- | --- |
    | `cub` | the folder `CUB_200_2011` | |
    | `folder` | a folder of class folders, or of `train`, `val`, `test` that hold them | of `FolderDataset` |
    | `synthetic` | none | of `SyntheticDataset` |
    | `wsol` | a data set's folder of split files, such as `metadata/CUB` | of `WsolMetadataDataset`: `image_root` |

    A folder of class folders that is not divided serves every split. Where it is divided, the names in a CSV file of
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
        raise ValueError(
            f"open_dataset: name is {name!r}, it should be one of {', '.join(DATASETS)}"
        )
    if name == "synthetic":
        if root is not None:
            raise ValueError(
                f"open_dataset: root is {str(root)!r}, the synthetic data set has none"
            )
        return SyntheticDataset(split=split, transform=transform, **options)
    if root is None:
        raise ValueError(
            f"open_dataset: root is None, it should be the folder of the {name} data set"
        )
    if name == "cub":
        if split not in ("train", "test"):
            raise ValueError(
                f"open_dataset: split is {split!r}, it should be 'train' or 'test' for cub"
            )
        return CubDataset(root, "train" if split == "train" else "test", transform, **options)
    folder = _split_folder(Path(root), split)
    if name == "folder":
        return FolderDataset(folder, transform=transform, **options)
    if "image_root" not in options:
        raise ValueError(
            "open_dataset: image_root is missing, it should be the folder of the images"
        )
    return WsolMetadataDataset(folder, transform=transform, **options)


def is_training_folder(name: str, root: str | Path | None, split: str) -> bool:
    """Whether a split's images are those of training: a folder that is not divided serves every split.

    Args:
        name: as for `open_dataset`, as are the others.
        root: where the data set is.
        split: the split.
    """
    if root is None or name not in ("folder", "wsol"):
        return False
    root = Path(root)
    own, training = (
        folder if (folder := root / each).is_dir() else root for each in (split, "train")
    )
    return own.resolve() == training.resolve()


def _split_folder(root: Path, split: str) -> Path:
    if (root / split).is_dir():
        return root / split
    others = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    if others:  # else a split would be taken for a class, or training images for test images
        raise ValueError(f"open_dataset: {root} has no split {split!r}, it has {', '.join(others)}")
    return root
