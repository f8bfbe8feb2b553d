"""The public split files of the WSOL evaluation: ILSVRC, CUB and OpenImages, with boxes or masks."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsol_ext.data.base import (
    LocalizationDataset,
    Transform,
    WarnsOnce,
    have_same_proportions,
)
from wsol_ext.data.images import read_grey, resize_nearest
from wsol_ext.data.tables import (
    Box,
    Row,
    check_complete,
    check_pixels,
    noted,
    read_rows,
)

_T = TypeVar("_T")

__all__ = ["CubV2Dataset", "IlsvrcDataset", "OpenImagesDataset", "WsolMetadataDataset"]

_BOX_FORM, _MASK_FORM = "image id, x0, y0, x1, y1", "image id, mask file, ignore file"


class WsolMetadataDataset(LocalizationDataset):
    """A split of ILSVRC, CUB or OpenImages as the public WSOL evaluation defines it (Choe et al., CVPR 2020).

    `metadata_dir` holds `image_ids.txt`, `class_labels.txt` and, for a split to evaluate on, `image_sizes.txt` and
    `localization.txt`, which the training splits of ILSVRC and OpenImages come without, or with no byte in them. The
    ids of the first file, in its order, are the pictures; an id is also the picture's path below `image_root`. Where
    `image_sizes.txt` has a picture's size, that is its `size`, so that pictures stored smaller than they were annotated
    need no other boxes. One of other proportions gives a warning when it is read, once a data set. Pictures are read in
    stored pixels. Boxes are taken as they are: both corners are pixels of the object, counted from 0.

    Masks (OpenImages) become what the published evaluator makes of them: each file read as grey, resized to `mask_size`
    by nearest neighbour, an object where any instance is above 0.5, ignored (255) where the ignore file is and no
    object.

    Args:
        metadata_dir: the folder of these files, such as `metadata/ILSVRC/test`.
        image_root: the folder that the ids are paths below.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
        mask_root: the folder that mask files are paths below; None: `image_root`.
        mask_size: side of the masks in pixels.
        class_names: the classes' names; None: the name of the folder that holds a class's pictures and no other's, or
            else the label's number.

    Raises:
        FileNotFoundError: metadata_dir lacks one of the first two files, or has `localization.txt` alone of the others.
        AnnotationError: a malformed line, an unknown id, two lines that contradict each other, or a picture without a
            label or box, named by file and line; boxes that all lie between 0 and 1.
        ImageError: from `dataset[i]`: a missing or broken picture or mask file.

    Example::

        dataset = WsolMetadataDataset("metadata/CUB/test", "CUB_200_2011/images")
        dataset.has_boxes, len(dataset.class_names)  # True, 200
    """

    upright = False

    def __init__(
        self,
        metadata_dir: str | Path,
        image_root: str | Path,
        transform: Transform | None = None,
        mask_root: str | Path | None = None,
        mask_size: int = 224,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.metadata_dir, self.image_root = Path(metadata_dir), Path(image_root)
        self.mask_root = self.image_root if mask_root is None else Path(mask_root)
        self.mask_size = mask_size
        ids: dict[str, Row] = {}
        for row in read_rows(self.metadata_dir / "image_ids.txt", "image id", ","):
            with noted():
                if row.fields[0] in ids:
                    raise row.error(
                        f"{row.fields[0]} has a line already, at {ids[row.fields[0]].line}"
                    )
                ids[row.fields[0]] = row

        labels: dict[str, int] = {}
        for row in self._rows_of("class_labels.txt", "image id, label", ids):
            with noted():
                label = row.integer(1, "the label", below=1_000_000)  # there is a name for each
                if label < 0:
                    raise row.error(f"the label is {row.fields[1]}, it should not be negative")
                _set(labels, row, "label", label)
        check_complete(ids, labels, self.metadata_dir / "class_labels.txt")
        located = self._has("localization.txt")
        read_sizes = self._rows_of if located else self._rows_if_there  # boxes are in their frame
        self._sizes: dict[str, tuple[int, int]] = {}
        self._warns_of_size = WarnsOnce()
        for row in read_sizes("image_sizes.txt", "image id, width, height", ids):
            with noted():
                size = (row.integer(1, "the width"), row.integer(2, "the height"))
                if min(size) < 1:
                    raise row.error(f"the size is {size[0]} x {size[1]}, it should be positive")
                _set(self._sizes, row, "size", size)
        boxes: dict[str, list[Box]] = {}
        self._masks: dict[str, list[str]] = {}
        self._ignored: dict[str, str] = {}
        for row in self._rows_if_there("localization.txt", (_BOX_FORM, _MASK_FORM), ids):
            name = row.fields[0]
            if len(row.fields) == 5:
                with noted("box"):
                    boxes.setdefault(name, []).append(row.box(1))
            else:
                self._masks.setdefault(name, []).append(row.fields[1])
                if row.fields[2]:  # only an image's first line names its ignore file
                    self._ignored[name] = row.fields[2]
            if boxes and self._masks:
                raise row.error("boxes and masks in one file, it should hold one kind")
        if located:
            check_complete(ids, self._masks or boxes, self.metadata_dir / "localization.txt")
            check_pixels(
                self.metadata_dir / "localization.txt", chain.from_iterable(boxes.values())
            )

        names = [name for name in ids if name in labels]
        label_list = [labels[name] for name in names]
        if class_names is None:
            class_names = _names_from_folders(names, label_list)
        elif label_list and max(label_list) >= len(class_names):
            raise ValueError(
                f"WsolMetadataDataset: class_names has {len(class_names)} names, the labels go up to {max(label_list)}"
            )
        tables = (boxes.get(name, ()) for name in names) if boxes else None
        super().__init__(names, label_list, class_names, transform, tables, bool(self._masks))

    def image_path(self, index: int) -> Path:
        """The file of picture number `index`."""
        return self.image_root / self.image_names[index]

    def declared_size(self, index: int) -> tuple[int, int] | None:
        """The size in `image_sizes.txt`."""
        return self._sizes.get(self.image_names[index])

    def original_size(self, index: int, image: Image.Image) -> tuple[int, int]:
        """The size in `image_sizes.txt`, or the picture's own."""
        width, height = self._sizes.get(self.image_names[index], image.size)
        if not have_same_proportions((width, height), image.size):
            self._warns_of_size(
                f"{self.image_names[index]}: its size in {self.metadata_dir / 'image_sizes.txt'} is {width} x {height} "
                f"pixels, the picture has {image.width} x {image.height}: the boxes may lie elsewhere, as may those of "
                "others from here on"
            )
        return width, height

    def picture_size(self, index: int) -> tuple[int, int]:
        """The size in `image_sizes.txt`, for which no picture is needed, or the picture's own."""
        return self._sizes.get(self.image_names[index]) or super().picture_size(index)

    def mask_paths(self, index: int) -> list[Path]:
        """The files of the mask of picture number `index`: of each object, then what is ignored."""
        name = self.image_names[index]
        files = [*self._masks.get(name, ()), *filter(None, [self._ignored.get(name)])]
        return [self.mask_root / file for file in files]

    def load_mask(self, index: int) -> Tensor:
        """Mask of picture number `index`, (mask_size, mask_size) uint8: 1 object, 0 background, 255 ignored."""
        name = self.image_names[index]
        instances = [self._read_mask(file) for file in self._masks[name]]
        objects = np.any(instances, axis=0)
        mask = objects.astype(np.uint8)
        if name in self._ignored:
            mask[self._read_mask(self._ignored[name]) & ~objects] = 255
        return torch.from_numpy(mask)

    def _read_mask(self, file: str) -> np.ndarray:
        pixels = np.asarray(read_grey(self.mask_root / file))
        return resize_nearest(pixels, self.mask_size, self.mask_size) > 0.5

    def _rows_of(self, file: str, columns: str | Sequence[str], ids: dict[str, Row]) -> list[Row]:
        rows = []
        for row in read_rows(self.metadata_dir / file, columns, ","):
            with noted():
                if row.fields[0] not in ids:
                    raise row.error(
                        f"{row.fields[0]!r} is not in {self.metadata_dir / 'image_ids.txt'}"
                    )
                rows.append(row)
        return rows

    def _rows_if_there(
        self, file: str, columns: str | Sequence[str], ids: dict[str, Row]
    ) -> list[Row]:
        return self._rows_of(file, columns, ids) if self._has(file) else []

    def _has(self, file: str) -> bool:
        """Whether there is such a file and anything in it: what a split has not, is published as an empty file."""
        path = self.metadata_dir / file
        return path.exists() and path.stat().st_size > 0


class _Published(WsolMetadataDataset):
    """A data set where the scripts of the public WSOL evaluation's repository put it.

    Args:
        root: the repository's folder: `metadata/NAME/SPLIT` holds the lists, `dataset/NAME` the images.
        split: "train", "val" (its `train-fullsup`) or "test".
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
    """

    folder: ClassVar[str]

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val", "test"] = "train",
        transform: Transform | None = None,
    ) -> None:
        metadata, images = (Path(root, place, self.folder) for place in ("metadata", "dataset"))
        for folder, what in ((metadata, "the lists"), (images, "the images")):
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder}: no such folder; it should hold {what}")
        super().__init__(metadata / split, images, transform)


class CubV2Dataset(_Published):
    """CUB-200-2011 to train and test on, and the 1,000 pictures of CUBV2 to choose thresholds by, each with a box.

    As `WsolMetadataDataset`, in the folder of the public WSOL evaluation's repository (Choe et al., CVPR 2020) after
    its `prepare_cub.sh`.

    Example::

        CubV2Dataset("wsolevaluation", "val").image_names[0]
        # '001.Black_footed_Albatross/30107316117.jpg'
    """

    folder = "CUB"


class IlsvrcDataset(_Published):
    """ILSVRC 2012: its training images, those of ImageNetV2 with boxes to choose thresholds by, its validation to test.

    As `WsolMetadataDataset`, in the folder of the public WSOL evaluation's repository (Choe et al., CVPR 2020) after
    its `prepare_imagenet.sh`. `ClsLocDataset` reads the boxes as ILSVRC itself publishes them.
    """

    folder = "ILSVRC"


class OpenImagesDataset(_Published):
    """OpenImages30k: 100 classes, with masks in its val and test splits.

    As `WsolMetadataDataset`, in the folder of the public WSOL evaluation's repository (Choe et al., CVPR 2020) after
    its `prepare_openimages.sh`.
    """

    folder = "OpenImages"


def _set(table: dict[str, _T], row: Row, what: str, value: _T) -> None:
    """Enter what a line says of an image, which no other line may contradict."""
    name = row.fields[0]
    if table.setdefault(name, value) != value:
        raise row.error(f"the {what} of {name} is {value}, a line above says {table[name]}")


def _names_from_folders(names: Sequence[str], labels: Sequence[int]) -> list[str]:
    folders = [Path(name).parent.name for name in names]
    pairs = set(zip(labels, folders, strict=True))
    count = max(labels, default=-1) + 1
    if len(pairs) == len(set(labels)) == len(set(folders)) == count:
        return [folder for _, folder in sorted(pairs)]
    return [str(label) for label in range(count)]
