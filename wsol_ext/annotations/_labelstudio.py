"""Label Studio: tasks with predictions, and the labelling interface that they are for."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from wsol_ext.annotations._pictures import (
    About,
    Object,
    Picture,
    clipped,
    shown,
    write_json,
    xml_text,
)


def write(
    paths: Sequence[Path], pictures: Iterable[Picture], classes: Sequence[str], about: About
) -> None:
    """Write `tasks.json` and `interface.xml`.

    A box is in per cent of the picture's sides. Its score stands at the region, where the editor shows it, and the
    best of a picture at its prediction, which tasks are sorted by.
    """
    (folder,) = paths
    tasks = (_task(picture, classes, about) for picture in shown(pictures))
    write_json(folder / "tasks.json", tasks)
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    labels = ElementTree.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in classes:
        ElementTree.SubElement(labels, "Label", value=xml_text(name))
    tree = ElementTree.ElementTree(view)
    ElementTree.indent(tree)
    tree.write(folder / "interface.xml", encoding="utf-8")


def _task(picture: Picture, classes: Sequence[str], about: About) -> dict[str, Any]:
    predictions = []
    if picture.objects:
        regions = [_region(picture, k, one, classes) for k, one in enumerate(picture.objects)]
        best = max(one.score for one in picture.objects)
        predictions = [{"model_version": about.model, "score": best, "result": regions}]
    url = about.url + quote(picture.name)
    return {"data": {"image": url}, "predictions": predictions}


def _region(picture: Picture, number: int, one: Object, classes: Sequence[str]) -> dict[str, Any]:
    x0, y0, x1, y1 = (100 * v for v in clipped(picture, one.box))
    place = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    return {
        "id": f"{picture.id}-{number}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": picture.size[0],
        "original_height": picture.size[1],
        "image_rotation": 0,
        "score": one.score,
        "value": {
            **{name: round(value, 4) for name, value in place.items()},
            "rotation": 0,
            "rectanglelabels": [xml_text(classes[one.category])],
        },
    }
