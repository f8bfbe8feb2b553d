"""From pictures to boxes: one's own images, with class names, as a COCO results file."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wsol_ext._files import write_json
from wsol_ext.data import ImageListDataset, Tolerant, collate, eval_transform
from wsol_ext.data.folder import find_images
from wsol_ext.data.tables import read_csv
from wsol_ext.metrics import single_boxes, to_score_maps

# The pictures that `wsol localize` writes, in the folder of its results.
_RESULT = re.compile(r"(overlays|parts)/[0-9]{6}_[^/]*\.png|clusters/[0-9a-f]{2}/[0-9a-f]{62}\.png")

_SIZE = 224  # the square on which maps are cut, as the published programs do


@dataclass
class Localization:
    """One object found in an image.

    Attributes:
        category: the class.
        score: its probability.
        box: (4,) float32 x0, y0, x1, y1, pixels of the image as stored.
        score_map: (h, w), on the model's patch grid.
    """

    category: int
    score: float
    box: Tensor
    score_map: Tensor


@dataclass
class ImageResult:
    """What came of one image: objects, best class first, or why it could not be read.

    Attributes:
        path: the image file.
        size: its width and height.
        objects: what was found.
        parts: the first object's map by each part of a method that has `parts`, (h, w) each on its own grid.
        segments: (h, w) int32, the segments that the object's map was drawn to, where there are any.
        error: why there is none of these.
    """

    path: Path
    size: tuple[int, int] = (0, 0)
    objects: list[Localization] = field(default_factory=list)
    parts: dict[str, Tensor] = field(default_factory=dict)
    segments: Tensor | None = None
    error: str | None = None


def boxes_of_maps(maps: Tensor, sizes: Tensor, threshold: float) -> Tensor:
    """The box of each map's largest contour, in pixels of its image.

    Args:
        maps: (B, h, w), any finite values on any grid; resized bilinearly to 224 x 224, normalized, cut there.
        sizes: (B, 2), the images' width and height.
        threshold: a share of each map's maximum, in [0, 1).

    Returns:
        (B, 4) float32 x0, y0, x1, y1; the whole image where a map is constant.

    Raises:
        ValueError: a threshold outside [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}, it should be in [0, 1)")
    upsampled = to_score_maps(maps.float(), _SIZE, "bilinear")
    boxes = single_boxes(upsampled, threshold).float()
    constant = upsampled.flatten(1).amax(dim=1, keepdim=True) == 0
    boxes = torch.where(constant, boxes.new_tensor([0.0, 0.0, _SIZE, _SIZE]), boxes)
    return boxes * sizes.to(boxes).repeat(1, 2) / _SIZE


def list_images(inputs: Sequence[str | Path], out: Path | None = None) -> list[Path]:
    """The images that files and folders name; folders are searched at any depth.

    Args:
        inputs: files and folders.
        out: a folder of results, whose own pictures are not taken when it lies in one of the folders.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: a folder without images, or no input.
    """
    found: list[Path] = []
    for given in inputs:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = [image for image in find_images(path) if not _is_result(image, out)]
            if not inside:
                raise ValueError(f"{path}: the folder has no image")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    if not found:
        raise ValueError("no image is given")
    return list(dict.fromkeys(found))


def _is_result(image: Path, out: Path | None) -> bool:
    """Whether a picture is one that an earlier `wsol localize` wrote to its folder."""
    if out is None:
        return False
    image, out = Path(os.path.abspath(image)), Path(os.path.abspath(out))
    return image.is_relative_to(out) and bool(_RESULT.fullmatch(str(image.relative_to(out))))


def localize_images(
    model: Any,
    paths: Sequence[Path],
    *,
    threshold: float = 0.1,
    top_k: int = 1,
    labels: dict[Path, int] | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str | torch.device = "cpu",
) -> Iterator[ImageResult]:
    """Localize the objects of image files, batch by batch, in the files' order.

    Args:
        model: a localization model, as `wsol_ext.checkpoints.load_model` gives it.
        paths: image files; one that cannot be read gives a result with an `error`.
        threshold: a share of each map's maximum, in [0, 1).
        top_k: how many of the best classes get a box each.
        labels: the class of each file, where known; boxes are then of that class alone.
        batch_size: images at a time.
        workers: processes that read images.
        device: where to compute.

    Raises:
        ValueError: a threshold or top_k outside its range.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}, it should be in [0, 1)")
    if not 1 <= top_k <= model.num_classes:
        raise ValueError(
            f"top_k is {top_k}, it should be 1 to the number of classes, {model.num_classes}"
        )
    dataset = ImageListDataset(list(paths), eval_transform(model.config["img_size"]))
    loader = DataLoader(
        Tolerant(dataset), batch_size=batch_size, num_workers=workers, collate_fn=collate
    )
    model.eval().to(device)
    for batch in loader:
        results = {
            index: ImageResult(paths[index], error=error) for index, error in batch["errors"]
        }
        if len(batch["indices"]):
            known = None if labels is None else [labels[paths[i]] for i in batch["indices"]]
            results |= _localize_batch(model, batch, paths, threshold, top_k, known, device)
        yield from (results[index] for index in sorted(results))


@torch.inference_mode()
def _localize_batch(
    model: Any,
    batch: dict[str, Any],
    paths: Sequence[Path],
    threshold: float,
    top_k: int,
    known: list[int] | None,
    device: str | torch.device,
) -> dict[int, ImageResult]:
    images, sizes = batch["images"].to(device), batch["sizes"].to(device)
    classes = None
    if known is not None:
        classes = torch.tensor(known, device=images.device)[:, None]
    elif top_k > 1:
        classes = model(images).topk(top_k, dim=1).indices
    found = model.localize_parts(images, classes=classes)
    logits, maps = found.whole
    classes = logits.argmax(dim=1, keepdim=True) if classes is None else classes
    scores = logits.float().softmax(dim=1).gather(1, classes).cpu()
    finite = maps.flatten(1).isfinite().all(dim=1) & logits.isfinite().all(dim=1)
    # One image's trouble is not the batch's.
    maps = torch.where(finite[:, None, None, None], maps, 0.0)
    boxes = torch.stack(
        [boxes_of_maps(maps[:, k], sizes, threshold) for k in range(maps.size(1))], 1
    )
    boxes, maps, classes = boxes.cpu(), maps.float().cpu(), classes.cpu()
    results = {}
    for row, index in enumerate(batch["indices"].tolist()):
        if not finite[row]:
            results[index] = ImageResult(
                paths[index], error=f"{paths[index]}: the model gave values that are not finite"
            )
            continue
        objects = [
            Localization(int(classes[row, k]), float(scores[row, k]), boxes[row, k], maps[row, k])
            for k in range(classes.size(1))
        ]
        width, height = batch["sizes"][row].tolist()
        parts = {name: part.maps[row, 0].float().cpu() for name, part in found.parts.items()}
        segments = None if found.segments is None else found.segments[row].cpu()
        results[index] = ImageResult(paths[index], (width, height), objects, parts, segments)
    return results


def read_labels(source: str, paths: Sequence[Path], class_names: Sequence[str]) -> dict[Path, int]:
    """The known class of each image.

    Args:
        source: "folder", where each image lies in a folder named as its class; or a CSV file whose first
            line is `image,class`, images named by path or by file name alone, classes by name.
        paths: the images.
        class_names: the model's classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a malformed line, an unknown class, or an image without one; file and line are named.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    if source == "folder":
        for path in paths:
            if path.parent.name not in numbers:
                raise ValueError(
                    f"{path}: its folder {path.parent.name!r} is no class of the model, which knows "
                    + _some(class_names)
                )
        return {path: numbers[path.parent.name] for path in paths}
    given = _read_label_file(Path(source), numbers)
    labels = {}
    for path in paths:
        label = given.get(str(path), given.get(path.name))
        if label is None:
            raise ValueError(f"{source}: has no line for {path}")
        labels[path] = label
    return labels


def _read_label_file(path: Path, numbers: dict[str, int]) -> dict[str, int]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such label file")
    labels: dict[str, int] = {}
    for row in read_csv(path, ("image", "class")):
        image, name = row.fields
        if name not in numbers:
            raise row.error(
                f"{name!r} is no class of the model, which knows {_some(list(numbers))}"
            )
        labels[image] = numbers[name]
    return labels


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def write_coco(
    results: Sequence[ImageResult], class_names: Sequence[str], folder: Path, root: Path
) -> None:
    """Write `boxes.json`, COCO results, and `dataset.json`, the images and categories they refer to.

    `COCO("dataset.json").loadRes("boxes.json")` of pycocotools reads them. Category k + 1 is class k; image ids count
    from 1; boxes are x, y, width, height in pixels of the image as stored.

    Args:
        results: as `localize_images` gives them; images that could not be read are left out.
        class_names: the model's classes.
        folder: where to write.
        root: the folder, as an absolute path, that file names are given relative to, where they lie below it.
    """
    images, found = [], []
    for number, result in enumerate(results, start=1):
        if result.error is not None:
            continue
        path = Path(os.path.abspath(result.path))  # links are not followed
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
        width, height = result.size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for one in result.objects:
            x0, y0, x1, y1 = (round(float(v), 2) for v in one.box)
            found.append(
                {
                    "image_id": number,
                    "file_name": name,
                    "category_id": one.category + 1,
                    "category": class_names[one.category],
                    "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                    "score": round(one.score, 6),
                }
            )
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(class_names)]
    write_json(
        folder / "dataset.json",
        {"info": {}, "images": images, "categories": categories, "annotations": []},
    )
    write_json(folder / "boxes.json", found)
