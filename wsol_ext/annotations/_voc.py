"""Pascal VOC: an XML file a picture."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from wsol_ext._names import some
from wsol_ext.annotations._pictures import (
    About,
    Object,
    Picture,
    free_name,
    place,
    shown,
    xml_text,
)


def write(
    paths: Sequence[Path], pictures: Iterable[Picture], classes: Sequence[str], about: About
) -> None:
    """Write `Annotations/`, `JPEGImages/`, `ImageSets/Main/train.txt`, and `labelmap.txt`, CVAT's list of the classes.

    A line of that list is a class, `:` parts its fields, and `#` starts a comment: in names of classes these become
    `_`, in all files alike, with a warning.

    Corners are whole pixels counted from 1, both inside the box, as VOC's kit has them. White space in names becomes
    `_`, since some readers of `train.txt` take what is behind it for something else.
    """
    (folder,) = paths
    annotations, sets = folder / "Annotations", folder / "ImageSets" / "Main"
    annotations.mkdir()
    sets.mkdir(parents=True)
    classes = _plain_names(classes)
    labels = "".join(f"{name}:::\n" for name in classes)
    (folder / "labelmap.txt").write_text(
        f"# label:color_rgb:parts:actions\n{labels}", encoding="utf-8"
    )
    with open(sets / "train.txt", "w", encoding="utf-8") as listed:
        for picture in shown(pictures):
            plain = replace(picture, name="_".join(picture.name.split()))
            name = free_name(plain, annotations, ".xml", {})
            place(picture, folder / "JPEGImages" / name, about.pictures)
            path = annotations / name.with_suffix(".xml")
            path.parent.mkdir(parents=True, exist_ok=True)
            tree = ElementTree.ElementTree(_annotation(picture, name.as_posix(), classes))
            ElementTree.indent(tree)
            tree.write(path, encoding="utf-8")
            listed.write(f"{name.with_suffix('').as_posix()}\n")


def _plain_names(classes: Sequence[str]) -> list[str]:
    """Names of classes as `labelmap.txt` can hold them, no two alike that were not."""
    plain: dict[str, str] = {}
    for name in classes:
        text = "".join(c if c.isprintable() and c != ":" else "_" for c in xml_text(name)).strip()
        text = f"_{text[1:]}" if text.startswith("#") else text or "_"
        taken = {*plain.values(), *classes} - {name}
        while text in taken:
            text += "_"
        plain[name] = text
    changed = [f"{name!r} is {text!r}" for name, text in plain.items() if name != text]
    if changed:
        warnings.warn(f"voc: names of classes that it cannot hold: {some(changed)}", stacklevel=2)
    return [plain[name] for name in classes]


def _annotation(picture: Picture, name: str, classes: Sequence[str]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", name)
    size = ElementTree.SubElement(root, "size")
    for side, value in zip(("width", "height", "depth"), (*picture.size, 3), strict=True):
        _add(size, side, value)
    _add(root, "segmented", 0)
    for one in picture.objects:
        found = ElementTree.SubElement(root, "object")
        _add(found, "name", classes[one.category])
        _add(found, "pose", "Unspecified")
        _add(found, "truncated", 0)
        _add(found, "difficult", 0)
        corners = ElementTree.SubElement(found, "bndbox")
        for corner, value in zip(
            ("xmin", "ymin", "xmax", "ymax"), _pixels(one, picture), strict=True
        ):
            _add(corners, corner, value)
        _add(found, "score", one.score)  # which VOC does not know, and its readers pass over
    return root


def _pixels(one: Object, picture: Picture) -> tuple[int, ...]:
    """The first and the last pixel that the box reaches into, from 1."""
    x, y, width, height = one.box
    first = [min(math.floor(v) + 1, side) for v, side in zip((x, y), picture.size, strict=True)]
    ends = (math.ceil(x + width), math.ceil(y + height))
    last = [min(max(v, low), side) for v, low, side in zip(ends, first, picture.size, strict=True)]
    return *first, *last


def _add(parent: ElementTree.Element, tag: str, value: object) -> None:
    ElementTree.SubElement(parent, tag).text = xml_text(str(value))
