"""FiftyOne: its FiftyOneImageDetectionDataset, with a list of where the pictures lie in place of copies."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wsol_ext._names import printable
from wsol_ext.annotations._pictures import About, Members, Picture, clipped, shown, write_json


def write(
    paths: Sequence[Path], pictures: Iterable[Picture], classes: Sequence[str], about: About
) -> None:
    """Write `labels.json` and `data.json`.

    Pictures are called by their number: FiftyOne drops suffixes, so that by names `a.jpg` and `a.png` would be one. A
    box is in shares of the picture's sides.
    """
    (folder,) = paths
    where = ((_key(p), printable(os.path.abspath(p.path))) for p in shown(pictures))
    write_json(folder / "data.json", Members(where))
    labels = ((_key(p), _detections(p, about)) for p in shown(pictures))
    write_json(folder / "labels.json", {"classes": list(classes), "labels": Members(labels)})


def _key(picture: Picture) -> str:
    return f"{picture.id:07d}"


def _detections(picture: Picture, about: About) -> list[dict[str, Any]]:
    found = []
    for one in picture.objects:
        x0, y0, x1, y1 = clipped(picture, one.box)
        found.append(
            {
                "label": one.category,
                "bounding_box": [round(v, 6) for v in (x0, y0, x1 - x0, y1 - y0)],
                "confidence": one.score,
                "attributes": {"model": about.model, **one.apart},
            }
        )
    return found
