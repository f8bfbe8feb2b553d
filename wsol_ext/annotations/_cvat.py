"""CVAT for images 1.1, and the labels that a task has to have for it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

from wsol_ext.annotations._pictures import About, Picture, shown, xml_text


def write(
    paths: Sequence[Path], pictures: Iterable[Picture], classes: Sequence[str], about: About
) -> None:
    """Write `annotations.xml`, and `labels.json` for a task's raw labels: each has an attribute for the score."""
    (folder,) = paths
    with open(folder / "annotations.xml", "wb") as file:
        xml = _Xml(file)
        xml.startDocument()
        with xml.inside("annotations"):
            xml.leaf("version", "1.1")
            with xml.inside("meta"), xml.inside("task"):
                xml.leaf("name", about.model)
                xml.leaf("mode", "annotation")
                with xml.inside("labels"):
                    for name in classes:
                        _label(xml, name)
            for picture in shown(pictures):
                _image(xml, picture, classes)
    score = {
        "name": "score",
        "mutable": False,
        "input_type": "text",
        "default_value": "",
        "values": [""],
    }
    labels = [{"name": xml_text(name), "attributes": [score]} for name in classes]
    (folder / "labels.json").write_text(json.dumps(labels, indent=2) + "\n", encoding="utf-8")


class _Xml(XMLGenerator):
    """Indented XML, as it comes."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, "utf-8", short_empty_elements=True)
        self._depth = 0

    @contextmanager
    def inside(self, tag: str, **attributes: object) -> Iterator[None]:
        """An element of what comes inside."""
        self._start(tag, attributes)
        self._depth += 1
        yield
        self._depth -= 1
        self._indent()
        self.endElement(tag)

    def leaf(self, tag: str, text: object, **attributes: object) -> None:
        """An element of a text."""
        self._start(tag, attributes)
        self.characters(xml_text(str(text)))
        self.endElement(tag)

    def _start(self, tag: str, attributes: Mapping[str, object]) -> None:
        if self._depth:
            self._indent()
        self.startElement(tag, AttributesImpl({k: xml_text(str(v)) for k, v in attributes.items()}))

    def _indent(self) -> None:
        self.ignorableWhitespace("\n" + "  " * self._depth)


def _label(xml: _Xml, name: str) -> None:
    with xml.inside("label"):
        xml.leaf("name", name)
        with xml.inside("attributes"), xml.inside("attribute"):
            xml.leaf("name", "score")
            xml.leaf("mutable", "False")
            xml.leaf("input_type", "text")
            xml.leaf("default_value", "")
            xml.leaf("values", "")


def _image(xml: _Xml, picture: Picture, classes: Sequence[str]) -> None:
    width, height = picture.size
    with xml.inside("image", id=picture.id - 1, name=picture.name, width=width, height=height):
        for one in picture.objects:
            x, y, box_width, box_height = one.box
            corners = {"xtl": x, "ytl": y, "xbr": x + box_width, "ybr": y + box_height}
            with xml.inside(
                "box",
                label=classes[one.category],
                source="auto",
                occluded=0,
                **{name: f"{value:.2f}" for name, value in corners.items()},
                z_order=0,
            ):
                xml.leaf("attribute", one.score, name="score")
