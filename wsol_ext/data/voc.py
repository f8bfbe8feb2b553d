"""Pascal VOC, and its XML files, which other data sets have too."""

import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from wsol_ext.data.base import Transform
from wsol_ext.data.images import is_like_image
from wsol_ext.data.listed import Listed, ListedDataset, NamedBox, boxes_of_main_class
from wsol_ext.data.tables import AnnotationError, Box, check_box, noted, read_rows

__all__ = ["VOC_CLASSES", "VocAnnotation", "VocDataset", "VocObject", "read_voc_xml"]

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""The twenty classes of Pascal VOC."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """An object of a VOC XML file: its class, the four numbers as they stand there, and whether it is hard to see."""

    name: str
    corners: Box
    difficult: bool


class VocAnnotation(NamedTuple):
    """What a VOC XML file says: its objects, and where it says them, the picture's size and its file's suffix."""

    objects: list[VocObject]
    size: tuple[int, int] | None
    suffix: str


def read_voc_xml(path: Path) -> VocAnnotation:
    """Read a VOC XML file.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: it is no XML, or an object lacks its name or box, or the box is none; the file is named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should be a picture's annotation as XML")
    content = path.read_bytes()
    if b"<!ENTITY" in content.replace(b"\0", b""):  # in UTF-16 too
        raise AnnotationError(
            f"{path}: declares entities, which may unpack to any size and no annotation has"
        )
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise AnnotationError(f"{path}: is no XML: {error}") from error
    objects = []
    for number, found in enumerate(root.iter("object"), 1):
        place = f"{path}: object {number}"
        with noted("box"):
            name = (found.findtext("name") or "").strip()
            if not name:
                raise AnnotationError(f"{place} has no name, it should have one")
            corners = _corners(place, found.find("bndbox"))
            difficult = (found.findtext("difficult") or "0").strip() not in ("0", "")
            objects.append(VocObject(name, corners, difficult))
    sides = [_whole(root.findtext(f"size/{side}")) for side in ("width", "height")]
    size = (sides[0], sides[1]) if min(sides) > 0 else None  # some have zeros there
    name = (root.findtext("filename") or "").strip()  # some have none, or only its stem
    suffix = PurePosixPath(name).suffix if is_like_image(name) else ""
    return VocAnnotation(objects, size, suffix)


def _corners(place: str, found: ElementTree.Element | None) -> Box:
    texts = [None if found is None else found.findtext(corner) for corner in _CORNERS]
    try:
        x0, y0, x1, y1 = (float(text or "nan") for text in texts)
    except ValueError:
        x0 = y0 = x1 = y1 = float("nan")
    if not all(abs(value) < float("inf") for value in (x0, y0, x1, y1)):
        given = ", ".join(f"{c} {t}" for c, t in zip(_CORNERS, texts, strict=True))
        raise AnnotationError(
            f"{place}: its box has {given}; bndbox should have four finite numbers"
        )
    return check_box(place, (x0, y0, x1, y1))


def _whole(text: str | None) -> int:
    try:
        return int(float(text or 0))
    except (ValueError, OverflowError):
        return 0


class VocDataset(ListedDataset):
    """Pascal VOC (Everingham et al., IJCV 2010), or whatever is written in its form; here a picture has one class.

    The root holds `ImageSets/Main/SPLIT.txt`, a picture's name a line, `JPEGImages/NAME.jpg`, or of the suffix that the
    annotation's `filename` has, and `Annotations/NAME.xml`. A picture's class is that of its largest box, and its boxes
    are those of that class. Objects marked as difficult count where a picture has no other. Pictures without any object
    are left out, with a warning.

    Corners are pixels of the object, counted from 1: the box is xmin - 1, ymin - 1, xmax, ymax, from the left edge of
    its first pixel to the right edge of its last.

    Args:
        root: the folder of a year, such as `VOCdevkit/VOC2012`.
        split: "train", "val", "trainval" or "test": a file of `ImageSets/Main`.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
        one_class: whether to leave out pictures of several classes, with a warning.
        with_val: whether "train" is "trainval".
        class_names: the classes; None: those of VOC, or where others occur, those of all files of `Annotations` in
            alphabetical order.

    Raises:
        FileNotFoundError: root lacks the list, or an annotation that it names.
        AnnotationError: a name that is listed twice, XML that is none, an object without a name or box, or a class that
            is none of `class_names`; named by file.
        ImageError: from `dataset[i]`: a missing or broken picture file.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        one_class: bool = False,
        with_val: bool = False,
        class_names: list[str] | None = None,
    ) -> None:
        root = Path(root)
        years = sorted(path.name for path in root.glob("VOC20*") if path.is_dir())
        if years:
            raise FileNotFoundError(
                f"{root}: holds {', '.join(years)}; the folder should be one of them"
            )
        name_of_list = "trainval" if split == "train" and with_val else split
        listed = root / "ImageSets" / "Main" / f"{name_of_list}.txt"
        names: dict[str, int] = {}
        for row in read_rows(listed, "image name"):
            with noted():
                name = row.fields[0]
                if name in names:
                    raise row.error(f"{name} has a line already, at {names[name]}")
                names[name] = row.line
        found: dict[str, VocAnnotation] = {}
        for name in names:
            with noted():
                found[name] = read_voc_xml(root / "Annotations" / f"{name}.xml")
        if class_names is None:
            occurring = {one.name for each in found.values() for one in each.objects}
            own = occurring <= set(VOC_CLASSES)
            class_names = list(VOC_CLASSES) if own else _all_classes(root / "Annotations")
        label_of = {name: label for label, name in enumerate(class_names)}
        pictures = []
        for name, annotation in found.items():
            main = boxes_of_main_class(_shown(annotation.objects), one_class)
            if main is None:
                continue
            with noted():
                if main[0] not in label_of:
                    raise AnnotationError(
                        f"{root / 'Annotations' / name}.xml: the class {main[0]!r} is none of class_names"
                    )
                file = name + (annotation.suffix or ".jpg")
                path = root / "JPEGImages" / file
                pictures.append(Listed(path, file, label_of[main[0]], main[1], annotation.size))
        if len(pictures) < len(found):
            why = "one class of objects" if one_class else "an object"
            warnings.warn(
                f"{listed}: {len(found) - len(pictures)} of {len(found)} images do not show {why}, left out",
                stacklevel=2,
            )
        super().__init__(pictures, class_names, transform)


def _shown(objects: list[VocObject]) -> list[NamedBox]:
    plain = [one for one in objects if not one.difficult] or objects
    return [
        NamedBox(one.name, (one.corners[0] - 1, one.corners[1] - 1, one.corners[2], one.corners[3]))
        for one in plain
    ]


def _all_classes(annotations: Path) -> list[str]:
    """The classes in all files of a folder, so that splits agree on them."""

    def classes() -> Iterable[str]:
        for path in annotations.rglob("*.xml"):
            with noted():
                yield from (one.name for one in read_voc_xml(path).objects)

    return sorted(set(classes()))
