"""A folder of class folders, with or without boxes: the way people keep their own pictures."""

import warnings
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from wsol_ext._files import is_results_folder
from wsol_ext._names import Spellings, printable, some
from wsol_ext.data.base import LocalizationDataset, Transform
from wsol_ext.data.box_tables import read_box_table
from wsol_ext.data.finding import Found, find_images, is_image, no_image, passed_over, search
from wsol_ext.data.splits import split_of
from wsol_ext.data.tables import AnnotationError, Box, check_pixels, noted

__all__ = ["FolderDataset", "ImageListDataset"]


class FolderDataset(LocalizationDataset):
    """Pictures in one folder a class, `root/CLASS/…/picture.jpg`, with their boxes in a file if there are any.

    Classes are the folders of `root` in alphabetical order, pictures are found at any depth below, and in folders that
    are linked there; a file without a suffix is one if its content is. Names that start with a dot, other files, and
    folders that `wsol` made are passed over; pictures that cannot be read here, that have another file's suffix or lie
    beside the class folders are too, with one warning.

    The CSV file starts with the line `image,x0,y0,x1,y1`; a picture's name is its path below `root` with forward
    slashes, the box is in pixels of the picture as it is shown (turned by its EXIF orientation, as samples are), and a
    picture with several objects has several lines. The `boxes.csv` and `dataset.json` of `wsol localize` and `wsol
    discover` are read too, with a warning, and other COCO data sets.

    Args:
        root: the folder.
        boxes: the CSV or JSON file, or None.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
        unboxed: with `boxes`, what becomes of pictures that the file has no box of: "error", or "drop" them with a
            warning that says how many.

    Raises:
        FileNotFoundError: there is no such folder or file.
        AnnotationError: a malformed line, an unknown picture, a NaN or an inverted box, named by file and line; boxes
            that all lie between 0 and 1; a class folder without pictures, or named like a split (`Train`); pictures
            without a box where `unboxed` is "error".
        ValueError: another value of `unboxed`.
        ImageError: from `dataset[i]`: a broken picture file.

    Example:
        >>> import tempfile
        >>> from PIL import Image
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
        folders, beside = _class_folders(self.root)
        others = Found()
        files: list[str] = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            found = search(folder)
            if not found.images:
                raise AnnotationError(
                    f"{printable(folder)}: the class folder has no image"
                    + "; ".join(["", *filter(None, [found.news(folder)])])
                )
            files += [path.relative_to(self.root).as_posix() for path in found.images]
            labels += [label] * len(found.images)
            others.add(found)
        news = [passed_over(beside, self.root, "in no class folder")] if beside else []
        news += filter(None, [others.news(self.root)])
        if news:
            warnings.warn(f"{printable(self.root)}: {'; '.join(news)}", stacklevel=2)
        names = [printable(file) for file in files]
        tables: list[list[Box]] | None = None
        if boxes is not None:
            table = _read_boxes(Path(boxes), self.root, names)
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
            files = [files[k] for k in kept]
            tables = [table[name] for name in names]
        class_names = [printable(folder.name) for folder in folders]
        super().__init__(names, labels, class_names, transform, tables)
        self._files = files

    def image_path(self, index: int) -> Path:
        """The file of picture number `index`."""
        return self.root / self._files[index]


class ImageListDataset(LocalizationDataset):
    """Picture files without labels, to localize objects in: every label is -1, and there are no classes.

    They are read, and their sizes given, as they are shown: turned by their EXIF orientation.

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
                raise ValueError(no_image(folder))
        else:
            files = paths
        self._files = [str(path) for path in files]
        names = [printable(file) for file in self._files]
        super().__init__(names, [-1] * len(files), [], transform)

    def image_path(self, index: int) -> Path:
        """The file of picture number `index`."""
        return Path(self._files[index])


def _class_folders(root: Path) -> tuple[list[Path], list[Path]]:
    """The class folders in alphabetical order, and pictures that lie beside them."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder; it should hold one folder of images a class"
        )
    shown = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    folders = [path for path in shown if path.is_dir() and not is_results_folder(path)]
    beside = [path for path in shown if not path.is_dir() and is_image(path)]
    if not folders:
        raise AnnotationError(
            f"{root}: has no class folders; it should hold one folder of images a class"
            + (f", and has images: {some([path.name for path in beside])}" if beside else "")
        )
    splits = [path.name for path in folders if split_of(path.name)]
    if splits:
        raise AnnotationError(
            f"{root}: {some(splits)} would be taken for classes, and look like splits: choose one of them, "
            "as open_dataset does, or rename what is a class"
        )
    return folders, beside


def _read_boxes(path: Path, root: Path, names: Sequence[str]) -> dict[str, list[Box]]:
    """The boxes of the images that have some, by their names."""
    table: dict[str, list[Box]] = {}
    known, boxes = Spellings(names), read_box_table(path)
    for row in boxes:
        with noted():
            name = known.find(row.image)
            if name is None:
                raise row.error(f"there is no image {row.image!r} below {root}")
            if row.box is not None:
                table.setdefault(name, []).append(row.box)
    check_pixels(path, chain.from_iterable(table.values()))
    if boxes.is_found:
        warnings.warn(
            f"{printable(path)}: a program found these boxes: numbers say how far it is agreed with, not what is right",
            stacklevel=3,
        )
    return table
