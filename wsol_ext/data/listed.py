"""Data sets whose annotations are read whole as they are opened: a picture a record."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wsol_ext._names import printable
from wsol_ext._paths import Paths
from wsol_ext.data.base import LocalizationDataset, Transform
from wsol_ext.data.finding import as_stored
from wsol_ext.data.tables import Box

__all__ = ["Listed", "ListedDataset", "NamedBox", "boxes_of_main_class"]


class Listed(NamedTuple):
    """A picture as a data set's annotations have it.

    Attributes:
        path: its file.
        name: what reports and errors call it.
        label: its class, counted from 0.
        boxes: of its objects.
        size: width and height, where the annotations say.
    """

    path: Path
    name: str
    label: int
    boxes: Sequence[Box] = ()
    size: tuple[int, int] | None = None


class ListedDataset(LocalizationDataset):
    """Pictures of a list.

    Args:
        pictures: the list.
        class_names: each class's name.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
        has_boxes: whether the annotations have boxes at all.

    Raises:
        AnnotationError: no picture.
    """

    def __init__(
        self,
        pictures: Sequence[Listed],
        class_names: Sequence[str],
        transform: Transform | None = None,
        has_boxes: bool = True,
    ) -> None:
        super().__init__(
            [printable(picture.name) for picture in pictures],
            [picture.label for picture in pictures],
            class_names,
            transform,
            (picture.boxes for picture in pictures) if has_boxes else None,
        )
        self._paths = Paths(picture.path for picture in pictures)
        self._sizes = [picture.size for picture in pictures]

    def image_path(self, index: int) -> Path:
        """The file of picture number `index`."""
        return as_stored(self._paths[index])

    def declared_size(self, index: int) -> tuple[int, int] | None:
        """Width and height of picture number `index`, where the annotations say."""
        return self._sizes[index]


class NamedBox(NamedTuple):
    """A box and its class."""

    name: str
    box: Box


def boxes_of_main_class(
    objects: Sequence[NamedBox], one_class: bool
) -> tuple[str, list[Box]] | None:
    """Of a picture that may show several classes, that of the largest box, and the boxes of that class.

    Args:
        objects: the picture's boxes.
        one_class: whether to refuse a picture of several classes.

    Returns:
        None where there is no object, or `one_class` refuses it.

    Example:
        >>> objects = [NamedBox("cat", (0, 0, 2, 2)), NamedBox("dog", (0, 0, 9, 9)), NamedBox("cat", (5, 5, 6, 7))]
        >>> boxes_of_main_class(objects, one_class=False)
        ('dog', [(0, 0, 9, 9)])
        >>> boxes_of_main_class(objects[::2], one_class=True)
        ('cat', [(0, 0, 2, 2), (5, 5, 6, 7)])
    """
    if not objects or (one_class and len({one.name for one in objects}) > 1):
        return None
    main = max(objects, key=lambda one: (one.box[2] - one.box[0]) * (one.box[3] - one.box[1])).name
    return main, [one.box for one in objects if one.name == main]
