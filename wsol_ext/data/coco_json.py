"""COCO's JSON files."""

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsol_ext._names import some
from wsol_ext.data.base import Transform
from wsol_ext.data.listed import Listed, ListedDataset, NamedBox, boxes_of_main_class
from wsol_ext.data.splits import split_folders
from wsol_ext.data.tables import AnnotationError, box_of_coco, check_pixels, doubted, noted

__all__ = ["CocoDataset"]

_ROBOFLOW = "_annotations.coco.json"


class CocoDataset(ListedDataset):
    """COCO (Lin et al., ECCV 2014), or whatever is annotated in its form; here a picture has one class.

    The root is one of these, where SPLIT may have another usual spelling in the last one:

    - COCO's own folder: `annotations/instances_SPLIT2017.json`, or of another year, and the pictures in `SPLIT2017`, or
      in `images/SPLIT2017`;
    - a JSON file, which then serves every split: the pictures lie below `image_root`, or else beside the file;
    - a folder of `SPLIT/_annotations.coco.json` with the pictures beside it.

    Classes are all categories of the file, in the order of their ids. A picture's class is that of its largest box, and
    its boxes are those of that class; crowds are no objects. Pictures without any object are left out, with a warning.
    Boxes x, y, width, height, counted from 0, become x, y, x + width, y + height. Pictures are read as they are shown.

    Args:
        root: the folder, or the file.
        split: "train" or "val", or whatever the file's name has.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.
        image_root: the folder of the pictures; None: where the root says.
        one_class: whether to leave out pictures of several classes, with a warning.

    Raises:
        FileNotFoundError: root has no such file.
        AnnotationError: no JSON, or not of COCO's form: an image or annotation that lacks what it should have, two of
            one id, a size or a box that is none; named by file and place, such as `annotations[3]`; or boxes that all
            lie between 0 and 1.
        ImageError: from `dataset[i]`: a missing or broken picture file.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        image_root: str | Path | None = None,
        one_class: bool = False,
    ) -> None:
        path, folder = _find(Path(root), split)
        folder = folder if image_root is None else Path(image_root)
        content = _read(path)
        categories: dict[int, str] = {}
        for place, found in _entries(path, content, "categories"):
            with noted():
                number, name = _id(place, found, "id"), _text(place, found, "name")
                if number in categories:
                    raise AnnotationError(f"{place}.id is {number}, as of one before")
                categories[number] = name
        class_ids = sorted(categories)
        # Names are no keys: nothing keeps two categories from having the same.
        for name in [name for name, count in Counter(categories.values()).items() if count > 1]:
            numbers = [str(number) for number in class_ids if categories[number] == name]
            doubted(
                f"{path}: the categories of id {' and '.join(numbers)} are both called {name!r}"
            )
        label_of = {str(number): label for label, number in enumerate(class_ids)}
        images: dict[int, tuple[str, tuple[int, int] | None]] = {}
        files: dict[str, str] = {}
        for place, found in _entries(path, content, "images"):
            with noted():
                number, name = _id(place, found, "id"), _text(place, found, "file_name")
                if number in images:
                    raise AnnotationError(f"{place}.id is {number}, as of one before")
                if name in files:
                    raise AnnotationError(f"{place}.file_name is {name!r}, as {files[name]} has it")
                files[name] = place
                images[number] = name, None  # it stays, where its size is mistaken
                images[number] = name, _size(place, found)
        objects: defaultdict[int, list[NamedBox]] = defaultdict(list)
        for place, found in _entries(path, content, "annotations"):
            with noted("box"):
                image, category = _id(place, found, "image_id"), _id(place, found, "category_id")
                if image not in images:
                    raise AnnotationError(f"{place}.image_id is {image}, which no image has")
                if category not in categories:
                    raise AnnotationError(
                        f"{place}.category_id is {category}, which no category has"
                    )
                try:
                    box = box_of_coco(found)
                except ValueError as error:
                    raise AnnotationError(f"{place}.{error}") from None
                if box is not None:
                    objects[image].append(NamedBox(str(category), box))
        check_pixels(path, (one.box for boxes in objects.values() for one in boxes))
        pictures = []
        for number, (name, size) in images.items():
            main = boxes_of_main_class(objects[number], one_class)
            if main is not None:
                label, boxes = label_of[main[0]], main[1]
                pictures.append(Listed(folder / name, name, label, boxes, size))
        if len(pictures) < len(images):
            why = "one class of objects" if one_class else "an object"
            warnings.warn(
                f"{path}: {len(images) - len(pictures)} of {len(images)} images do not show {why}, left out",
                stacklevel=2,
            )
        super().__init__(pictures, [categories[number] for number in class_ids], transform)


def _find(root: Path, split: str) -> tuple[Path, Path]:
    """The JSON file of a split, and the folder of its pictures."""
    if root.is_file():
        return root, root.parent
    found = sorted((root / "annotations").glob(f"instances_{split}[0-9]*.json"))
    found += sorted((root / "annotations").glob(f"instances_{split}.json"))
    if len(found) > 1:
        names = some([path.name for path in found])
        raise FileNotFoundError(
            f"{root}: annotations has {names}, there should be one: give the file"
        )
    if found:
        name = found[0].stem.removeprefix("instances_")
        inner = root / "images" / name
        return found[0], inner if inner.is_dir() and not (root / name).is_dir() else root / name
    folder = split_folders(root, (split,)).get(split)
    if folder is not None and (folder / _ROBOFLOW).is_file():
        return folder / _ROBOFLOW, folder
    raise FileNotFoundError(
        f"{root}: has neither annotations/instances_{split}2017.json, of whatever year, nor {split}/{_ROBOFLOW}; or it "
        "should be a JSON file"
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise AnnotationError(
            f"{path}: is JSON of {type(content).__name__}, it should have images, categories and annotations"
        )
    return content


def _entries(
    path: Path, content: Mapping[str, Any], key: str
) -> list[tuple[str, Mapping[str, Any]]]:
    """The entries of a list with their places, without those that are none."""
    listed = content.get(key)
    if not isinstance(listed, list):
        raise AnnotationError(
            f"{path}: has no list {key!r}, it should have images, categories and annotations"
        )
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for number, found in enumerate(listed):
        place = f"{path}: {key}[{number}]"
        with noted():
            if not isinstance(found, dict):
                raise AnnotationError(f"{place} is {found!r}, it should be values by name")
            entries.append((place, found))
    return entries


def _id(place: str, found: Mapping[str, Any], key: str) -> int:
    value = found.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise AnnotationError(f"{place}.{key} is {value!r}, it should be a whole number")
    return value


def _text(place: str, found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or not value:
        raise AnnotationError(f"{place}.{key} is {value!r}, it should be a text")
    return value


def _size(place: str, found: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height, where the file says both."""
    for key in ("width", "height"):
        value = found.get(key)
        if value is None:
            continue
        if type(value) not in (int, float) or value % 1 != 0 or value < 1:  # NaN % 1 is NaN
            raise AnnotationError(
                f"{place}.{key} is {value!r}, it should be a whole number of pixels, at least 1"
            )
    width, height = found.get("width"), found.get("height")
    return None if width is None or height is None else (int(width), int(height))
