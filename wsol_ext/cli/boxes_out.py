"""What `wsol localize` says of its objects and of pictures that have none, and of the formats of boxes, which `wsol
discover` writes too."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsol_ext._boxes_folder import BoxesFolder
from wsol_ext._files import write_json
from wsol_ext._names import unknown
from wsol_ext._paths import Paths
from wsol_ext._problems import Problems
from wsol_ext.annotations import FORMATS, PLACINGS, About, Picture, write
from wsol_ext.cli.arguments import Parser
from wsol_ext.rejection import stored_level

if TYPE_CHECKING:
    from wsol_ext.coco import Counts

__all__ = [
    "REJECTED",
    "Pictures",
    "StoredPictures",
    "about",
    "add_formats",
    "add_objects",
    "check_formats",
    "check_objects",
    "level_of",
    "of_request",
    "write_formats",
    "write_pictures",
]

REJECTED = "rejected.json"


def add_objects(parser: Parser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--objects",
        type=int | str,
        default=1,
        help="how many objects a class has in an image at most, or all: the connected parts of the map above the "
        "threshold, scored by the class's probability times the part's mean; of 1, it is the largest part, scored by "
        "the probability alone",
    )
    parser.add_argument(
        "--min-score", type=float, default=0.0, help="leave out objects with a lower score"
    )
    parser.add_argument(
        "--nms",
        type=float | None,
        default=None,
        help="leave out an object whose IoU with one of a higher score, of whatever class, is above this",
    )
    parser.add_argument(
        "--reject",
        type=float | str | None,
        default=None,
        help="leave out images whose best class has a lower probability: a number in [0, 1]; calibrated: what "
        "--calibrate stored for the run",
    )
    parser.add_argument(
        "--calibrate",
        type=bool | float,
        nargs="?",
        const=True,
        default=False,
        help="write no boxes, but find the level for --reject on images whose --labels are known (by default folder; "
        "`nothing` for one with none of the classes) and store it beside the run: the one that separates right from "
        "wrong best; or, given a number, the lowest at which that share of what is kept is right",
    )


def add_formats(parser: Parser) -> None:
    """Add the flags of the formats."""
    parser.add_argument(
        "--format",
        nargs="+",
        default=["coco"],
        help=f"what else to write the boxes in, beside coco: {', '.join(FORMATS)} (docs/labelling_tools.md)",
    )
    parser.add_argument(
        "--pictures",
        type=str,
        default="link",
        help="how yolo and voc have the images beside the boxes: link (symbolic), copy or none",
    )
    parser.add_argument(
        "--url",
        type=str,
        default=About.url,
        help="what labelstudio puts before an image's name to find it",
    )


def check_objects(options: Any, problems: Problems) -> None:
    """Collect what is wrong with the flags."""
    objects = options.objects
    if objects != "all" and not (isinstance(objects, int) and objects >= 1):
        problems.add(f"--objects is {objects}, it should be all or at least 1")
    for flag, value in (("--min-score", options.min_score), ("--nms", options.nms)):
        if value is not None and not 0 <= value <= 1:
            problems.add(f"{flag} is {value}, it should be in [0, 1]")
    if not isinstance(options.calibrate, bool) and not 0 < options.calibrate <= 1:
        problems.add(
            f"--calibrate is {options.calibrate}, it should be in (0, 1], or without a value"
        )
    if isinstance(options.reject, str):
        _check_stored_level(options, problems)
    elif options.reject is not None and not 0 <= options.reject <= 1:
        problems.add(f"--reject is {options.reject}, it should be in [0, 1]")


def check_formats(options: Any, problems: Problems) -> None:
    """Collect what is wrong with the flags of the formats."""
    for name in options.format:
        if name not in FORMATS:
            problems.add(unknown("--format", name, FORMATS))
    if options.pictures not in PLACINGS:
        problems.add(unknown("--pictures", options.pictures, PLACINGS))


def _check_stored_level(options: Any, problems: Problems) -> None:
    if options.reject != "calibrated":
        problems.add(unknown("--reject", options.reject, ["a number in [0, 1]", "calibrated"]))
    elif options.checkpoint is not None and Path(options.checkpoint).expanduser().exists():
        with problems.collected():
            if stored_level(options.checkpoint) is None:
                problems.add(
                    f"--reject is calibrated, but no level is stored for {options.checkpoint}: `wsol localize RUN "
                    "IMAGES --calibrate`, of the folder of its run, stores it"
                )


def level_of(options: Any, digest: str) -> float | None:
    """The level for `--reject`.

    Raises:
        ValueError: what is stored is another model's.
    """
    if options.reject != "calibrated":
        return options.reject
    stored = stored_level(options.checkpoint)
    if stored is None or stored.checkpoint != digest:
        raise ValueError(
            f"--reject is calibrated, but the level stored for {options.checkpoint} was chosen for another model: "
            "calibrate this one"
        )
    return stored.level


def of_request(options: Any, level: float | None) -> dict[str, Any]:
    """What of the flags makes other results; None where a result of before they were there is the same."""
    return {
        "objects": None if options.objects == 1 else options.objects,
        "min_score": options.min_score or None,
        "nms": options.nms,
        "reject": level,
    }


def about(options: Any, model: str) -> About:
    """What the formats say beside the boxes, which a model of that name found."""
    return About(model, options.pictures, options.url)


@dataclass(frozen=True)
class Pictures:
    """What was found in each image, read from the journals each time that it is gone through."""

    folder: BoxesFolder
    paths: Paths
    root: Path

    def __iter__(self) -> Iterator[Picture]:
        from wsol_ext.coco import file_name

        for index, found in self.folder.found(range(len(self.paths))):
            path = self.paths[index]
            yield Picture.of(index, file_name(path, self.root), path, found)


@dataclass(frozen=True)
class StoredPictures:
    """What was found in each image of a finished folder, in the order of their ids: `dataset.json`, in memory."""

    folder: BoxesFolder
    paths: Paths

    def __iter__(self) -> Iterator[Picture]:
        dataset = json.loads(self.folder.dataset.read_text(encoding="utf-8"))
        boxes: dict[int, list[list[Any]]] = {}
        for one in dataset["annotations"]:
            apart = [one[name] for name in ("class_probability", "map_mean") if name in one]
            box = [one["category_id"] - 1, one["score"], *one["bbox"], *apart]
            boxes.setdefault(one["image_id"], []).append(box)
        for image in dataset["images"]:
            index = image["id"] - 1
            found = {
                "size": [image["width"], image["height"]],
                "boxes": boxes.get(image["id"], []),
            }
            yield Picture.of(index, image["file_name"], self.paths[index], found)


def write_pictures(
    folder: BoxesFolder,
    pictures: Pictures,
    names: Sequence[str],
    options: Any,
    about: About,
) -> "Counts":
    """Write what was found, in all formats; `boxes.json`, which tells that all is there, comes last."""
    from wsol_ext.coco import write_coco

    level = folder.request.get("reject")
    if level is not None:
        rejected = (
            {
                "id": picture.id,
                "file_name": picture.name,
                "category": names[picture.rejected[0]],
                "score": picture.rejected[1],
            }
            for picture in pictures
            if picture.rejected is not None
        )
        write_json(folder.path / REJECTED, {"level": level, "images": rejected})
    write_formats(folder, pictures, names, options, about)
    return write_coco(folder.path, names, pictures, about)


def write_formats(
    folder: BoxesFolder,
    pictures: Pictures | StoredPictures,
    names: Sequence[str],
    options: Any,
    about: About,
) -> None:
    """Write the formats that are asked for; of a finished folder those that are not there."""
    made = []
    for name in dict.fromkeys(options.format):
        paths = [folder.path / path for path in FORMATS[name].names]
        if name != "coco" and not (folder.finished and all(path.exists() for path in paths)):
            made += write(name, folder.path, pictures, names, about)
    if any(path.is_dir() for path in made):
        os.sync()  # their files are too many to flush each
    for path in made:
        print(f"wrote {path}")
