"""From score maps that are there already to boxes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wsol_ext import ops
from wsol_ext._files import write_csv, write_json
from wsol_ext._names import printable, some
from wsol_ext.data.finding import find_images
from wsol_ext.data.images import shown_size
from wsol_ext.data.score_maps import MAP_SUFFIXES, ScoreMapError, ScoreMaps, map_id, read_score_map
from wsol_ext.localize import Threshold, boxes_of_maps, maps_as_cut
from wsol_ext.metrics import EVALUATED

__all__ = [
    "MapBoxes",
    "MapContours",
    "NamedMap",
    "boxes_of_map",
    "boxes_of_map_files",
    "list_maps",
    "write_map_boxes",
]

_CORNERS = ("x0", "y0", "x1", "y1")

MapContours = Literal["largest", "most_pixels", "all"]
"""Whose boxes: as of `wsol_ext.ops.extract_boxes`."""


@dataclass
class NamedMap:
    """A file of a score map, and the image that it is of.

    Attributes:
        path: the file.
        image: the image's name, or where no image is known the file's path without its suffix.
        picture: the image's file, if one is known.
        error: why it is of no image, where images are known.
    """

    path: Path
    image: str
    picture: Path | None = None
    error: str | None = None


@dataclass
class MapBoxes:
    """What came of one map.

    Attributes:
        image: the image's name.
        size: its width and height in pixels; the map's own where no image is known.
        boxes: by threshold (k, 4) float32 x0, y0, x1, y1 in pixels of the image.
        error: why there are none.
    """

    image: str
    size: tuple[int, int] = (0, 0)
    boxes: Mapping[Threshold, Tensor] | None = None
    error: str | None = None


def boxes_of_map(
    score_map: Tensor,
    size: tuple[int, int],
    threshold: Threshold,
    contours: MapContours = "largest",
) -> Tensor:
    """The boxes of one map at one threshold.

    Args:
        score_map: (h, w), any finite values; resized bilinearly to 224 x 224, normalized, cut there.
        size: the image's width and height.
        threshold: a share of the map's maximum, in [0, 1); "otsu" or "mean".
        contours: whose boxes. "all" are those that `maxboxaccv2` counts, of holes too.

    Returns:
        (k, 4) float32 x0, y0, x1, y1 in pixels of the image, k = 1 but for "all"; the whole image where a map is
        constant.

    Raises:
        TypeError: a threshold that is neither a number nor a word.
        ValueError: one outside [0, 1), or another word; or a size that is not a width and a height.

    Example:
        >>> score_map = torch.zeros(224, 224)
        >>> score_map[56:112, 0:112] = 1
        >>> boxes_of_map(score_map, (448, 448), 0.5)
        tensor([[  0., 112., 224., 224.]])
    """
    sizes = list(size) if isinstance(size, Iterable) else []
    if len(sizes) != 2 or not all(isinstance(side, Real) for side in sizes):
        raise ValueError(f"size is {size!r}, it should be a width and a height")
    sides = torch.tensor([sizes])
    largest = boxes_of_maps(score_map[None], sides, threshold)
    if contours == "largest":
        return largest
    upsampled, cut = maps_as_cut(score_map[None], threshold)
    if not upsampled.any():  # constant
        return largest
    if contours == "all":
        boxes, _ = ops.extract_boxes(upsampled, cut, "all")
    else:
        boxes = ops.extract_boxes(upsampled, cut, contours)[0]
    return boxes.float() * sides.repeat(1, 2) / EVALUATED


def list_maps(inputs: Sequence[str | Path], images: str | Path | None = None) -> list[NamedMap]:
    """The score maps that files and folders name, and their images.

    Args:
        inputs: files that `read_score_map` reads, and folders of them.
        images: the folder of the images, named as `ScoreMaps` has it; None: no image is known. A map of no image
            there, or that may be of several, has an `error`.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: a folder without maps, two maps of one image, or no map of an image in the folder.
    """
    found: list[NamedMap] = []
    for given in inputs:
        path = Path(given).expanduser()
        if path.is_dir():
            found += [NamedMap(file, map_id(file, path)) for file in ScoreMaps(path).files]
        elif not path.exists():
            raise FileNotFoundError(f"{printable(path)}: no such file or folder")
        elif path.suffix.lower() not in MAP_SUFFIXES:
            suffixes = ", ".join(MAP_SUFFIXES)
            raise ValueError(f"{printable(path)}: no score map, a file of {suffixes}")
        else:
            found.append(NamedMap(path, map_id(path, path.parent)))
    if images is not None:
        _find_pictures(found, Path(images).expanduser())
    first: dict[str, Path] = {}
    for each in found:
        if each.error is not None:
            continue
        other = first.setdefault(each.image, each.path)
        if other is not each.path:
            raise ValueError(
                f"{printable(other)} and {printable(each.path)} are both maps of {each.image}"
            )
    return found


def _find_pictures(maps: Sequence[NamedMap], folder: Path) -> None:
    """Give each map its image, or an error."""
    pictures = {
        printable(path.relative_to(folder).as_posix()): path for path in find_images(folder)
    }
    stems: dict[str, list[str]] = {}
    for name in pictures:
        stems.setdefault(name.rpartition(".")[0] or name, []).append(name)
    for each in maps:
        names = [each.image] if each.image in pictures else stems.get(each.image, [])
        if len(names) > 1:
            each.error = f"{printable(each.path)}: is of no one image, {' or '.join(names)}"
        elif names:
            each.image, each.picture = names[0], pictures[names[0]]
        else:
            each.error = f"{printable(each.path)}: is of no image in {printable(folder)}"
    if all(each.error is not None for each in maps):  # another folder was meant
        raise ValueError(
            f"{printable(folder)}: none of the {len(maps)} score maps is of an image there: "
            f"{some([each.image for each in maps])}"
        )


def boxes_of_map_files(
    maps: Sequence[NamedMap],
    thresholds: Sequence[Threshold] = ("otsu",),
    contours: MapContours = "largest",
) -> Iterator[MapBoxes]:
    """The boxes of each map at each threshold; one that cannot be read, nor its picture, or of none, an `error`."""
    for each in maps:
        if each.error is not None:
            yield MapBoxes(each.image, error=each.error)
            continue
        try:
            score_map = read_score_map(each.path)
            height, width = score_map.shape
            size = (width, height) if each.picture is None else shown_size(each.picture, True)
        except (ScoreMapError, OSError) as error:
            yield MapBoxes(each.image, error=str(error))
            continue
        found = {at: boxes_of_map(score_map, size, at, contours) for at in thresholds}
        yield MapBoxes(each.image, size, found)


def write_map_boxes(path: str | Path, results: Sequence[MapBoxes]) -> None:
    """Write boxes as CSV or JSON, by the file's suffix, whole or not at all; results with an error are left out.

    A CSV file of one threshold has the columns `image,x0,y0,x1,y1`, which `FolderDataset` reads; one of several has a
    `threshold` too. JSON is a list of images with `image`, `width`, `height` and `boxes`, each with `threshold` and
    `box`.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written.
    """
    path = Path(path)
    read = [result for result in results if result.boxes is not None]
    if path.suffix.lower() == ".csv":
        one = all(len(result.boxes or {}) == 1 for result in read)
        columns = ["image", *([] if one else ["threshold"]), *_CORNERS]
        write_csv(
            path,
            [_row(result, each, columns) for result in read for each in _listed(result)],
            columns,
        )
    elif path.suffix.lower() == ".json":
        records = [
            {
                "image": result.image,
                "width": result.size[0],
                "height": result.size[1],
                "boxes": [
                    {"threshold": threshold, "box": box} for threshold, box in _listed(result)
                ],
            }
            for result in read
        ]
        write_json(path, records)
    else:
        raise ValueError(f"{path}: its suffix should be .csv or .json")


def _listed(result: MapBoxes) -> Iterator[tuple[Threshold, list[float]]]:
    """Each box with its threshold."""
    for threshold, boxes in (result.boxes or {}).items():
        for box in boxes.tolist():
            yield threshold, [round(value, 2) for value in box]


def _row(
    result: MapBoxes, found: tuple[Threshold, list[float]], columns: Iterable[str]
) -> dict[str, Any]:
    threshold, box = found
    row = {"image": result.image, "threshold": threshold, **dict(zip(_CORNERS, box, strict=True))}
    return {name: row[name] for name in columns}
