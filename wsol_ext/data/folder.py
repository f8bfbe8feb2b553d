"""A folder of class folders, with or without boxes: the way people keep their own pictures."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from wsol_ext._files import is_results_folder
from wsol_ext.data.base import LocalizationDataset, Transform
from wsol_ext.data.images import read_image
from wsol_ext.data.tables import AnnotationError, read_csv

__all__ = ["IMAGE_SUFFIXES", "FolderDataset", "ImageListDataset", "find_images"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")


class FolderDataset(LocalizationDataset):
    """Pictures in one folder a class, `root/CLASS/…/picture.jpg`, with their boxes in a CSV file if there are any.

    Classes are the folders of `root` in alphabetical order, pictures are found at any depth below. Names that start
    with a dot and files that are no pictures are passed over.

    The CSV file starts with the line `image,x0,y0,x1,y1`; a picture's name is its path below `root` with forward
    slashes, the box is in pixels of the picture, and a picture with several objects has several lines.

    Args:
        root: the folder.
        boxes: the CSV file, or None.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
        unboxed: with `boxes`, what becomes of pictures that the CSV file does not name: "error", or "drop" them with a
            warning that says how many.

    Raises:
        FileNotFoundError: there is no such folder or CSV file.
        AnnotationError: a malformed line, an unknown picture, a NaN or an inverted box, named by file and line;
            a class folder without pictures; pictures without a box where `unboxed` is "error".
        ValueError: another value of `unboxed`.
        ImageError: from `dataset[i]`: a broken picture file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for k in range(2):
        ...         Path(root, "cats").mkdir(exist_ok=True)
        ...         Image.new("RGB", (8, 6)).save(f"{root}/cats/{k}.png")
        ...     dataset = FolderDataset(root)
        ...     sample = dataset[1]
        >>> dataset.class_names, dataset.image_names, sample["size"].tolist()
        (['cats'], ['cats/0.png', 'cats/1.png'], [8, 6])
    """

    def __init__(
        self,
        root: str | Path,
        boxes: str | Path | None = None,
        transform: Transform | None = None,
        unboxed: Literal["error", "drop"] = "error",
    ) -> None:
        if unboxed not in ("error", "drop"):
            raise ValueError(
                f"FolderDataset: unboxed is {unboxed!r}, it should be 'error' or 'drop'"
            )
        self.root = Path(root)
        class_names = _class_folders(self.root)
        names, labels = [], []
        for label, class_name in enumerate(class_names):
            found = find_images(self.root / class_name)
            if not found:
                raise AnnotationError(f"{self.root / class_name}: the class folder has no image")
            names += [path.relative_to(self.root).as_posix() for path in found]
            labels += [label] * len(found)
        tables: list[Tensor] | None = None
        if boxes is not None:
            table = _read_boxes(Path(boxes), self.root, set(names))
            missing = [name for name in names if name not in table]
            if missing:
                share = f"{len(missing)} of {len(names)} images, such as {missing[0]}"
                if unboxed == "error":
                    raise AnnotationError(
                        f"{boxes}: has no box for {share}; unboxed='drop' leaves them out"
                    )
                warnings.warn(f"{boxes}: has no box for {share}, left out", stacklevel=2)
            kept = [k for k, name in enumerate(names) if name in table]
            names, labels = [names[k] for k in kept], [labels[k] for k in kept]
            tables = [torch.tensor(table[name]) for name in names]
        super().__init__(names, labels, class_names, transform, tables)

    def load_image(self, index: int) -> Image.Image:
        """Picture number `index`, RGB."""
        return read_image(self.root / self.image_names[index])


class ImageListDataset(LocalizationDataset):
    """Picture files without labels, to localize objects in: every label is -1, and there are no classes.

    Args:
        paths: the files, or one folder whose pictures at any depth are taken.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.

    Raises:
        ValueError: no picture at all.
        ImageError: from `dataset[i]`: a missing or broken picture file.

    Example:
        >>> ImageListDataset(["a.jpg", "b.jpg"]).image_names
        ['a.jpg', 'b.jpg']
    """

    def __init__(
        self, paths: Sequence[str | Path] | str | Path, transform: Transform | None = None
    ) -> None:
        if isinstance(paths, str | Path):
            folder = Path(paths)
            files: Sequence[str | Path] = find_images(folder) if folder.is_dir() else [folder]
            if not files:
                raise ValueError(f"{folder}: the folder has no image")
        else:
            files = paths
        super().__init__([str(path) for path in files], [-1] * len(files), [], transform)

    def load_image(self, index: int) -> Image.Image:
        """Picture number `index`, RGB."""
        return read_image(self.image_names[index])


def find_images(folder: Path) -> list[Path]:
    """The picture files at any depth below a folder, sorted, without hidden ones and those that `wsol` drew."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    above = {parent for path in found for parent in path.relative_to(folder).parents}
    drawn = {parent for parent in above if is_results_folder(folder / parent)}
    return [path for path in found if drawn.isdisjoint(path.relative_to(folder).parents)]


def _class_folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder; it should hold one folder of images a class"
        )
    names = sorted(
        path.name
        for path in root.iterdir()
        if path.is_dir() and not path.name.startswith(".") and not is_results_folder(path)
    )
    if not names:
        raise AnnotationError(
            f"{root}: has no class folders; it should hold one folder of images a class"
        )
    return names


def _read_boxes(path: Path, root: Path, known: set[str]) -> dict[str, list[tuple[float, ...]]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should be a CSV file of boxes")
    table: dict[str, list[tuple[float, ...]]] = {}
    for row in read_csv(path, ("image", "x0", "y0", "x1", "y1")):
        if row.fields[0] not in known:
            raise row.error(f"there is no image {row.fields[0]!r} below {root}")
        table.setdefault(row.fields[0], []).append(row.box(1))
    return table
