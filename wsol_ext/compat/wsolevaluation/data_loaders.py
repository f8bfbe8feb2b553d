"""What evaluation takes of the public evaluator's `data_loaders.py`: a split's files, and what they hold."""

import os
from collections import defaultdict
from pathlib import Path

from wsol_ext.data.tables import read_rows

__all__ = [
    "Metadata",
    "configure_metadata",
    "get_bounding_boxes",
    "get_class_labels",
    "get_image_ids",
    "get_image_sizes",
    "get_mask_paths",
]


class Metadata(dict[str, str]):
    """The paths of a split's files, by name and as attributes."""

    def __getattr__(self, name: str) -> str:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: str) -> None:
        self[name] = value


def configure_metadata(metadata_root: str | Path) -> Metadata:
    """The paths of a split's files.

    Args:
        metadata_root: the split's folder, such as `metadata/CUB/test`.

    Example:
        >>> configure_metadata("metadata/CUB/test").image_sizes
        'metadata/CUB/test/image_sizes.txt'
    """
    names = ("image_ids", "image_ids_proxy", "class_labels", "image_sizes", "localization")
    return Metadata({name: os.path.join(metadata_root, f"{name}.txt") for name in names})


def get_image_ids(metadata: Metadata, proxy: bool = False) -> list[str]:
    """The image ids of a split in their order; with `proxy`, those of the small set to train on for a try."""
    path = Path(metadata["image_ids_proxy" if proxy else "image_ids"])
    return [row.fields[0] for row in read_rows(path, "image id", ",")]


def get_class_labels(metadata: Metadata) -> dict[str, int]:
    """Each image's class."""
    rows = read_rows(Path(metadata.class_labels), "image id, label", ",")
    return {row.fields[0]: row.integer(1, "the label") for row in rows}


def get_bounding_boxes(metadata: Metadata) -> dict[str, list[tuple[int, int, int, int]]]:
    """Each image's boxes x0, y0, x1, y1 in pixels of the original."""
    boxes: defaultdict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
    for row in read_rows(Path(metadata.localization), "image id, x0, y0, x1, y1", ","):
        x0, y0, x1, y1 = (
            row.integer(1 + k, name) for k, name in enumerate(("x0", "y0", "x1", "y1"))
        )
        boxes[row.fields[0]].append((x0, y0, x1, y1))
    return dict(boxes)


def get_mask_paths(metadata: Metadata) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Each image's mask files, one an instance, and its file of what is to be ignored."""
    masks: defaultdict[str, list[str]] = defaultdict(list)
    ignored: dict[str, str] = {}
    for row in read_rows(Path(metadata.localization), "image id, mask file, ignore file", ","):
        name, mask, ignore = row.fields
        if name in masks and ignore:
            raise row.error(f"{name} has an ignore file on its first line, it should have one only")
        masks[name].append(mask)
        ignored.setdefault(name, ignore)
    return dict(masks), ignored


def get_image_sizes(metadata: Metadata) -> dict[str, tuple[int, int]]:
    """Each image's width and height."""
    rows = read_rows(Path(metadata.image_sizes), "image id, width, height", ",")
    return {
        row.fields[0]: (row.integer(1, "the width"), row.integer(2, "the height")) for row in rows
    }
